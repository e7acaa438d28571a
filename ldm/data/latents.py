"""Images encoded beforehand: the posterior's parameters in one file, mapped, however many there are."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ldm.data.images import fit, read_image, to_tensor
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from ldm.progress import each

log = logging.getLogger(__name__)

BATCH_SIZE = 16


def latents_key(autoencoder_sha256: str, paths: Sequence[Path], size: int, flip: bool, precision: str) -> str:
    """A name for the latents of these files: another autoencoder, other files, size or precision give others."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([autoencoder_sha256, files, size, flip, precision]).encode()).hexdigest()[:16]


def moments_bytes(autoencoder: AutoencoderConfig, count: int, size: int, flip: bool) -> int:
    """What `write_moments` writes for so many images, without the file's head."""
    return 2 * math.prod(_shape(autoencoder, count, size, flip))


def _shape(config: AutoencoderConfig, count: int, size: int, flip: bool) -> tuple[int, ...]:
    side = size // config.downsampling_factor
    return count, 1 + flip, 2 * config.embed_dim, side, side


@torch.inference_mode()
def write_moments(path: Path, autoencoder: AutoencoderKL, paths: Sequence[Path], size: int, flip: bool) -> None:
    """Encodes files, cropped to size x size, into a .npy file (n v 2c h w) float16; v = 2 with mirror images."""
    shape = _shape(autoencoder.config, len(paths), size, flip)
    weight = autoencoder.quant_conv.weight
    # Written piece by piece: in a file that is mapped, a full disk is a signal that ends the process without a word.
    with (
        atomic_path(path, moments_bytes(autoencoder.config, len(paths), size, flip)) as partial,
        partial.open("wb") as file,
    ):
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        starts = range(0, len(paths), BATCH_SIZE)
        for start in each(starts, len(starts), "encoding", "batch"):
            batch = [to_tensor(fit(read_image(path, size), size, size)) for path in paths[start : start + BATCH_SIZE]]
            images = torch.stack(batch).to(weight)
            views = torch.stack([images, images.flip(-1)], dim=1) if flip else images[:, None]
            encoded = autoencoder.encode(rearrange(views, "b v c h w -> (b v) c h w")).parameters.half()
            if not encoded.isfinite().all():
                names = f"{paths[start].name} to {paths[start + len(batch) - 1].name}"
                raise UserError(f"the autoencoder's latents of {names} are not finite in half precision")
            file.write(encoded.cpu().numpy().tobytes())  # (b v) c h w, as they lie in the file


def open_moments(path: Path) -> np.memmap:
    """The moments that `write_moments` wrote, mapped: only what is looked at is read."""
    try:
        moments: np.memmap = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the encoded images {path} can't be read ({error}); delete the file, and they are encoded again"
        ) from error
    return moments


def measure_scale_factor(moments: np.ndarray, count: int = 4096) -> float:
    """1 / the standard deviation of the first latents (arXiv 2112.10752, appendix G): scaled, they have variance 1."""
    posterior = DiagonalGaussian(torch.from_numpy(np.array(moments[:count, 0])).float())
    variance = posterior.mean.var() + posterior.std.square().mean()
    return float(variance.rsqrt())


def moments_at(moments: np.ndarray, index: int, view: int) -> Tensor:
    """One image's moments (2c h w) float32."""
    return torch.from_numpy(np.array(moments[index, view], dtype=np.float32))
