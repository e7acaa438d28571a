"""Parameters of tests that every sampler has to pass: some samplers in every run, the others with `-m slow`."""

import pytest

from ldm.choices import SAMPLERS

ALWAYS = ("ddim", "plms", "heun", "dpm-solver-sde")
"""The defaults, one with two calls a step, and one that draws noise in each step."""
EACH_SAMPLER = [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow) for name in SAMPLERS]
