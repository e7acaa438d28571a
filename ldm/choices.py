"""What a flag or a key of the YAML can choose from: one line each, without torch, so that `--help` stays fast.

An entry names the object that does it, which is imported when it is needed. A new one is a file and a line here.
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One entry: where its object is ("module:name"), and what it is, for `--help`."""

    where: str
    about: str

    def load(self) -> Any:
        """Imports the object."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)


SAMPLERS = {
    "ddim": Choice("ldm.diffusion.samplers.ddim:DDIM", "the original code's default"),
    "plms": Choice("ldm.diffusion.samplers.plms:PLMS", "a multistep DDIM, the original code's other sampler"),
    "dpm-solver": Choice("ldm.diffusion.samplers.dpm_solver:DPM_SOLVER", "DPM-Solver++ 2M, good in 20 steps"),
    "euler": Choice("ldm.diffusion.samplers.euler:EULER", "Euler's method"),
    "euler-ancestral": Choice("ldm.diffusion.samplers.euler:EULER_ANCESTRAL", "Euler with fresh noise in each step"),
}

ENCODERS = {
    "toyworld-judge": Choice("ldm.evaluation.encoders:load_judge", "the rendered toy world's judge"),
    "clip-dino": Choice("ldm.evaluation.clip_dino:load_clip_dino", "CLIP and DINO, for real photos"),
}
"""Image encoders that score images: functions of a device."""
