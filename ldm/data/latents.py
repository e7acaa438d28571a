"""Pictures encoded beforehand: the posterior's parameters in one file, mapped, however many there are."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ldm.data.images import fit, read_image, to_tensor
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.nn.autoencoder import AutoencoderKL, DiagonalGaussian
from ldm.progress import each

log = logging.getLogger(__name__)

BATCH_SIZE = 16


def latents_key(autoencoder_sha256: str, paths: Sequence[Path], size: int, flip: bool, precision: str) -> str:
    """A name for the latents of these files: another autoencoder, other files, size or precision give others."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([autoencoder_sha256, files, size, flip, precision]).encode()).hexdigest()[:16]


@torch.inference_mode()
def write_moments(path: Path, autoencoder: AutoencoderKL, images: Sequence[Path], size: int, flip: bool) -> None:
    """Encodes files, cropped to size x size, into a .npy file (n v 2c h w) float16; v = 2 with mirror images."""
    config, weight = autoencoder.config, autoencoder.quant_conv.weight
    side = size // config.downsampling_factor
    shape = (len(images), 1 + flip, 2 * config.embed_dim, side, side)
    try:
        with atomic_path(path) as partial:
            moments = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            starts = range(0, len(images), BATCH_SIZE)
            for start in each(starts, len(starts), "encoding", "batch"):
                batch = [to_tensor(fit(read_image(file), size, size)) for file in images[start : start + BATCH_SIZE]]
                pictures = torch.stack(batch).to(weight)
                views = torch.stack([pictures, pictures.flip(-1)], dim=1) if flip else pictures[:, None]
                encoded = autoencoder.encode(rearrange(views, "b v c h w -> (b v) c h w")).parameters.half()
                if not encoded.isfinite().all():
                    names = f"{images[start].name} to {images[start + len(batch) - 1].name}"
                    raise UserError(f"the autoencoder's latents of {names} are not finite in half precision")
                moments[start : start + len(batch)] = rearrange(
                    encoded.cpu().numpy(), "(b v) c h w -> b v c h w", v=1 + flip
                )
            moments.flush()
    except ValueError as error:
        raise UserError(f"could not write {path}: {error}") from error


def open_moments(path: Path) -> np.memmap:
    """The moments that `write_moments` wrote, mapped: only what is looked at is read."""
    moments: np.memmap = np.load(path, mmap_mode="r")
    return moments


def measure_scale_factor(moments: np.ndarray, count: int = 4096) -> float:
    """1 / the standard deviation of the first latents (arXiv 2112.10752, appendix G): scaled, they have variance 1."""
    posterior = DiagonalGaussian(torch.from_numpy(np.array(moments[:count, 0])).float())
    variance = posterior.mean.var() + posterior.std.square().mean()
    return float(variance.rsqrt())


def moments_at(moments: np.ndarray, index: int, view: int) -> Tensor:
    """One picture's moments (2c h w) float32."""
    return torch.from_numpy(np.array(moments[index, view], dtype=np.float32))
