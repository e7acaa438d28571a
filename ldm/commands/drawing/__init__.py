"""txt2img, img2img and evaluate: pictures from one checkpoint, or many checkpoints compared and scored."""

from ldm.commands.drawing.run import evaluate, img2img, txt2img

__all__ = ["evaluate", "img2img", "txt2img"]
