"""Images encoded before training, as the parameters of their posteriors: in memory, or in a file that is mapped."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ldm.data.images import read_ahead
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from ldm.progress import each

BATCH_SIZE = 16
"""Images that `write_moments` encodes at a time, each with its mirror image."""


def latents_key(
    autoencoder_sha256: str, paths: Sequence[Path], directory: Path, size: int, flip: bool, precision: str
) -> str:
    """A name for the latents of these files: another autoencoder, other files, size or precision give another name.

    Files are known by their names below `directory`, sizes and times of change, so that the directory may move.
    """
    stats = [(os.path.relpath(path, directory), path.stat()) for path in paths]
    files = [(name, stat.st_size, int(stat.st_mtime)) for name, stat in stats]  # archives store whole seconds
    return _key(autoencoder_sha256, files, size, flip, precision)


def earlier_latents_key(autoencoder_sha256: str, paths: Sequence[Path], size: int, flip: bool, precision: str) -> str:
    """The name that earlier versions gave, in which files are known by their whole paths."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return _key(autoencoder_sha256, files, size, flip, precision)


def _key(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def moments_bytes(autoencoder: AutoencoderConfig, count: int, size: int, flip: bool) -> int:
    """The size of a file by `write_moments`, without its header."""
    return 2 * math.prod(_shape(autoencoder, count, size, flip))


def _shape(config: AutoencoderConfig, count: int, size: int, flip: bool) -> tuple[int, ...]:
    side = size // config.downsampling_factor
    return count, 1 + flip, 2 * config.embed_dim, side, side


def _encoded(autoencoder: AutoencoderKL, images: Iterable[Tensor], flip: bool, batch_size: int) -> Iterator[Tensor]:
    """Posterior parameters (b 2c h/f w/f) of images (3 h w), each followed by its mirror image if `flip`."""
    weight = autoencoder.quant_conv.weight
    views = (view for image in images for view in ((image, image.flip(-1)) if flip else (image,)))
    while batch := list(islice(views, batch_size)):
        yield autoencoder.encode(torch.stack(batch).to(weight)).parameters


@torch.inference_mode()
def encode_moments(autoencoder: AutoencoderKL, images: Iterable[Tensor], flip: bool, batch_size: int = 1) -> Tensor:
    """Posterior parameters of images (3 h w) in [-1, 1]: (n v 2c h/f w/f) float32 on the CPU; v = 2 with mirror images.

    `batch_size` counts images and mirror images. With 1, an image's parameters don't depend on the other images.
    """
    # Copied at the end: until then a GPU computes while the next images are read.
    encoded = [one.float() for one in _encoded(autoencoder, images, flip, batch_size)]
    return rearrange(torch.cat([one.cpu() for one in encoded]), "(n v) c h w -> n v c h w", v=1 + flip)


@torch.inference_mode()
def write_moments(path: Path, autoencoder: AutoencoderKL, paths: Sequence[Path], size: int, flip: bool) -> None:
    """`encode_moments` of files, cropped to size x size, into a .npy file (n v 2c h/f w/f) float16.

    Raises `UserError` for a file that is no readable image, latents that overflow, and a full disk.
    """
    shape = _shape(autoencoder.config, len(paths), size, flip)
    # Written piece by piece: with a mapped file, a full disk would kill the process by a signal.
    with (
        atomic_path(path, moments_bytes(autoencoder.config, len(paths), size, flip)) as partial,
        partial.open("wb") as file,
        closing(read_ahead(paths, size, size)) as read,
    ):
        images = each(read, len(paths), "encoding", "img")
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for number, parameters in enumerate(_encoded(autoencoder, images, flip, BATCH_SIZE * (1 + flip))):
            moments = parameters.half()
            if not moments.isfinite().all():
                names = [one.name for one in paths[number * BATCH_SIZE :][:BATCH_SIZE]]
                raise UserError(
                    f"the autoencoder's latents of {names[0]} to {names[-1]} are not finite in half precision"
                )
            file.write(moments.cpu().numpy().tobytes())  # the file's order is (n v) c h w


def open_moments(path: Path) -> np.memmap:
    """The file of `write_moments`, memory-mapped. Raises `UserError` if it can't be read."""
    try:
        moments: np.memmap = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the encoded images {path} can't be read ({error}); delete the file to encode them again"
        ) from error
    return moments


def measure_scale_factor(moments: np.ndarray, count: int = 4096) -> float:
    """1 / the standard deviation of the first `count` latents: scaled by it, they have variance 1.

    arXiv 2112.10752, appendix G.
    """
    posterior = DiagonalGaussian(torch.from_numpy(np.array(moments[:count, 0])).float())
    variance = posterior.mean.var() + posterior.std.square().mean()
    return float(variance.rsqrt())


def moments_at(moments: np.ndarray, index: int, view: int) -> Tensor:
    """One image's moments (2c h w) float32."""
    return torch.from_numpy(np.array(moments[index, view], dtype=np.float32))
