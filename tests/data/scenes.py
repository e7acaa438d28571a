"""Small images of tests, and their pixels."""

from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def scene(height: int = 6, width: int = 9) -> Image.Image:
    """An image of which no two pixels are the same."""
    values = np.arange(height * width).reshape(height, width)
    return Image.fromarray(np.stack([values, 255 - values, values // 2 + 40], axis=-1).astype(np.uint8))


def pixels(image: Image.Image) -> list[Any]:
    assert image.mode == "RGB"
    return np.asarray(image).tolist()
