"""Made-up photos and class images for the reference to read from the disk."""

from pathlib import Path

import torch
from PIL import Image


def write_images(directory: Path, count: int, pixels: int) -> Path:
    """JPEG files of soft colours, `pixels` on a side, which take about as long to decode as photos. Their directory."""
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        coarse = torch.randint(256, (max(2, pixels // 8), max(2, pixels // 8), 3), generator=generator)
        image = Image.fromarray(coarse.to(torch.uint8).numpy()).resize((pixels, pixels), Image.Resampling.BICUBIC)
        image.save(directory / f"{index:05d}.jpg", quality=95)
    return directory
