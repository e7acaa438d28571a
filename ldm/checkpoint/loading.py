"""From a file to a model: built without memory, checked key by key, then given the file's own tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.checkpoint.keys import PARTS, compare_keys, official_key
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.errors import UserError


@dataclass(frozen=True)
class Placement:
    """Where the weights go and in which floating-point type."""

    device: torch.device
    dtype: torch.dtype = torch.float32


def load_model(file: CheckpointFile | Path, config: LatentDiffusionConfig, placement: Placement) -> LatentDiffusion:
    """Builds the model on the meta device and assigns it the file's tensors, after a strict comparison of all keys.

    On the CPU and without a change of type the weights stay mapped from the file.
    """
    model = _build_empty(config)
    assign_parts(model, file if isinstance(file, CheckpointFile) else read_checkpoint(file), PARTS, placement)
    return model.to(placement.device).eval().requires_grad_(False)  # buffers go where the weights are


def assign_parts(model: LatentDiffusion, file: CheckpointFile, parts: Iterable[str], placement: Placement) -> None:
    """Gives the named `PARTS` of the model a file's weights. Raises `UserError` if the file doesn't fit the model."""
    found = _fitting_tensors(model, file)
    prefixes = tuple(PARTS[part] for part in parts)
    for name in model.state_dict():
        if (key := official_key(name)).startswith(prefixes):
            _set_parameter(model, name, found[key].to(placement.device, placement.dtype))


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
    found = {official_key(key): tensor.shape for key, tensor in file.tensors.items()}
    compare_keys(
        {official_key(prefix + name): weight.shape for name, weight in network.state_dict().items()},
        {key: shape for key, shape in found.items() if key.startswith(prefix)},
    ).raise_if_any(file.path)


def raise_unless_whole(file: CheckpointFile, config: LatentDiffusionConfig) -> None:
    """Raises `UserError` if the file doesn't hold all weights of such a model; reads none of them."""
    _fitting_tensors(_build_empty(config), file)


def _build_empty(config: LatentDiffusionConfig) -> LatentDiffusion:
    """The model with shapes but no weights."""
    with torch.device("meta"):
        return LatentDiffusion(config)


def _fitting_tensors(model: LatentDiffusion, file: CheckpointFile) -> dict[str, Tensor]:
    """The file's tensors by official name, after a strict comparison with those of the model."""
    found = {official_key(key): tensor for key, tensor in file.tensors.items()}
    compare_keys(
        {official_key(name): tensor.shape for name, tensor in model.state_dict().items()},
        {key: tensor.shape for key, tensor in found.items()},
    ).raise_if_any(file.path)
    return found


def checkpoint_info(file: CheckpointFile) -> CheckpointInfo:
    """What the file says of itself."""
    try:
        return CheckpointInfo.from_metadata(file.metadata)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {str(error)[:200]}") from error


def _set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    trains = model.get_parameter(name).requires_grad
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=trains))
