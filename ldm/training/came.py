"""CAME: "Confidence-guided Adaptive Memory Efficient Optimization" (arXiv 2307.02047), algorithm 2.

Adafactor with a first moment, and with smaller steps where that differs from the latest update (the instability).
Second moment and instability are products of a row and a column, and the first moment has 8 bits. The authors' package
factors a convolution's 3 x 3, keeps the first moment in float32, and rounds weights in bfloat16 to the nearest.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ldm.training.adafactor import CLIP, TINY
from ldm.training.factored import clipped_by, factored_state, in_float32, update_factored
from ldm.training.weightwise import FirstMoment, RoundedMatrix, WeightwiseOptimizer, weightwise_kind

LEAST_INSTABILITY = 1e-16
"""Added to squares (algorithm 2, epsilon 2)."""


class CAME(WeightwiseOptimizer):
    """CAME on matrices of any size; vectors have a whole second moment and no instability, as in the authors' code."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        weight_decay: float = 0.0,
        seed: int = 0,
        keep_low_bits: bool = True,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, seed, keep_low_bits)

    def new_state(self, matrix: Tensor) -> dict[str, Any]:
        instability = factored_state(matrix, "instability_") if len(matrix) > 1 else {}
        return factored_state(matrix) | instability | FirstMoment.new_state(matrix)

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        (beta1, beta2, beta3), rate, chunks = group["betas"], group["lr"], weight.chunks()
        first = FirstMoment(state)
        root = update_factored(state, lambda rows: in_float32(gradient[rows]).square_().add_(TINY), chunks, 1 - beta2)
        divisor = clipped_by(root, gradient, chunks, CLIP)

        def squared_differences(rows: slice) -> Tensor:
            """Of the update and the first moment, which is moved towards it."""
            update = root.normalise_(in_float32(gradient[rows]), rows).div_(divisor)
            moment = first.read(rows).lerp(update, 1 - beta1)
            first.write(rows, moment, weight.uniform)
            return update.sub_(moment).square_().add_(LEAST_INSTABILITY)

        stability = None
        if "instability_columns" in state:
            stability = update_factored(state, squared_differences, chunks, 1 - beta3, "instability_")
        else:
            for rows in chunks:
                squared_differences(rows)
        for rows in chunks:
            moment = in_float32(first.read(rows))
            step = moment if stability is None else stability.normalise_(moment, rows)
            values = weight.read(rows).mul_(1 - rate * group["weight_decay"])
            weight.write(rows, values.add_(step, alpha=-rate))


CAME_KIND = weightwise_kind("CAME", CAME, {"fp32": 6, "bf16": 5, "bf16-rounded": 4})
