"""Floor 9: the Python API: what `import ldm` offers a notebook or another program. The commands do the work.

`ldm.__all__` lists these names.
"""

from ldm.api.comparing import Comparison as Comparison
from ldm.api.comparing import Verdict as Verdict
from ldm.api.comparing import compare as compare
from ldm.api.comparing import score as score
from ldm.api.model import Model as Model
from ldm.api.model import load as load
from ldm.api.samples import Samples as Samples
from ldm.api.samples import image_grid as image_grid
from ldm.api.training import Run as Run
from ldm.api.training import SavedCheckpoint as SavedCheckpoint
from ldm.api.training import fine_tune as fine_tune
