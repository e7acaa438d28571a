"""Sampled images as a notebook shows them."""

import io
import reprlib
from collections.abc import Sequence
from typing import overload

from PIL import Image
from torch import Tensor

from ldm.errors import UserError
from ldm.report.grid import labelled_grid


def image_grid(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> Image.Image:
    """One image of rows of images, with labels beside the rows and above the columns. A cell may be None.

    Small images are enlarged. Raises `UserError` if a row or label is missing, or is of another kind.
    """
    _raise_unless_images(rows)
    row_labels = [""] * len(rows) if row_labels is None else row_labels
    columns = len(rows[0])
    column_labels = [""] * columns if column_labels is None else column_labels
    for name, labels in (("row_labels", row_labels), ("column_labels", column_labels)):
        is_list = isinstance(labels, Sequence) and not isinstance(labels, str)
        if not (is_list and all(isinstance(label, str) for label in labels)):
            raise UserError(f"{name} should be a list of texts, not {reprlib.repr(labels)}")
    if any(len(row) != columns for row in rows) or len(row_labels) != len(rows) or len(column_labels) != columns:
        raise UserError(
            f"a grid needs rows of equal length and a label for each: here are rows of {[len(row) for row in rows]} "
            f"images, {len(row_labels)} row labels and {len(column_labels)} column labels"
        )
    return labelled_grid(rows, row_labels, column_labels)


def _raise_unless_images(rows: object) -> None:
    """Raises `UserError` unless these are rows of images, of which at least one is there."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise UserError(f"a grid is made of rows of images, [[image, image], [image, image]], not {_kind(rows)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Sequence) or isinstance(row, str | bytes):
            raise UserError(
                f"row {number} of a grid should be a list of images, not {_kind(row)}; a single row is [[image, image]]"
            )
        for cell in row:
            if not isinstance(cell, Image.Image | None):
                raise UserError(
                    f"row {number} of a grid should hold PIL images or None, not {_kind(cell)}; Model.decode makes "
                    "images of latents"
                )
    if not any(cell for row in rows for cell in row):
        raise UserError("a grid needs at least one image")


def _kind(value: object) -> str:
    return type(value).__name__


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


class Samples(Sequence[Image.Image]):
    """The images that one call sampled: a sequence, by prompt and then by seed. Jupyter shows them as a grid."""

    def __init__(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        seeds: Sequence[int],
        latents: Tensor,
        pred_x0: Tensor | None,
    ) -> None:
        self.images = list(images)
        self.prompts = list(prompts)
        """Of each image, with the class filled in."""
        self.seeds = list(seeds)
        """Of each image."""
        self.latents = latents
        """(b 4 h/8 w/8) float32 on the CPU, scaled: what `Model.decode` made the images of."""
        self.pred_x0 = pred_x0
        """(steps b 4 h/8 w/8) float32 on the CPU, scaled: the clean latents as predicted in each step; None unless
        they were requested by `keep_steps=True`."""

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        width, height = self.images[0].size
        prompts, seeds = [*dict.fromkeys(self.prompts)], [*dict.fromkeys(self.seeds)]
        return f"Samples({len(self)} of {width} x {height} pixels, prompts={prompts}, seeds={seeds})"

    def grid(self) -> Image.Image:
        """All images in one: a row for each prompt, a column for each seed."""
        columns = len(dict.fromkeys(self.seeds))
        rows = [self.images[start : start + columns] for start in range(0, len(self), columns)]
        return labelled_grid(rows, self.prompts[::columns], [f"seed {seed}" for seed in self.seeds[:columns]])

    def _repr_png_(self) -> bytes:
        return png_bytes(self.grid())
