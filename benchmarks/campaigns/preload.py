"""What all commands import, imported once by the process of which they are forks."""

import pytorch_lightning  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401

import ldm.commands.dreambooth
import ldm.commands.sampling
import ldm.commands.train  # noqa: F401
