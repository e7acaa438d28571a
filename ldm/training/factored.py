"""A second moment of a matrix as a row times a column: r + c numbers in place of r c (arXiv 1804.04235, section 3)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def factored_state(matrix: Tensor, prefix: str = "") -> dict[str, Tensor]:
    """The means of the rows (r 1) and of the columns (c,) of a matrix, zero at first; of one row only the second."""
    rows, columns = matrix.shape
    state = {f"{prefix}columns": torch.zeros(columns, dtype=torch.float32, device=matrix.device)}
    if rows > 1:
        state[f"{prefix}rows"] = torch.zeros(rows, 1, dtype=torch.float32, device=matrix.device)
    return state


class InverseRoot:
    """One over the root of a factored moment: values times `of(rows)` are normalised by it."""

    def __init__(self, rows: Tensor | None, columns: Tensor) -> None:
        self._rows = None if rows is None else (rows / rows.mean()).rsqrt_()
        self._columns = columns.rsqrt()

    def normalise_(self, values: Tensor, rows: slice) -> Tensor:
        """Divides values of these rows by the moment's root, in place."""
        if self._rows is not None:
            values.mul_(self._rows[rows])
        return values.mul_(self._columns)


def update_factored(
    state: dict[str, Any],
    squares: Callable[[slice], Tensor],
    chunks: Sequence[slice],
    change: float,
    prefix: str = "",
) -> InverseRoot:
    """Moves a moment by the share `change` towards what `squares(rows)` returns; the chunks are ranges of rows."""
    count, columns = chunks[-1].stop, state[f"{prefix}columns"]
    row_means = torch.empty(count, 1, device=columns.device)
    column_means = torch.zeros_like(columns)
    for rows in chunks:
        values = squares(rows)
        row_means[rows] = values.mean(dim=1, keepdim=True)
        column_means.add_(values.sum(dim=0), alpha=1 / count)
        del values
    columns.lerp_(column_means, change)
    moment: Tensor | None = state.get(f"{prefix}rows")
    if moment is not None:
        moment.lerp_(row_means, change)
    return InverseRoot(moment, columns)


def clipped_by(root: InverseRoot, gradient: Tensor, chunks: Sequence[slice], largest: float) -> Tensor:
    """What an update is divided by to have a root mean square of at most `largest`: a scalar from 1 on (section 6)."""
    sums = [root.normalise_(in_float32(gradient[rows]), rows).square_().sum() for rows in chunks]
    return ((torch.stack(sums).sum() / gradient.numel()).sqrt() / largest).clamp_(min=1.0)


def in_float32(values: Tensor) -> Tensor:
    """A copy, also of float32 values."""
    return values.to(torch.float32, copy=True)
