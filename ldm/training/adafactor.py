"""Adafactor: "Adaptive Learning Rates with Sublinear Memory Cost" (arXiv 1804.04235).

Algorithm 4 with the learning rate of AdamW in place of the relative step size, with decoupled weight decay and without
momentum. The second moment of a matrix (r c) is the product of a row and a column: r + c numbers in place of r c. The
Adafactors of torch and transformers factor a convolution's 3 x 3 instead of its (o, i 3 3), which would keep two thirds
of its numbers, and round weights in bfloat16 to the nearest.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind
from ldm.training.weightwise import RoundedMatrix, WeightwiseOptimizer

TINY = 1e-30
"""Added to squares (table 5, epsilon 1)."""
CLIP = 1.0
"""The largest root mean square of an update, relative to the learning rate (section 6, d)."""
DECAY = -0.8
"""The second moment's decay in step t is 1 - t^DECAY (section 7.2)."""


class Adafactor(WeightwiseOptimizer):
    """Adafactor on matrices of any size; vectors have a whole second moment."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
        keep_low_bits: bool = True,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay}, seed, keep_low_bits)

    def new_state(self, matrix: Tensor) -> dict[str, Any]:
        rows, columns = matrix.shape

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float32, device=matrix.device)

        return {"columns": zeros(columns), **({"rows": zeros(rows, 1)} if rows > 1 else {})}

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        chunks, change = list(weight.chunks()), state["step"] ** DECAY
        row_means = torch.empty(len(gradient), 1, device=gradient.device)
        column_means = torch.zeros_like(state["columns"])
        for rows in chunks:
            squares = gradient[rows].float().square().add_(TINY)
            row_means[rows] = squares.mean(dim=1, keepdim=True)
            column_means.add_(squares.sum(dim=0), alpha=1 / len(gradient))
            del squares
        columns = state["columns"].lerp_(column_means, change).rsqrt()
        rows_of = torch.ones_like(row_means)
        if "rows" in state:
            moments = state["rows"].lerp_(row_means, change)
            rows_of = (moments / moments.mean()).rsqrt_()

        def step(rows: slice) -> Tensor:
            return gradient[rows].float().mul(rows_of[rows]).mul_(columns)

        total = torch.stack([step(rows).square_().sum() for rows in chunks]).sum()
        factor = -group["lr"] / ((total / gradient.numel()).sqrt() / CLIP).clamp(min=1.0)
        for rows in chunks:
            values = weight.read(rows).mul_(1 - group["lr"] * group["weight_decay"])
            weight.write(rows, values.add_(step(rows).mul_(factor)))


def _build(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
    return Adafactor(weights, config.learning_rate, config.weight_decay, seed, config.keeps_low_bits)


ADAFACTOR = OptimizerKind("Adafactor", _build, {"fp32": 5, "bf16": 4, "bf16-rounded": 3})
