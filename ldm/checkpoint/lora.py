"""LoRA files of any program as an adapter: each tensor gets its place in the model, or an error names it.

"LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1, of linear layers and convolutions,
and "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353), eq. 5.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.keys import LORA, UNET_INPUT, first_of, foreign_kind
from ldm.checkpoint.lora_names import Layer, layers_of
from ldm.checkpoint.reading import CheckpointFile
from ldm.errors import UserError
from ldm.user_files import open_file

_ENDINGS = (
    ("down", r"(?:\.lora_down|\.lora\.down|\.lora_A(?:\.default)?|\.lora_linear_layer\.down|_lora\.down)\.weight"),
    ("up", r"(?:\.lora_up|\.lora\.up|\.lora_B(?:\.default)?|\.lora_linear_layer\.up|_lora\.up)\.weight"),
    ("mid", r"\.lora_mid\.weight"),
    ("alpha", r"(?:_lora)?\.alpha"),
    ("dora_scale", r"\.dora_scale"),
    ("magnitude", r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"),
)
ENDING = re.compile("|".join(f"(?P<{role}>{pattern})" for role, pattern in _ENDINGS))
"""The end of a key, by what the tensor is."""

OTHER_ADAPTERS = (
    (r"\.hada_w\d_[ab]", "a LoHa"),
    (r"\.lokr_w\d", "a LoKr"),
    (r"\.oft_(blocks|diag)|\.oft_R", "an OFT"),
    (r"\.lora_(up|B)\.bias|\.diff_b$", "a LoRA with biases"),
    (r"\.lora_embedding_[AB]", "a LoRA of embeddings"),
    (r"\.diff$", "a difference of weights"),
)
"""Endings of adapters that can't be merged, and what they are."""

