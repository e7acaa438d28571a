"""How well two images agree as pixels after one is moved, mirrored and scaled to fit the other best.

Both are small, soft thumbnails, because edges and textures are what differs first in a copy from a model's memory. The
measure is the normalised cross-correlation over the region where the two overlap: with p and q the pixels' deviations
from each colour's mean in that region, sum(p q) / sqrt(sum(p p) sum(q q)). It ignores brightness and contrast. All
shifts are computed at once by Fourier transforms ("Masked Object Registration in the Fourier Domain", Padfield, 2012).
"""

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

SIDE = 32
"""Pixels on a side of the thumbnails."""
SCALES = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Sizes of the photo relative to the image."""
LARGEST_SHIFT = 6
"""Pixels between the two centres in each direction, at most."""
SMALLEST_OVERLAP = 0.6
"""The overlap as a share of the image's area, at least; correlations of smaller regions mean little."""
FLAT = 0.02
"""A region whose values in [-1, 1] vary by less, as a standard deviation, agrees with nothing."""
PERIOD = 48
"""The period of the transforms. An image and a photo at the largest shift span less, so nothing wraps around."""
AT_A_TIME = 32


def thumbnails(images: Tensor) -> Tensor:
    """(b 3 SIDE SIDE) float32 of images (b 3 h w) in [-1, 1]: averaged over small areas, not sampled."""
    if not len(images):
        return torch.zeros(0, 3, SIDE, SIDE)
    return F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).cpu()


@torch.inference_mode()
def aligned_correlation(images: Tensor, photos: Tensor) -> Tensor:
    """The best correlation of thumbnails (b 3 SIDE SIDE) with thumbnails (n 3 SIDE SIDE): (b n) in [-1, 1]."""
    if not (len(images) and len(photos)):  # some builds of the Fourier transform fail on an empty batch
        return images.new_zeros(len(images), len(photos))
    either_way = torch.cat([photos, photos.flip(-1)])
    best = images.new_full((len(images), len(either_way)), -1.0)
    for scale in SCALES:
        side = round(SIDE * scale)
        scaled = F.interpolate(either_way, (side, side), mode="bilinear", antialias=True)
        for part, found in zip(images.split(AT_A_TIME), best.split(AT_A_TIME), strict=True):
            torch.maximum(found, _best_shift(part, scaled), out=found)
    plain, mirrored = best.chunk(2, dim=1)
    return torch.maximum(plain, mirrored).clamp(-1.0, 1.0)


def _best_shift(images: Tensor, photos: Tensor) -> Tensor:
    """The largest correlation over all shifts of images (b 3 SIDE SIDE) and photos (n 3 side side): (b n)."""
    side = photos.shape[-1]
    # The deviations of a region don't depend on it, but rounding errors grow with the mean.
    p, q = (some - some.mean(dim=(-2, -1), keepdim=True) for some in (images, photos))
    image_mask, photo_mask = (_transform(torch.ones(1, 1, size, size)) for size in (SIDE, side))
    p_hat, q_hat = _transform(p), _transform(q)

    area = _correlate(image_mask, photo_mask, side)[0, 0]
    p_sum, q_sum = _correlate(p_hat, photo_mask, side), _correlate(image_mask, q_hat, side)
    p_variation = _correlate(_transform(p.square()), photo_mask, side) - p_sum.square() / area
    q_variation = _correlate(image_mask, _transform(q.square()), side) - q_sum.square() / area
    products = _correlate(einsum(p_hat, q_hat.conj(), "b c y x, n c y x -> b n y x"), None, side)
    covariation = products - einsum(p_sum, q_sum / area, "b c y x, n c y x -> b n y x")

    flat = FLAT**2 * 3 * area
    p_total, q_total = p_variation.sum(dim=1)[:, None], q_variation.sum(dim=1)[None]
    varied = (p_total > flat) & (q_total > flat)
    correlation = covariation / (p_total * q_total).clamp_min(1e-12).sqrt()
    correlation = torch.where(varied, correlation, 0.0)
    return correlation[..., area.round() >= SMALLEST_OVERLAP * SIDE**2].amax(dim=-1)


def _transform(values: Tensor) -> Tensor:
    return torch.fft.rfft2(values, (PERIOD, PERIOD))


def _correlate(image_hat: Tensor, photo_hat: Tensor | None, side: int) -> Tensor:
    """Sums of products of transformed images with photos of `side` pixels, by the shift of the centres (... s s)."""
    product = image_hat if photo_hat is None else image_hat * photo_hat.conj()
    sums = torch.fft.irfft2(product, (PERIOD, PERIOD))
    middle = (SIDE - side) // 2
    offsets = torch.arange(middle - LARGEST_SHIFT, middle + LARGEST_SHIFT + 1) % PERIOD
    return sums[..., offsets[:, None], offsets]
