"""Images encoded once, for all runs with the same autoencoder and images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm.checkpoint.loading import load_part
from ldm.checkpoint.reading import CheckpointFile
from ldm.checkpoint.saving import hash_part
from ldm.commands.train.checks import latents_dir
from ldm.commands.train.run import TrainingRun
from ldm.data.latents import earlier_latents_key, latents_key, open_moments, write_moments
from ldm.leftovers import remove_leftovers
from ldm.nn.autoencoder import AutoencoderKL
from ldm.processes import is_helper_process

log = logging.getLogger(__name__)


def encoded(run: TrainingRun, file: CheckpointFile, paths: Sequence[Path], size: int, flip: bool) -> np.ndarray:
    """The moments of all images (n v 2c h w), from an earlier run's file if there is one."""
    precision = str(run.compute.autocast_dtype or run.compute.dtype)
    sha256, encoding = hash_part(file.tensors, "autoencoder"), (size, flip, precision)
    path = latents_dir(run.options) / f"{latents_key(sha256, paths, run.options.image_dir, *encoding)}.npy"
    earlier = path.with_stem(earlier_latents_key(sha256, paths, *encoding))
    path = earlier if earlier.exists() and not path.exists() else path
    if not is_helper_process():
        remove_leftovers(path.parent)
    if not path.exists() and not is_helper_process():
        log.info("encoding %d images into %s", len(paths), path)
        autoencoder = AutoencoderKL(run.settings.model.autoencoder)
        load_part(autoencoder, "autoencoder", file)
        with run.compute.autocast():
            write_moments(path, autoencoder.to(run.device), paths, size, flip)
    return open_moments(path)