FOREIGN_KEYS = (
    (r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.", "Stable Diffusion XL"),
    (r".*transformer_blocks[._][1-9]\d*[._]attn[12]", "Stable Diffusion XL"),
    (r".*(double|single)_(transformer_)?blocks|lora_transformer_", "Flux"),
    (r".*joint_blocks|transformer\.transformer_blocks", "Stable Diffusion 3"),
)
FOREIGN_METADATA = (
    (r"sdxl.*|stable-diffusion-xl.*", "Stable Diffusion XL"),
    (r"sd_v2.*|stable-diffusion-v2.*", "Stable Diffusion 2"),
    (r"flux.*", "Flux"),
    (r"(sd3|stable-diffusion-3).*", "Stable Diffusion 3"),
)
"""What `ss_base_model_version` or `modelspec.architecture` says of other models."""
CONTEXT_DOWN = re.compile(r"attn2[._](processor\.)?to_[kv]([._]lora)?[._](lora_down|lora_A|down)\b")
WIDTHS = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""Models by the width of their context."""


@dataclass(frozen=True)
class LowRank:
    """The change of one weight: scale * up @ down, or with a magnitude the weight that DoRA makes of the sum."""

    up: Tensor
    """(out r) or (out r 1 1)"""
    down: Tensor
    """(r in) or (r in k k)"""
    scale: float
    mid: Tensor | None = None
    """(r r k k) between two 1x1 convolutions (LoCon's Tucker decomposition, arXiv 2108.06098)."""
    magnitude: Tensor | None = None
    """DoRA's length of each output's weights (out), or of each input's (1 in)."""

    def fits(self, weight: Tensor) -> bool:
        """Whether this is the change of a weight of that shape."""
        rank, (out, *inside) = self.up.shape[1], weight.shape
        if self.up.shape[0] != out or self.up.numel() != out * rank:
            return False
        if self.magnitude is not None and self.magnitude.numel() not in (out, inside[0]):
            return False
        if self.mid is None:
            return self.down.shape[0] == rank and self.down.numel() == rank * weight[0].numel()
        return (
            self.mid.shape == (rank, self.down.shape[0], *weight.shape[2:])
            and self.down.numel() == self.down.shape[0] * inside[0]
        )

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to a float32 `weight`."""
        up, down = self.up.flatten(1).to(weight), self.down.flatten(1).to(weight)
        if self.mid is None:
            change = self.scale * (up @ down).reshape(weight.shape)
        else:
            change = self.scale * torch.einsum("or,rskl,si->oikl", up, self.mid.to(weight), down)
        return change if self.magnitude is None else self._decomposed(weight, weight + change) - weight

    def _decomposed(self, weight: Tensor, direction: Tensor) -> Tensor:
        """DoRA, eq. 5. Its authors measure each output's weights; LyCORIS by default each input's."""
        assert self.magnitude is not None
        of_inputs = self.magnitude.shape[:1] == (1,) and self.magnitude.numel() == weight.shape[1]
        dims = tuple(dim for dim in range(weight.ndim) if dim != of_inputs)
        shape = [1] * weight.ndim
        shape[int(of_inputs)] = -1
        length = torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
        return self.magnitude.to(weight).reshape(shape) * direction / length


@dataclass(frozen=True)
class Lora:
    """A LoRA file for one base model; an `Adapter`."""

    path: Path
    digest: str
    """SHA-256 of what it changes: the same for a copy in another dialect or with other metadata."""
    changes: Mapping[str, LowRank]
    """By the official name of the weight."""

    @property
    def keys(self) -> Collection[str]:
        """Official names of the weights that it changes."""
        return self.changes.keys()

    def fits(self, key: str, weight: Tensor) -> bool:
        """Whether it can change a weight of this shape."""
        return self.changes[key].fits(weight)

    def delta(self, key: str, weight: Tensor) -> Tensor:
        """What is added to a float32 `weight` at strength 1, in its shape.

        A smaller strength of DoRA is a mean of the two weights, as in ComfyUI, not a smaller low-rank matrix.
        """
        return self.changes[key].delta(weight)


def data_hash(path: Path) -> str:
    """SHA-256 of a safetensors file without its header, by which other programs know a LoRA; empty for other files."""
    if path.suffix.lower() != ".safetensors":
        return ""
    with open_file(path, "LoRA") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def is_lora(file: CheckpointFile) -> bool:
    """Whether a file is an adapter and not a model."""
    return UNET_INPUT not in file.index and any(LORA.fullmatch(key) for key in file.index)


def read_lora(file: CheckpointFile, base: CheckpointFile) -> Lora:
    """The adapter in a file, for a base model of which only names and shapes are read.

    Raises `UserError` if a tensor has no place in the base model or no partner, which names it, and what the file is.
    """
    if not is_lora(file):
        kind = foreign_kind({key: tensor.shape for key, tensor in file.index.items()})
        raise UserError(f"{file.path} is no LoRA{f'; it looks like {kind}' if kind else ''}")
    by_name = {name: layer for layer in layers_of(base.index) for name in layer.names()}
    found: dict[Layer, dict[str, Tensor]] = {}
    without_place = []
    for key, tensor in file.index.items():
        ending = ENDING.search(key)
        layer = by_name.get(_normalised(key[: ending.start()])) if ending and ending.end() == len(key) else None
        role = str(ending.lastgroup) if ending else ""
        if layer is None or not (tensor.is_floating_point() or role == "alpha") or not tensor.numel():
            without_place.append(key)
            continue
        roles = found.setdefault(layer, {})
        if role in roles:
            raise UserError(f"{file.path} names {layer.kohya} twice: {key[:200]}")
        roles[role] = tensor
    if without_place:
        raise UserError(_no_place(file, base, without_place))
    alphas = _Alphas(file)
    changes, digest = {}, _Digest()
    with digest:
        for layer in sorted(found, key=lambda layer: layer.key):
            changes[layer.key] = _low_rank(layer, found[layer], alphas, file)
            digest.add(layer.key, changes[layer.key])
    wrong = [key for key, change in changes.items() if not change.fits(base.index[key])]
    if wrong:
        kind = foreign_lora(file)
        shapes = [f"{key} {tuple(base.index[key].shape)}" for key in wrong]
        what = f"is {kind}" if kind else "is a LoRA of another model"
        raise UserError(f"{file.path} {what}: its tensors don't have the shape of {first_of(shapes)} in {base.path}")
    return Lora(file.path, digest.hexdigest(), changes)


def foreign_lora(file: CheckpointFile) -> str:
    """What a LoRA file is if it is recognisably not one of Stable Diffusion v1, or no LoRA; else empty."""
    for pattern, kind in OTHER_ADAPTERS:
        if any(re.search(pattern, key) for key in file.index):
            return f"{kind}, which can't be merged; LoRA, LoCon and DoRA can"
    said = [file.metadata.get("ss_base_model_version", ""), file.metadata.get("modelspec.architecture", "")]
    if file.metadata.get("ss_v2") == "True":
        said.append("sd_v2")
    for pattern, kind in FOREIGN_METADATA:
        if any(re.fullmatch(pattern, text) for text in said):
            return f"a LoRA of {kind}"
    for pattern, kind in FOREIGN_KEYS:
        if any(re.match(pattern, key) for key in file.index):
            return f"a LoRA of {kind}"
    widths = {tensor.shape[1] for key, tensor in file.index.items() if CONTEXT_DOWN.search(key) and tensor.ndim > 1}
    return next((f"a LoRA of {kind}" for width, kind in WIDTHS.items() if width in widths), "")


def _no_place(file: CheckpointFile, base: CheckpointFile, without_place: list[str]) -> str:
    kind = foreign_lora(file)
    return (
        f"{file.path} {f'is {kind}' if kind else f'does not fit {base.path}'}: "
        f"{len(without_place)} of its {len(file.index)} tensors have no place in this model: {first_of(without_place)}"
    )


def _normalised(name: str) -> str:
    """Names of older versions of diffusers as those of newer ones."""
    name = name.replace(".processor.to_", ".to_")
    if name.startswith("text_encoder."):
        name = re.sub(r"\.self_attn\.to_(q|k|v|out)$", r".self_attn.\1_proj", name)
    return f"{name}.0" if name.endswith(".to_out") else name


def _low_rank(layer: Layer, roles: Mapping[str, Tensor], alphas: "_Alphas", file: CheckpointFile) -> LowRank:
    if missing := [role for role in ("down", "up") if role not in roles]:
        has = ", ".join(roles)
        raise UserError(f"{file.path} is incomplete: of {layer.kohya} it has {has} and no {' and no '.join(missing)}")
    up, down = roles["up"].clone(), roles["down"].clone()  # the file may be replaced during a long call
    if min(up.ndim, down.ndim) < 2:
        raise UserError(f"{file.path} is damaged: {layer.kohya} has shapes {tuple(up.shape)} and {tuple(down.shape)}")
    rank = down.shape[0]
    scale = alphas.of(layer, rank) if (alpha := roles.get("alpha")) is None else float(alpha.reshape(-1)[0]) / rank
    mid = roles["mid"].clone() if "mid" in roles else None
    return LowRank(up, down, scale, mid, _magnitude(roles))


def _magnitude(roles: Mapping[str, Tensor]) -> Tensor | None:
    """DoRA's lengths as (out), or (1 in). PEFT has (out) or (1 out 1 1), LyCORIS (out 1 ...) or (1 in ...)."""
    if "magnitude" in roles:
        return roles["magnitude"].clone().reshape(-1)
    if (scale := roles.get("dora_scale")) is None:
        return None
    flat = scale.clone().reshape(-1)
    return flat[None] if scale.ndim > 1 and scale.shape[0] == 1 else flat


class _Alphas:
    """Scales of layers without an alpha of their own: as the metadata of diffusers or PEFT say, else 1."""

    def __init__(self, file: CheckpointFile) -> None:
        self.configs: dict[bool, dict[str, Any]] = {False: {}, True: {}}
        try:
            metadata = json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
            for is_text, prefix in ((False, "unet."), (True, "text_encoder.")):
                for name, value in metadata.items():
                    if name.startswith(prefix):
                        self.configs[is_text][name.removeprefix(prefix)] = value
            if any(key.startswith("base_model.model.") for key in file.index):
                own = json.loads(_beside(file.path))
                self.configs = {False: own, True: own}
            self.patterns = {
                is_text: {str(pattern): float(alpha) for pattern, alpha in (config.get("alpha_pattern") or {}).items()}
                for is_text, config in self.configs.items()
            }
            self.alpha = {is_text: float(config.get("lora_alpha") or 0) for is_text, config in self.configs.items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file.path}: what it says of its alphas is damaged: {str(error)[:200]}") from error

    def of(self, layer: Layer, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) where the config says so (arXiv 2312.03732)."""
        matching = (
            alpha
            for pattern, alpha in self.patterns[layer.is_text].items()
            if layer.diffusers == pattern or layer.diffusers.endswith(f".{pattern}")
        )
        alpha = next(matching, self.alpha[layer.is_text]) or rank
        return float(alpha / (rank**0.5 if self.configs[layer.is_text].get("use_rslora") else rank))


def _beside(path: Path) -> str:
    """PEFT's own description of an adapter, which has its alpha. Raises `UserError` if it isn't there."""
    config = path.with_name("adapter_config.json")
    if not config.is_file():
        raise UserError(f"{path} is PEFT's; its alpha is in {config.name}, which should lie beside it")
    with open_file(config, "description") as file:
        return file.read(2**20).decode(errors="replace")


class _Digest:
    """SHA-256 of changes that are added in the order of their keys, by a thread while the next one is read.

    It takes half of the time of reading a large file, and needs no lock of the interpreter.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def add(self, key: str, change: LowRank) -> None:
        """Adds one change."""
        self._waiting.append(self._thread.submit(self._update, key, change))

    def _update(self, key: str, change: LowRank) -> None:
        self._sha256.update(f"{key} {change.scale!r}\n".encode())
        for tensor in _present(change.up, change.down, change.mid, change.magnitude):
            self._sha256.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            self._sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """The digest, after everything was added. Raises what went wrong in the thread."""
        for one in self._waiting:
            one.result()
        return self._sha256.hexdigest()


def _present(*tensors: Tensor | None) -> Iterable[Tensor]:
    return (tensor for tensor in tensors if tensor is not None)
