"""Adafactor: "Adaptive Learning Rates with Sublinear Memory Cost" (arXiv 1804.04235).

Algorithm 4 with the learning rate of AdamW in place of the relative step size, with decoupled weight decay and without
momentum. The second moment of a matrix (r c) is the product of a row and a column: r + c numbers in place of r c. The
Adafactors of torch and transformers factor a convolution's 3 x 3 instead of its (o, i 3 3), which would keep two thirds
of its numbers, and round weights in bfloat16 to the nearest.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ldm.training.factored import clipped_by, factored_state, in_float32, update_factored
from ldm.training.weightwise import RoundedMatrix, WeightwiseOptimizer, weightwise_kind

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
        return factored_state(matrix)

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        chunks = list(weight.chunks())
        root = update_factored(
            state, lambda rows: in_float32(gradient[rows]).square_().add_(TINY), chunks, state["step"] ** DECAY
        )
        factor = -group["lr"] / clipped_by(root, gradient, chunks, CLIP)
        for rows in chunks:
            values = weight.read(rows).mul_(1 - group["lr"] * group["weight_decay"])
            weight.write(rows, values.add_(root.normalise_(in_float32(gradient[rows]), rows).mul_(factor)))


ADAFACTOR = weightwise_kind("Adafactor", Adafactor, {"fp32": 5, "bf16": 4, "bf16-rounded": 3})
