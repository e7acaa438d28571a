"""A DreamBooth training as `dreambooth.py` runs it, with Lightning and all callbacks, of which some steps are timed."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.tools.measuring import synchronize
from benchmarks.tools.sizes import Size
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.runtime.compiling import step_capture
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from ldm.training.trainer import FitOptions, fit

SUBJECT = Subject("can")
PHOTOS, CLASS_IMAGES = 5, 20


class EnoughError(Exception):
    """All steps that were to be timed are done."""


class TimedDreamBooth(DreamBooth):
    """Stops after `warmup` + `timed` updates; `seconds` is how long one of the latter took on average."""

    warmup, timed = 1, 1
    seconds = 0.0

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        done = self.trainer.global_step
        if done == self.warmup:
            synchronize(self.device)
            self._began = time.perf_counter()
        if done == self.warmup + self.timed:
            synchronize(self.device)
            self.seconds = (time.perf_counter() - self._began) / self.timed
            raise EnoughError


def random_moments(size: Size, count: int) -> Tensor:
    """Random moments in the place of those of `count` images and their mirror images: (count 2 2c h w)."""
    channels, height, width = size.settings.model.latent_shape(size.pixels, size.pixels)
    generator = torch.Generator().manual_seed(count)
    mean = torch.randn(count, 2, channels, height, width, generator=generator)
    return torch.cat([mean, torch.full_like(mean, -8.0)], dim=2)


def training_config(size: Size, **changes: Any) -> DreamBoothConfig:
    """The model's defaults, 1 + 1 images a step, without a save before update 1000 unless `changes` say so."""
    return replace(size.settings.dreambooth, **{"iterations": 1000, "save_every": 1000, "batch_size": 1, **changes})


Module = TypeVar("Module", bound=DreamBooth)


@contextmanager
def training_of(kind: type[Module], ldm: LatentDiffusion, size: Size, config: DreamBoothConfig) -> Iterator[Module]:
    """A training of these weights on encoded latents; it frees all gradients at the end."""
    device = ldm.device
    moments = random_moments(size, PHOTOS), random_moments(size, CLASS_IMAGES)
    try:
        yield kind(ldm, SUBJECT, *moments, config, seed=0)
    finally:
        ldm.requires_grad_(False)
        for parameter in ldm.parameters():
            parameter.grad = None
        ldm.to(device)  # parts that do not train may be offloaded


def fit_options(directory: Path, device: torch.device, autocast: torch.dtype | None) -> FitOptions:
    """As the command fills them in."""
    return FitOptions(directory, [device], autocast, "tensorboard", step_capture([device]))


def time_steps(
    ldm: LatentDiffusion, size: Size, config: DreamBoothConfig, autocast: torch.dtype | None, warmup: int, timed: int
) -> float:
    """Begins a training of `ldm`, stops it, and returns the seconds of a step."""

    def fail(module: DreamBooth, step: int) -> None:
        raise AssertionError("nothing should be saved while steps are timed")

    with (
        tempfile.TemporaryDirectory() as directory,
        training_of(TimedDreamBooth, ldm, size, config) as module,
        contextlib.suppress(EnoughError),
    ):
        module.warmup, module.timed = warmup, timed
        fit(module, fit_options(Path(directory), ldm.device, autocast), fail)
    return module.seconds
