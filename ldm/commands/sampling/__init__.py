"""txt2img, img2img and evaluate: images from one checkpoint, or many checkpoints compared and scored."""

from ldm.commands.sampling.run import evaluate, img2img, txt2img

__all__ = ["evaluate", "img2img", "txt2img"]
