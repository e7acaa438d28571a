"""Loads a model from a file: builds it on the meta device, checks key by key, assigns the file's own tensors."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.checkpoint.keys import PARTS, SCALED, compare_keys, first_of
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, shapes_of
from ldm.errors import UserError
from ldm.files import counted
from ldm.nn.memory import weightless
from ldm.terminal import warn_once
from ldm.user_files import resolved

log = logging.getLogger(__name__)

QUICKLY_BUILT = 5_000
"""A model of so many tensors is built within a second; Stable Diffusion v1 has 1,130."""


@dataclass(frozen=True)
class Placement:
    """The device and the floating-point type of the weights."""

    device: torch.device
    dtype: torch.dtype = torch.float32


def load_model(file: CheckpointFile | Path, config: LatentDiffusionConfig, placement: Placement) -> LatentDiffusion:
    """Builds the model on the meta device and assigns it the file's tensors, after a comparison of all keys.

    On the CPU and without a change of type the weights stay mapped from the file.
    """
    file = file if isinstance(file, CheckpointFile) else read_checkpoint(file)
    _raise_if_too_large(config, file)
    with weightless():
        model = LatentDiffusion(config)
    assign_parts(model, file, PARTS, placement)
    _warn_of_extras(config, file)
    return model.to(placement.device).eval().requires_grad_(False)  # buffers go where the weights are


def assign_parts(model: LatentDiffusion, file: CheckpointFile, parts: Iterable[str], placement: Placement) -> None:
    """Gives the named `PARTS` of the model a file's weights. Raises `UserError` if the file doesn't fit the model."""
    _raise_unless_fitting(shapes_of(model.config), file.index, file.path)
    prefixes = tuple(PARTS[part] for part in parts)
    modules = dict(model.named_modules())
    for key in shapes_of(model.config):
        if key.startswith(prefixes):
            owner, _, leaf = key.rpartition(".")
            trains = getattr(modules[owner], leaf).requires_grad
            weight = file.tensors[key].to(placement.device, placement.dtype)
            setattr(modules[owner], leaf, nn.Parameter(weight, requires_grad=trains))


def load_part(network: nn.Module, part: str, file: CheckpointFile) -> None:
    """Copies the weights of one of the `PARTS` into a network, in the network's type. The file may hold other parts.

    Raises `UserError` if the part is missing or doesn't fit.
    """
    raise_unless_part(network, part, file)
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(file.tensors[PARTS[part] + name])


def raise_unless_part(network: nn.Module, part: str, file: CheckpointFile) -> None:
    """Raises `UserError` if the file doesn't hold the weights of one of the `PARTS`; reads none of them."""
    prefix = PARTS[part]
    _raise_unless_fitting(
        {prefix + name: weight.shape for name, weight in network.state_dict().items()},
        {key: tensor for key, tensor in file.index.items() if key.startswith(prefix)},
        file.path,
    )


def raise_unless_whole(file: CheckpointFile, config: LatentDiffusionConfig) -> None:
    """Raises `UserError` if the file doesn't hold all weights of such a model; reads none of them.

    A warning names tensors of the file that are not used.
    """
    _raise_if_v_prediction(file)
    _raise_if_too_large(config, file)
    _raise_unless_fitting(shapes_of(config), file.index, file.path)
    _warn_of_extras(config, file)


def _raise_if_v_prediction(file: CheckpointFile) -> None:
    """Raises `UserError` for a model that predicts v ("Progressive Distillation", arXiv 2202.00512, section 4).

    Its weights have the same shapes as those of a model that predicts the noise; its metadata or a tensor mark it.
    """
    kind = file.metadata.get("modelspec.prediction_type", "epsilon")
    if "v_pred" in file.index or kind.lower() in ("v", "v_prediction", "v-prediction"):
        raise UserError(f"{file.path} is a model with v-prediction; this project's models predict the noise (epsilon)")


def _raise_if_too_large(config: LatentDiffusionConfig, file: CheckpointFile) -> None:
    """Raises `UserError` before building a model of far more layers than the file has, which would take long."""
    if config.least_tensors > max(QUICKLY_BUILT, len(file.index)):
        raise UserError(
            f"{file.path} does not hold the weights of this model: its config describes at least "
            f"{config.least_tensors:,} tensors, and the file holds {len(file.index):,}"
        )


def _raise_unless_fitting(needed: Mapping[str, torch.Size], found: Mapping[str, Tensor], path: Path) -> None:
    """Raises `UserError` unless all needed weights were found, as floating-point numbers that are not scaled."""
    compare_keys(needed, {key: tensor.shape for key, tensor in found.items()}).raise_if_any(path)
    whole = [key for key in needed if not found[key].is_floating_point()]
    scales = [key for key in found if SCALED.fullmatch(key)]
    if whole or scales:
        example = (
            f"{whole[0]} is {str(found[whole[0]].dtype).removeprefix('torch.')}" if whole else f"it has {scales[0]}"
        )
        raise UserError(f"{path} is quantized ({example[:200]}); get it in half or full precision")


def _warn_of_extras(config: LatentDiffusionConfig, file: CheckpointFile) -> None:
    """Names tensors that the model doesn't use."""
    found = {key: tensor.shape for key, tensor in file.index.items()}
    if extras := compare_keys(shapes_of(config), found).unexpected:
        verb = "is" if len(extras) == 1 else "are"
        warn_once(log, "%s of %s %s not used: %s", counted(len(extras), "tensor"), file.path, verb, first_of(extras))


def checkpoint_info(file: CheckpointFile) -> CheckpointInfo:
    """The file's metadata. Raises `UserError` if they are damaged."""
    try:
        return CheckpointInfo.from_metadata(file.metadata)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {str(error)[:200]}") from error


def part_digests(path: Path, info: CheckpointInfo) -> dict[str, str]:
    """Identifies the weights of each part: their SHA-256, or the file's path, size and time if its metadata lack it."""
    stat = path.stat()
    whole = f"{resolved(path)} {stat.st_size} {stat.st_mtime_ns}"
    return {part: info.parts.get(part) or f"{part} of {whole}" for part in PARTS}
