"""How far training moved the weights of each part."""

import re
from collections import defaultdict
from pathlib import Path

import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.nn.lora import adapted_layers

GROUPS = {
    "unet cross-attention": r"model\.diffusion_model\..*\.(attn2|norm2)\.",
    "unet self-attention": r"model\.diffusion_model\..*\.(attn1|norm1)\.",
    "unet residual blocks": r"model\.diffusion_model\..*\.(in_layers|out_layers|emb_layers|skip_connection)\.",
    "unet, the rest": r"model\.diffusion_model\.",
    "text encoder": r"cond_stage_model\.",
    "autoencoder": r"first_stage_model\.",
}
"""Groups of weights by a pattern of their keys; a key belongs to the first group that matches."""


@torch.inference_mode()
def weight_movement(ldm: LatentDiffusion, base: Path) -> dict[str, float]:
    """|w - w0| / |w0| (l2 norms over a group) against the base checkpoint's weights, by group."""
    start = read_checkpoint(base).tensors
    moved: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    adapted = {f"{name}.weight": layer for name, layer in adapted_layers(ldm)}
    for key, weight in ldm.state_dict().items():
        if key not in start:  # an adapter's
            continue
        group = next(group for group, pattern in GROUPS.items() if re.match(pattern, key))
        w0 = start[key].to(weight.device, torch.float32)
        if adapted:  # the weights themselves are fixed, perhaps in half precision
            moved[group] += adapted[key].delta().square().sum().item() if key in adapted else 0.0
        else:
            moved[group] += (weight.float() - w0).square().sum().item()
        size[group] += w0.square().sum().item()
    return {group: (moved[group] / size[group]) ** 0.5 if size[group] else 0.0 for group in GROUPS if group in moved}
