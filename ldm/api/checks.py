"""Checks of arguments that no flag has: seeds and timesteps."""

import reprlib

import torch
from torch import Tensor

from ldm.errors import UserError


def raise_unless_seed(seed: object) -> None:
    """Raises `UserError` unless it can seed a generator."""
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed should be a whole number from 0 on, not {reprlib.repr(seed)}")


def whole_numbers(timesteps: object) -> Tensor:
    """One or several timesteps as int64 (n)."""
    try:
        steps = torch.as_tensor(timesteps).reshape(-1)
        is_whole = len(steps) > 0 and not (steps.is_floating_point() or steps.is_complex() or steps.dtype == torch.bool)
    except (TypeError, ValueError, RuntimeError):
        is_whole = False
    if not is_whole:
        raise UserError(f"timesteps should be a whole number or several, not {reprlib.repr(timesteps)}")
    return steps.to(torch.int64)
