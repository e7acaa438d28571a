"""Sheets of images as files."""

from pathlib import Path

from PIL import Image

from ldm.data.images import save_png
from ldm.files import atomic_path


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """As PNG or, by any other suffix, as JPEG."""
    if path.suffix == ".png":
        save_png(path, sheet)
        return
    with atomic_path(path) as partial:
        sheet.save(partial, format="JPEG", quality=88)
