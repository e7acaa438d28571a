"""Official names of weights and diffusers' names: the same networks, whose blocks are numbered in another way."""

import re
from collections.abc import Mapping

from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of

FOLDERS = {"unet": "unet", "autoencoder": "vae", "text_encoder": "text_encoder"}
"""The folder of each part in a diffusers directory."""

_RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_AUTOENCODER = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)
_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in the autoencoder's attention before diffusers 0.18, and the current ones."""
_AUTOENCODER_ATTENTION = re.compile(r"(.+\.mid_block\.attentions\.0\.)(query|key|value|proj_attn)(\..+)")


def diffusers_names(config: LatentDiffusionConfig) -> dict[str, str]:
    """diffusers' name of each weight of such a model, by its official name: "unet/conv_in.weight"."""
    return {key: _name(key, config) for key in shapes_of(config)}


def _name(key: str, config: LatentDiffusionConfig) -> str:
    part = next(part for part, prefix in PARTS.items() if key.startswith(prefix))
    own = key.removeprefix(PARTS[part])
    if part == "unet":
        own = unet_name(own, config.unet.num_res_blocks)
    elif part == "autoencoder":
        own = autoencoder_name(own, len(config.autoencoder.ch_mult))
    else:
        own = own.removeprefix("transformer.")
    return f"{FOLDERS[part]}/{own}"


def unet_name(key: str, res_blocks: int) -> str:
    """diffusers' name of a UNet's weight, of which each level has so many residual blocks.

    diffusers numbers the blocks within their level, the official layout throughout.
    """
    if block := re.fullmatch(r"(input|output)_blocks\.(\d+)\.\d\.(.+)", key):
        side, number, leaf = block[1], int(block[2]), block[3]
        if side == "input" and number == 0:
            return f"conv_in.{leaf}"
        level, index = divmod(number - (side == "input"), res_blocks + 1)
        blocks = "down_blocks" if side == "input" else "up_blocks"
        if resampled := re.fullmatch(r"(?:op|conv)\.(.+)", leaf):
            resampler = "downsamplers" if side == "input" else "upsamplers"
            return f"{blocks}.{level}.{resampler}.0.conv.{resampled[1]}"
        kind = "resnets" if _owner(leaf) in _RES_BLOCK else "attentions"
        return f"{blocks}.{level}.{kind}.{index}.{_res_block_leaf(leaf)}"
    if middle := re.fullmatch(r"middle_block\.(\d)\.(.+)", key):
        return f"mid_block.{_MIDDLE[middle[1]]}.{_res_block_leaf(middle[2])}"
    return f"{_UNET_ENDS[_owner(key)]}.{key.rpartition('.')[2]}"


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _res_block_leaf(leaf: str) -> str:
    owner, _, last = leaf.rpartition(".")
    return f"{_RES_BLOCK.get(owner, owner)}.{last}"


def autoencoder_name(key: str, levels: int) -> str:
    """diffusers' name of an autoencoder's weight. The decoder's levels are counted from the lowest resolution there."""
    key = re.sub(r"(?<=\.up\.)\d+", lambda level: str(levels - 1 - int(level[0])), key)
    for official, theirs in _AUTOENCODER:
        key = re.sub(official, theirs, key)
    return key


def to_official(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors named as `diffusers_names` does, by official name. `names`: what that returned. Others keep their names.

    Older names are known. The text encoder's `text_model.` may be missing. Tensors aren't copied.
    """
    official = {theirs: key for key, theirs in names.items()}
    found = {}
    for name, tensor in tensors.items():
        current = _AUTOENCODER_ATTENTION.sub(lambda m: m[1] + _OLDER[m[2]] + m[3], name)
        if current.startswith("text_encoder/") and not current.startswith("text_encoder/text_model."):
            current = current.replace("/", "/text_model.", 1)
        key = official.get(current, name)
        pointwise = key.startswith(PARTS["autoencoder"]) and ".attn_1." in key and tensor.ndim == 2
        found[key] = tensor[:, :, None, None] if pointwise else tensor  # a linear layer there, a convolution here
    return found


def from_official(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors that `names` lists under diffusers' names; the reverse of `to_official`."""
    found = {}
    for key, name in names.items():
        pointwise = name.startswith("vae/") and ".mid_block.attentions.0." in name and tensors[key].ndim == 4
        found[name] = tensors[key][:, :, 0, 0] if pointwise else tensors[key]
    return found
