"""The imports of all commands, done once by the process that forks them."""

import pytorch_lightning  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401

import ldm.commands.dreambooth
import ldm.commands.sampling
import ldm.commands.train  # noqa: F401
