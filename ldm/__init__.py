"""Latent diffusion from scratch: networks, samplers, checkpoints and DreamBooth fine-tuning for Stable Diffusion v1.

The Python API, explained in docs/python.md:

    model = ldm.load("ckpts/can-1/step-00400.safetensors")
    samples = model.sample("a photo of sks can", seed=0, steps=20)

Importing this package imports nothing heavy: torch comes with the first name of the API that is used.
"""

from typing import TYPE_CHECKING, Any

from ldm.environment import refuse_wrong_numbers
from ldm.errors import UserError

if TYPE_CHECKING:
    from ldm.api import *

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Model",
    "Run",
    "Samples",
    "SavedCheckpoint",
    "UserError",
    "Verdict",
    "compare",
    "fine_tune",
    "image_grid",
    "load",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ldm' has no attribute {name!r}")
    refuse_wrong_numbers()  # before a library is imported that reads them
    from ldm import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
