"""dreambooth: planning a run, class images, training, previews."""

from ldm.commands.dreambooth.run import dreambooth

__all__ = ["dreambooth"]
