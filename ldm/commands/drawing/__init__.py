"""txt2img and img2img: pictures from one checkpoint, or many checkpoints compared."""

from ldm.commands.drawing.run import img2img, txt2img

__all__ = ["img2img", "txt2img"]
