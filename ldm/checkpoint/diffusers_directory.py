"""A diffusers directory as a checkpoint: the weights of its three networks, under official names."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoint.diffusers_config import described_model, read_json
from ldm.checkpoint.diffusers_names import FOLDERS, diffusers_names, to_official
from ldm.checkpoint.metadata import PREFIX
from ldm.config import build_config
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.files import natural_key
from ldm.user_files import DIFFUSERS_INDEX, is_diffusers_directory, resolved

Content = tuple[Mapping[str, Tensor], dict[str, str]]
"""The tensors of a file by name, and its metadata."""
ReadContent = Callable[[Path], Content]
"""Reads one file."""

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_OLD_STEMS = {**_STEMS, "text_encoder": "pytorch_model"}
"""The names of the files of weights, and of those that are pickles."""


def files_of(path: Path) -> list[Path]:
    """The files that determine a checkpoint's weights: the file itself, or those of a diffusers directory."""
    if not is_diffusers_directory(path):
        return [path]
    configs = [path / folder / "config.json" for folder in FOLDERS.values()]
    configs += [path / DIFFUSERS_INDEX, path / "scheduler" / "scheduler_config.json"]
    weights = [file for folder in FOLDERS.values() for file in weight_files(path / folder)]
    return [*filter(Path.is_file, configs), *weights]


def read_diffusers_directory(directory: Path, read: ReadContent) -> Content:
    """The tensors of all networks by official name, and metadata with the model's shape. `read` reads one file.

    A directory without an autoencoder is read without one. Raises `UserError` if another network is missing, or if the
    model is of another family.
    """
    described = described_model(directory)
    names = diffusers_names(build_config(LatentDiffusionConfig, described["model"], str(directory)))
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    parts = {}
    for part, folder in FOLDERS.items():
        files = weight_files(directory / folder)
        if not files and part != "autoencoder":
            expected = directory / folder / f"{_STEMS[folder]}.safetensors"
            raise UserError(f"{directory} is a diffusers directory without {expected}: fetch the directory again")
        for file in files:
            found, own = read(file)
            tensors |= {f"{folder}/{key}": tensor for key, tensor in found.items()}
            metadata |= own if part == "unet" else {}
        parts[part] = f"{part} of {' '.join(map(_identity, files))}"
    config = _own_config(metadata, described)
    metadata |= {PREFIX + "config": json.dumps(config), PREFIX + "parts": json.dumps(parts)}
    return to_official(tensors, names), metadata


def weight_files(folder: Path) -> list[Path]:
    """The files of one network: in full precision if there are some, safetensors before pickles; empty if none."""
    for suffix, stem in (("safetensors", _STEMS.get(folder.name)), ("bin", _OLD_STEMS.get(folder.name))):
        stem = stem or _STEMS["unet"]
        for variant in ("", *_variants(folder, stem, suffix)):
            dotted = f".{variant}" if variant else ""
            if (single := folder / f"{stem}{dotted}.{suffix}").is_file():
                return [single]
            if (index := folder / f"{stem}.{suffix}.index{dotted}.json").is_file():
                return _shards(index)
    return []


def _variants(folder: Path, stem: str, suffix: str) -> list[str]:
    """The names of the variants that are there, such as fp16, which goes first."""
    single = {path.name.split(".")[1] for path in folder.glob(f"{stem}.*.{suffix}") if path.name.count(".") == 2}
    sharded = {path.name.split(".")[-2] for path in folder.glob(f"{stem}.{suffix}.index.*.json")}
    return sorted((single | sharded), key=lambda variant: (variant != "fp16", variant))


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all beside it."""
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{index} should name the file of each weight under weight_map")
    names = {str(name) for name in mapping.values()}
    if foreign := [name for name in names if Path(name).name != name]:
        raise UserError(f"{index} names {foreign[0][:80]!r}, which is not a file beside it")
    files = [index.parent / name for name in names]
    if missing := sorted(file.name for file in files if not file.is_file()):
        raise UserError(f"{index} names {missing[0]}, which is missing ({len(missing)} of {len(files)} are): fetch it")
    return sorted(files, key=natural_key)


def _own_config(metadata: Mapping[str, str], described: dict[str, Any]) -> dict[str, Any]:
    """What the JSON files describe, with the YAML that this project wrote into the UNet's file, if it did.

    The JSON files decide on the shape of the model; the YAML may only spell it otherwise.
    """
    try:
        own = json.loads(metadata.get(PREFIX + "config", "{}"))
        model = own.get("model", {}) if isinstance(own, dict) else None
        same = model and _normalized(model) == _normalized(described["model"])
    except (ValueError, RecursionError, UserError):
        return described
    return {**described, **own, "model": model if same else described["model"]} if model else described


def _normalized(model: Mapping[str, Any]) -> LatentDiffusionConfig:
    """A model's shape, with its lists of attention resolutions in one order."""
    config = build_config(LatentDiffusionConfig, model, "the UNet's file")
    resolutions = tuple(sorted(config.unet.attention_resolutions))
    return replace(config, unet=replace(config.unet, attention_resolutions=resolutions))


def _identity(file: Path) -> str:
    stat = file.stat()
    return f"{resolved(file)} {stat.st_size} {stat.st_mtime_ns}"
