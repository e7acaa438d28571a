"""A device whose memory is too small, told as what would fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ldm.errors import UserError


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turns the device's out-of-memory error into one that says what would fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device's memory is too small for this: {advice}") from error
