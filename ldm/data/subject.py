"""How prompts and captions name a subject that a model was taught."""

from ldm.prompts import TOKEN

__all__ = ["TOKEN"]
