"""Class images for prior preservation: sampled once by the base model, and kept for all runs that need the same."""

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.data.images import read_image
from ldm.data.writing import ImageWriter
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import SamplingConfig, decode_images, sample_latents
from ldm.errors import UserError
from ldm.files import slug, write_text

log = logging.getLogger(__name__)

DIRECTORY = "class-images"
"""The name of their directory, which is beside the runs."""
BATCHES_WAITING = 2
"""Batches that wait in memory to be written, at most."""


@dataclass(frozen=True)
class ClassImages:
    """A cache directory below `root` for images of `prompt`; another value of any field gives another directory."""

    root: Path
    prompt: str
    base_sha256: str
    sampling: SamplingConfig
    seed: int
    precision: str
    tokenizer: str
    """SHA-256 of the tokenizer's files."""
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, object]:
        """Everything that an image depends on."""
        return {
            "base_sha256": self.base_sha256,
            "prompt": self.prompt,
            "sampling": self.sampling.key(),
            "seed": self.seed,
            "precision": self.precision,
            "tokenizer": self.tokenizer,
            "model": self.model,
        }

    @property
    def directory(self) -> Path:
        """The cache directory, named by the prompt and a digest of the key."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"{slug(self.prompt)}-{digest}"

    def found_in(self, roots: Iterable[Path]) -> "ClassImages":
        """The same cache below the first root that has it; if none has, below the first."""
        choices = [replace(self, root=root) for root in roots]
        return next((one for one in choices if one.directory.is_dir()), choices[0])

    def path(self, index: int) -> Path:
        """The file of image `index`, sampled with the seed `seed` + `index`."""
        return self.directory / f"{index:05d}.png"

    def paths(self, count: int) -> list[Path]:
        """The files of the first `count` images."""
        return [self.path(index) for index in range(count)]

    def missing(self, count: int) -> list[int]:
        """Indices below `count` without an image, or with a damaged one, of which it warns.

        On a CPU an image that is sampled again has the same bits.
        """
        return [index for index in range(count) if not self._is_good(index)]

    def _is_good(self, index: int) -> bool:
        path = self.path(index)
        if not path.exists():
            return False
        try:
            size = read_image(path).size
        except UserError as error:
            log.warning("%s; sampling it again", error)
            return False
        if size != (self.sampling.width, self.sampling.height):
            log.warning("%s is %d x %d pixels; sampling it again", path, *size)
            return False
        return True

    def sample(
        self,
        ldm: LatentDiffusion,
        indices: list[int],
        batch_size: int,
        on_step: Callable[[], object] | None = None,
        workers: WorkerPool = WorkerPool(),
        one_network_at_a_time: bool = False,
    ) -> Generator[Path, None, None]:
        """Samples the images of these indices in batches; yields each path when its image is sampled.

        Threads write them while the next batch is sampled. When the iterator ends or is closed, all are written.
        `one_network_at_a_time`: UNet and autoencoder each run while the others wait on the host, for a device with
        little memory; with one worker.
        """
        alone = ldm.alone if one_network_at_a_time else nullcontext
        write_text(self.directory / "settings.json", json.dumps(self.key, indent=2) + "\n")
        with torch.inference_mode():
            context, uncond_context = ldm.encode_prompts([self.prompt]), ldm.encode_prompts([""])

        def after_step(step: int, latents: Tensor, pred_x0: Tensor) -> None:
            if on_step:
                on_step()

        def sample_batch(batch: list[int]) -> Tensor:
            size, seeds = len(batch), [self.seed + index for index in batch]
            guidance = classifier_free(context.expand(size, -1, -1), uncond_context, self.sampling.guidance_scale)
            with alone(ldm.unet):
                latents = sample_latents(ldm, guidance, seeds, self.sampling, callback=after_step)
            with alone(ldm.autoencoder):
                return decode_images(ldm, latents)

        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        with (
            ImageWriter(BATCHES_WAITING * batch_size) as writer,
            closing(workers.map(batches, sample_batch)) as results,
        ):
            for batch, images in results:
                for index, image in zip(batch, images, strict=True):
                    writer.put(self.path(index), image, {"prompt": self.prompt, "seed": self.seed + index})
                    yield self.path(index)
