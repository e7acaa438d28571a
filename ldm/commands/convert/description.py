"""What a checkpoint is, in a few lines."""

from collections import Counter
from collections.abc import Iterator

from ldm.checkpoint.keys import EMA, PARTS, POSITION_IDS
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.reading import CheckpointFile
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.files import counted

NAMES = {"unet": "UNet", "autoencoder": "autoencoder", "text_encoder": "text encoder"}


def describe(file: CheckpointFile, config: LatentDiffusionConfig) -> Iterator[str]:
    """Its layout and family, the weights of each part by type, averaged weights, and what it was trained on."""
    layout = "a diffusers directory" if file.path.is_dir() else "one file in the official layout"
    family = "Stable Diffusion v1" if config == LatentDiffusionConfig() else "another shape than Stable Diffusion v1"
    yield f"{file.path}: {layout}, {family}"
    for part, prefix in PARTS.items():
        yield f"  {NAMES[part]}: {_weights(file, prefix)}"
    if any(key.startswith(EMA + "diffusion_model") for key in file.index):
        yield f"  averaged UNet (EMA): {_weights(file, EMA)}"
    info = checkpoint_info(file)
    if info.class_name:
        yield f"  fine-tuned on '{info.class_name}', step {info.step}, prompt '{info.instance_prompt}'"
    needed = shapes_of(config)
    known = {*needed, POSITION_IDS}
    others = [key for key in file.index if key not in known and not key.startswith(EMA) and "." in key]
    if others:
        yield f"  {counted(len(others), 'further tensor')}"


def _weights(file: CheckpointFile, prefix: str) -> str:
    """How many numbers begin with a prefix, by their type: "860 million fp16"."""
    counts: Counter[str] = Counter()
    for key, tensor in file.index.items():
        if key.startswith(prefix) and key != POSITION_IDS:
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return ", ".join(f"{count / 1e6:.3g} million {dtype}" for dtype, count in counts.most_common()) or "none"
