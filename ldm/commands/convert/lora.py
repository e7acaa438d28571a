"""`convert.py --to lora`: a LoRA from the difference of two checkpoints; a LoRA in another dialect, type or rank."""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.lora import LowRank, is_lora, read_lora
from ldm.checkpoint.lora_dialects import KOHYA, lora_tensors
from ldm.checkpoint.lora_extraction import RankLimit, Share, extracted, is_unchanged, resized
from ldm.checkpoint.lora_names import Layer, layers_of
from ldm.checkpoint.lora_saving import save_lora
from ldm.checkpoint.metadata import PREFIX, CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.commands.convert.description import describe_lora
from ldm.commands.disk_space import refuse_unwritable, refuse_without_space_for_weights
from ldm.commands.elsewhere import sha256_of
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import counted
from ldm.progress import each
from ldm.runtime.models import settings_of
from ldm.terminal import Lines, command_line

log = logging.getLogger(__name__)

DEFAULT_RANK = 32
"""Of an extracted LoRA, unless --rank or --keep sets another."""
REWRITTEN = (
    PREFIX, "format", "sshs_", "ss_network_dim", "ss_network_alpha", "ss_network_args", "modelspec.hash_sha256",
    "lora_adapter_metadata",
)  # fmt: skip
"""Beginnings of the metadata of a LoRA file that hold for the tensors of that file only."""


@dataclass(frozen=True)
class Base:
    """The model that a LoRA changes."""

    model: LatentDiffusionConfig
    path: Path | None
    """None if it isn't known: its shape is."""

    @property
    def layers(self) -> dict[str, Layer]:
        """All layers of its UNet and its text encoder, by official key."""
        return {layer.key: layer for layer in layers_of(self.outline.index)}

    @property
    def outline(self) -> CheckpointFile:
        """Its names and shapes."""
        name = self.path or Path("Stable Diffusion v1" if self.model == LatentDiffusionConfig() else "this model")
        shapes = shapes_of(self.model)
        return CheckpointFile(name, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})

    def named_in(self, info: CheckpointInfo) -> CheckpointInfo:
        """The metadata with its name and SHA-256, if it is known."""
        return replace(info, base=self.path.name, base_sha256=sha256_of(self.path)) if self.path else info


def convert_lora(options: argparse.Namespace, file: CheckpointFile) -> None:
    """Writes the LoRA `file` to `options.target`, in another dialect, type or rank."""
    if options.base:
        base_file = _read_base(options.base)
        _, settings = settings_of(base_file, options.config)
        raise_unless_whole(base_file, settings.model)
    else:
        _, settings = settings_of(file, options.config)
    base = Base(settings.model, options.base)
    lora = read_lora(file, base.outline)
    log.info("%s", Lines(describe_lora(file, lora)))
    refuse_unwritable(options.target.parent)
    changes = lora.changes
    if options.rank or options.keep:
        changes = _with_rank(file, changes, base, RankLimit(options.rank, options.keep))
    kept = {name: text for name, text in file.metadata.items() if not name.startswith(REWRITTEN)}
    _write(options, changes, base, replace(checkpoint_info(file), parts={}), kept)


def extract_lora(options: argparse.Namespace, file: CheckpointFile, model: LatentDiffusionConfig) -> None:
    """Writes what a fine-tuned checkpoint changes in that of `--base` to `options.target`, as a LoRA file."""
    if options.base is None:
        raise UserError(f"--to lora: --base PATH gives the checkpoint that {file.path} was fine-tuned from")
    raise_unless_whole(file, model)
    base_file, base = _read_base(options.base), Base(model, options.base)
    raise_unless_whole(base_file, model)
    refuse_unwritable(options.target.parent)
    info = checkpoint_info(file)
    if info.base_sha256 not in ("", sha256_of(options.base)):
        log.warning("%s began with another base model, %s with another SHA-256", file.path, info.base or "a file")
    limit = RankLimit(options.rank or (None if options.keep else DEFAULT_RANK), options.keep)
    layers = {key: layer for key, layer in base.layers.items() if layer.is_common}
    keys = [key for key in shapes_of(model) if key.startswith((PARTS["unet"], PARTS["text_encoder"]))]
    share = Share()
    found = extracted(file.tensors, base_file.tensors, keys, layers.keys(), limit, share)
    changes = {key: low for key, low in each(found, len(keys), "extracting", "tensor") if low is not None}
    if not changes:
        raise UserError(f"{file.path} has the same weights as {options.base} wherever a LoRA has a place for a change")
    log.info("%s", Lines(_report(share, changes, file, base_file)))
    _write(options, changes, base, replace(info, parts={}), {})


