"""Lion: "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), program 1.

It keeps one moment, here in 8 bits as `ldm.training.adamw_8bit` keeps its own. Each step changes every number by the
learning rate, which should be 3 to 10 times smaller than AdamW's (section 5).
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind
from ldm.training.rounding import BLOCK, decode, encode
from ldm.training.weightwise import RoundedMatrix, WeightwiseOptimizer

SMALL = 4096
"""Weights of fewer numbers keep their moment in float32, as in `ldm.training.adamw_8bit`."""


class Lion(WeightwiseOptimizer):
    """Lion with a moment of 8 bits. It treats each number alone, so a weight is a column (n 1)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        seed: int = 0,
        keep_low_bits: bool = True,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, seed, keep_low_bits)

    def as_matrix(self, tensor: Tensor) -> Tensor:
        return tensor.view(-1, 1)

    def new_state(self, matrix: Tensor) -> dict[str, Any]:
        count, device = len(matrix), matrix.device
        if count < SMALL:
            return {"first": torch.zeros(count, device=device)}
        blocks = -(-count // BLOCK)
        codes = torch.zeros(blocks * BLOCK, dtype=torch.int8, device=device)
        return {"first": codes, "first_scales": torch.zeros(blocks, 1, device=device)}

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        (beta1, beta2), rate, first = group["betas"], group["lr"], state["first"]
        for rows in weight.chunks():
            slope = gradient[rows, 0].float()
            end = min(-(-rows.stop // BLOCK) * BLOCK, len(first))  # the last block is padded
            scales = state["first_scales"][rows.start // BLOCK : end // BLOCK] if "first_scales" in state else None
            codes = first[rows.start : end]
            moment = codes if scales is None else decode(codes, scales)
            slope = F.pad(slope, (0, len(moment) - len(slope)))
            update = moment.lerp(slope, 1 - beta1).sign_()[: rows.stop - rows.start, None]
            moment.lerp_(slope, 1 - beta2)
            if scales is not None:
                new_codes, new_scales = encode(moment, weight.uniform(moment), signed=True)
                codes.copy_(new_codes)
                scales.copy_(new_scales)
            values = weight.read(rows).mul_(1 - rate * group["weight_decay"])
            weight.write(rows, values.add_(update, alpha=-rate))


def _build(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
    return Lion(
        weights,
        config.learning_rate,
        weight_decay=config.weight_decay,
        seed=seed,
        keep_low_bits=config.keeps_low_bits,
    )


LION = OptimizerKind("Lion", _build, {"fp32": 6, "bf16": 5, "bf16-rounded": 4})
