"""dreambooth: planning a run, class images, training, previews."""

from ldm.commands.dreambooth.memory_table import memory_table
from ldm.commands.dreambooth.run import dreambooth

__all__ = ["dreambooth", "memory_table"]
