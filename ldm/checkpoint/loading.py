"""From a file to a model: built without memory, checked key by key, then given the file's own tensors."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.checkpoint.keys import PARTS, SCALED, compare_keys, first_of, official_key
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.outline import shapes_of
from ldm.errors import UserError
from ldm.files import counted
from ldm.nn.weightless import weightless
from ldm.terminal import warn_once

log = logging.getLogger(__name__)

QUICKLY_BUILT = 5_000
"""Tensors of a model that is built within a second; Stable Diffusion v1 has 1,130."""


@dataclass(frozen=True)
class Placement:
    """Where the weights go and in which floating-point type."""

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
    found = _fitting_tensors(model.config, file)
    prefixes = tuple(PARTS[part] for part in parts)
    modules = dict(model.named_modules())
    for name in shapes_of(model.config):
        if (key := official_key(name)).startswith(prefixes):
            owner, _, leaf = name.rpartition(".")
            trains = getattr(modules[owner], leaf).requires_grad
            weight = found[key].to(placement.device, placement.dtype)
            setattr(modules[owner], leaf, nn.Parameter(weight, requires_grad=trains))


def load_part(network: nn.Module, part: str, file: CheckpointFile) -> None:
    """Gives a network the weights of one of the `PARTS`, in its own type; what else the file holds is passed over.

    Raises `UserError` if the part is not there or doesn't fit.
    """
    raise_unless_part(network, part, file)
    found = {official_key(key): tensor for key, tensor in file.tensors.items()}
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(found[official_key(PARTS[part] + name)])


def raise_unless_part(network: nn.Module, part: str, file: CheckpointFile) -> None:
    """Raises `UserError` if the file doesn't hold the weights of one of the `PARTS`; reads none of them."""
    prefix = PARTS[part]
    found = {official_key(key): tensor for key, tensor in file.tensors.items()}
    _raise_unless_fitting(
        {official_key(prefix + name): weight.shape for name, weight in network.state_dict().items()},
        {key: tensor for key, tensor in found.items() if key.startswith(prefix)},
        file.path,
    )


def raise_unless_whole(file: CheckpointFile, config: LatentDiffusionConfig) -> None:
    """Raises `UserError` if the file doesn't hold all weights of such a model; reads none of them.

    Tensors that it holds beside them are named in a warning.
    """
    _raise_if_too_large(config, file)
    _fitting_tensors(config, file)
    _warn_of_extras(config, file)


def _raise_if_too_large(config: LatentDiffusionConfig, file: CheckpointFile) -> None:
    """Raises `UserError` if it would take long to build the model, and be in vain: a config may ask for many layers."""
    if config.least_tensors > max(QUICKLY_BUILT, len(file.tensors)):
        raise UserError(
            f"{file.path} does not hold the weights of this model: its config describes at least "
            f"{config.least_tensors:,} tensors, and the file holds {len(file.tensors):,}"
        )


def _fitting_tensors(config: LatentDiffusionConfig, file: CheckpointFile) -> dict[str, Tensor]:
    """The file's tensors by official name, after a comparison with those of the model."""
    found = {official_key(key): tensor for key, tensor in file.tensors.items()}
    _raise_unless_fitting(_shapes(config), found, file.path)
    return found


def _shapes(config: LatentDiffusionConfig) -> dict[str, torch.Size]:
    return {official_key(name): shape for name, shape in shapes_of(config).items()}


def _raise_unless_fitting(needed: dict[str, torch.Size], found: dict[str, Tensor], path: Path) -> None:
    """Raises `UserError` unless all that is needed was found, as numbers that can be computed with as they are."""
    compare_keys(needed, {key: tensor.shape for key, tensor in found.items()}).raise_if_any(path)
    whole = [key for key in needed if not found[key].is_floating_point()]
    scales = [key for key in found if SCALED.fullmatch(key)]
    if whole or scales:
        example = (
            f"{whole[0]} is {str(found[whole[0]].dtype).removeprefix('torch.')}" if whole else f"it has {scales[0]}"
        )
        raise UserError(f"{path} is quantized ({example[:200]}); get it in half or full precision")


def _warn_of_extras(config: LatentDiffusionConfig, file: CheckpointFile) -> None:
    """Names tensors that the model has no use for."""
    found = {official_key(key): tensor.shape for key, tensor in file.tensors.items()}
    if extras := compare_keys(_shapes(config), found).unexpected:
        verb = "is" if len(extras) == 1 else "are"
        warn_once(log, "%s of %s %s not used: %s", counted(len(extras), "tensor"), file.path, verb, first_of(extras))


def checkpoint_info(file: CheckpointFile) -> CheckpointInfo:
    """What the file says of itself."""
    try:
        return CheckpointInfo.from_metadata(file.metadata)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {str(error)[:200]}") from error
