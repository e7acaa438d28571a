"""What a checkpoint or a LoRA file is, in a few lines."""

import re
from collections import Counter
from collections.abc import Iterator

from ldm.checkpoint.keys import EMA, PARTS, POSITION_IDS
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.lora import Lora
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
    if info.merged:
        yield f"  merged into it: {', '.join(info.merged)}"
    needed = shapes_of(config)
    known = {*needed, POSITION_IDS}
    others = [key for key in file.index if key not in known and not key.startswith(EMA) and "." in key]
    if others:
        yield f"  {counted(len(others), 'further tensor')}"


def describe_lora(file: CheckpointFile, lora: Lora) -> Iterator[str]:
    """Its names, the layers and ranks of each network, its type, and what it was trained on."""
    names = next((name for pattern, name in LORA_NAMES if any(re.search(pattern, key) for key in file.index)), "other")
    kind = "a DoRA" if any(change.magnitude is not None for change in lora.changes.values()) else "a LoRA"
    types = Counter(str(change.up.dtype).removeprefix("torch.") for change in lora.changes.values())
    yield f"{file.path}: {kind} with {names} names, {', '.join(types)}"
    for part in ("unet", "text_encoder"):
        changes = [change for key, change in lora.changes.items() if key.startswith(PARTS[part])]
        if changes:
            ranks = Counter(len(change.down) for change in changes)
            scales = sorted({change.scale for change in changes})
            scaled = "" if scales == [1.0] else f", scale {scales[0]:g}" + (" and others" if len(scales) > 1 else "")
            several = " and others" if len(ranks) > 1 else ""
            rank = ranks.most_common(1)[0][0]
            yield f"  {NAMES[part]}: {counted(len(changes), 'layer')}, rank {rank}{several}{scaled}"
    info = checkpoint_info(file)
    if info.class_name:
        yield f"  trained on '{info.class_name}', step {info.step}, prompt '{info.instance_prompt}'"
    base = info.base or file.metadata.get("ss_sd_model_name", "")
    if base:
        yield f"  base model: {base[:200]}"


LORA_NAMES = (
    (r"^lora_unet_(input|middle|output)_block", "kohya's, with the original blocks'"),
    (r"^lora_", "kohya's"),
    (r"\.lora_[AB]\b", "PEFT's"),
    (r"\.lora\.(down|up)\.|\.lora_linear_layer\.|_lora\.(down|up)\.", "diffusers'"),
)
"""A pattern of keys, and whose names they are."""


def _weights(file: CheckpointFile, prefix: str) -> str:
    """How many numbers begin with a prefix, by their type: "860 million fp16"."""
    counts: Counter[str] = Counter()
    for key, tensor in file.index.items():
        if key.startswith(prefix) and key != POSITION_IDS:
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return ", ".join(f"{count / 1e6:.3g} million {dtype}" for dtype, count in counts.most_common()) or "none"
