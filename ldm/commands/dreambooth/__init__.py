"""dreambooth: planning a run, class pictures, training, previews."""

from ldm.commands.dreambooth.run import dreambooth

__all__ = ["dreambooth"]
