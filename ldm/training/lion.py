"""Lion: "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), program 1.

It keeps one moment, here in 8 bits as `ldm.training.adamw_8bit` keeps its own. Each step changes every number by the
learning rate, which should be 3 to 10 times smaller than AdamW's (section 5).
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ldm.training.weightwise import FirstMoment, RoundedMatrix, WeightwiseOptimizer, weightwise_kind


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
        return FirstMoment.new_state(matrix)

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        (beta1, beta2), rate, first = group["betas"], group["lr"], FirstMoment(state)
        for rows in weight.chunks():
            slope, moment = gradient[rows].float(), first.read(rows)
            update = moment.lerp(slope, 1 - beta1).sign_()
            first.write(rows, moment.lerp_(slope, 1 - beta2), weight.uniform)
            values = weight.read(rows).mul_(1 - rate * group["weight_decay"])
            weight.write(rows, values.add_(update, alpha=-rate))


LION = weightwise_kind("Lion", Lion, {"fp32": 6, "bf16": 5, "bf16-rounded": 4})
