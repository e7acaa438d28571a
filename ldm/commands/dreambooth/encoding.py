"""Photos and class images as a training sees them: encoded once, before it begins."""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from ldm.data.dreambooth import encode_moments
from ldm.data.images import fit, read_image, to_tensor
from ldm.nn.autoencoder import AutoencoderKL
from ldm.processes import is_helper_process
from ldm.progress import each
from ldm.runtime.devices import Compute

ENCODED_PIXELS = 2 * 512 * 512
"""So many are encoded at a time on a GPU: a picture of 512 x 512 and its mirror image are work enough for one."""
READERS, AHEAD = 4, 8
"""Threads that read images, and how many of these wait in memory at most."""


def encode_photos(autoencoder: AutoencoderKL, images: Tensor, flip: bool, compute: Compute) -> Tensor:
    """Moments (n v 2c h/8 w/8) of images (n 3 h w) in [-1, 1]."""
    with encoding_arithmetic(compute):
        return encode_moments(autoencoder, images, flip, views_together(compute.device, *images.shape[2:]))


def encode_files(
    autoencoder: AutoencoderKL, paths: Sequence[Path], size: tuple[int, int], flip: bool, compute: Compute
) -> Tensor:
    """Moments (n v 2c h/8 w/8) of the images in these files, cropped to size (height, width)."""
    images = each(read_ahead(paths, *size), len(paths), "encoding", "img", silent=is_helper_process())
    with encoding_arithmetic(compute):
        return encode_moments(autoencoder, images, flip, views_together(compute.device, *size))


def encoding_arithmetic(compute: Compute) -> AbstractContextManager[object]:
    """The training's own, unless that is float16, in which numbers of some autoencoders overflow: then float32."""
    return contextlib.nullcontext() if compute.autocast_dtype == torch.float16 else compute.autocast()


def views_together(device: torch.device, height: int, width: int) -> int:
    """How many images or mirror images are encoded at a time: on a CPU one, whose bits no other is to change."""
    return max(1, ENCODED_PIXELS // (height * width)) if device.type == "cuda" else 1


def read_ahead(paths: Sequence[Path], height: int, width: int) -> Iterator[Tensor]:
    """Images (3 height width) in [-1, 1], in their order; threads read the next meanwhile."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        waiting: deque[Future[Tensor]] = deque()
        for path in paths:
            waiting.append(pool.submit(_read, path, height, width))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(path: Path, height: int, width: int) -> Tensor:
    return to_tensor(fit(read_image(path), height, width))
