"""Floor 9: the Python API: what `import ldm` offers a notebook or another program. The commands do the work."""

from ldm.api.comparing import Comparison, Verdict, compare, score
from ldm.api.model import Model, load
from ldm.api.samples import Samples, image_grid
from ldm.api.training import Run, SavedCheckpoint, fine_tune

__all__ = [
    "Comparison",
    "Model",
    "Run",
    "Samples",
    "SavedCheckpoint",
    "Verdict",
    "compare",
    "fine_tune",
    "image_grid",
    "load",
    "score",
]
