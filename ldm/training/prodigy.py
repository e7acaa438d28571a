"""Prodigy: "An Expeditiously Adaptive Parameter-Free Learner" (arXiv 2306.06101), from its authors' package.

It estimates the learning rate itself, from the gradients of all weights together.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ldm.errors import UserError
from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind


def prodigy_class() -> Callable[..., Optimizer]:
    """The package's optimizer. Raises `UserError` if it is not installed."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise UserError("the optimizer prodigy is another package's: pip install prodigyopt") from error
    return Prodigy


def _build(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
    return prodigy_class()(
        weights,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        use_bias_correction=True,  # both as its authors advise for diffusion models
        safeguard_warmup=True,
    )


PRODIGY = OptimizerKind(
    "Prodigy", _build, {"fp32": 20}, weightwise=False, learning_rate=1.0, raise_if_missing=prodigy_class
)
