"""`convert.py`: a checkpoint of any kind as one file in the official layout, or as a diffusers directory."""

from ldm.commands.convert.run import convert

__all__ = ["convert"]