def _read_base(path: Path) -> CheckpointFile:
    file = read_checkpoint(path)
    if is_lora(file):
        raise UserError(f"--base {path} is a LoRA file; a whole model is needed")
    return file


def _with_rank(
    file: CheckpointFile, changes: Mapping[str, LowRank], base: Base, limit: RankLimit
) -> dict[str, LowRank]:
    """The closest changes of a smaller rank."""
    if any(change.magnitude is not None for change in changes.values()):
        raise UserError(f"{file.path} is a DoRA, whose rank can't be changed: leave --rank and --keep out")
    shapes, share = shapes_of(base.model), Share()
    small = {}
    for key, change in each(changes.items(), len(changes), "reducing the rank", "layer"):
        if (low := resized(change, shapes[key], limit, share)) is not None:
            small[key] = low
    log.info("%.1f %% of the squared norm of its changes are kept, with %s", share.percent, _ranks(small))
    return small


def _report(share: Share, changes: Mapping[str, LowRank], file: CheckpointFile, base: CheckpointFile) -> Iterator[str]:
    layers = counted(len(changes), "layer")
    yield f"{share.percent:.1f} % of the squared change are in the LoRA: {layers}, {_ranks(changes)}"
    if share.without_place:
        percent = 100 * sum(share.without_place.values()) / share.everything
        yield (
            f"  {percent:.2g} % have no place in one: {counted(len(share.without_place), 'tensor')} "
            "(biases, norms, embeddings, the UNet's first and last layers)"
        )
    own = [key for key in file.index if key.startswith(PARTS["autoencoder"]) and key in base.index]
    if not all(is_unchanged(file.tensors[key], base.tensors[key]) for key in own):
        yield f"  the autoencoders differ, too, which a LoRA can't hold: sample with --vae {file.path}"


def _ranks(changes: Mapping[str, LowRank]) -> str:
    ranks = sorted({len(change.down) for change in changes.values()}) or [0]
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _write(
    options: argparse.Namespace,
    changes: Mapping[str, LowRank],
    base: Base,
    info: CheckpointInfo,
    kept: Mapping[str, str],
) -> None:
    """Writes the LoRA file. `kept`: metadata of another file that hold for this one, too."""
    dialect, dtype = options.dialect or KOHYA, torch.float16 if options.half else None
    tensors = lora_tensors(options.target, changes, base.layers, shapes_of(base.model), dialect, dtype)
    size = sum(tensor.nbytes for tensor in tensors.values())
    refuse_without_space_for_weights(options.target, size)
    info = base.named_in(info)
    notes = {**_notes(changes, base, info, options.target.stem, dialect), **kept}
    if base.path:
        notes |= {"ss_sd_model_name": info.base, "ss_new_sd_model_hash": info.base_sha256}
    save_lora(options.target, tensors, info, notes)
    log.info(
        "wrote %s: a LoRA with %s names, %s, %s", options.target, NAMED[dialect], _ranks(changes), human_size(size)
    )
    model = ["--ckpt-path", base.path] if base.path else []
    words = command_line("txt2img.py", *model, "--lora", options.target)
    log.info("%s", Lines(["to sample with it:", f"  {words}"]))


NAMED = {KOHYA: "kohya's", "peft": "PEFT's", "diffusers": "diffusers'"}


def _notes(changes: Mapping[str, LowRank], base: Base, info: CheckpointInfo, name: str, dialect: str) -> dict[str, str]:
    """kohya's metadata and modelspec's, as far as they follow from the tensors and the model."""
    linear, conv = (
        [(len(one.down), one.scale * len(one.down) if dialect == KOHYA else len(one.down)) for one in group]
        for group in (
            [one for one in changes.values() if one.mid is None and one.down[0].numel() == one.down.shape[1]],
            [one for one in changes.values() if one.mid is not None or one.down[0].numel() > one.down.shape[1]],
        )
    )
    (dim, alpha), (conv_dim, conv_alpha) = _common(linear or conv), _common(conv)
    arguments = {"conv_dim": conv_dim, "conv_alpha": conv_alpha} if conv else {}
    notes = {
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": name,
        "ss_steps": str(info.step),
    }
    if spec := modelspec(info, base.model, name, "lora"):
        notes["ss_base_model_version"] = "sd_v1"
    return notes | spec


def _common(sizes: list[tuple[int, float]]) -> tuple[str, str]:
    """The rank and alpha of several layers; "Dynamic" where they differ, as kohya's scripts write."""
    found = [sorted(set(values)) for values in zip(*sizes, strict=True)] or [[0], [0]]
    texts = [f"{values[0]:g}" if len(values) == 1 else "Dynamic" for values in found]
    return texts[0], texts[1]
