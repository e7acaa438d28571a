"""The tiny model as a diffusers directory, in each way in which one is saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.checkpoint.diffusers_writing import write_diffusers_directory
from ldm.nn.tokenizer import tokenizer_files
from tests.tiny import build_tiny_model, tiny_config, write_tokenizer

UNET = "diffusion_pytorch_model"


def write_tiny_directory(directory: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Writes the tiny model with its tokenizer as a diffusers directory."""
    tensors = {key: tensor.to(dtype) for key, tensor in build_tiny_model(seed).state_dict().items()}
    tokenizer = tokenizer_files(write_tokenizer(directory.parent / "tokenizer-of-tiny"))
    write_diffusers_directory(directory, tensors, tiny_config(), pixels=32, tokenizer=tokenizer, metadata={})
    shutil.rmtree(directory.parent / "tokenizer-of-tiny")
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard(directory: Path) -> None:
    """The UNet in three files with an index."""
    path = directory / "unet" / f"{UNET}.safetensors"
    tensors = load_file(path)
    files = [f"{UNET}-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    where = {key: files[index % 3] for index, key in enumerate(tensors)}
    for file in files:
        save_file({key: tensor for key, tensor in tensors.items() if where[key] == file}, path.parent / file)
    (path.parent / f"{UNET}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    path.unlink()


def as_variant(directory: Path) -> None:
    """Every file of weights named for fp16."""
    for path in directory.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))


def as_pickles(directory: Path) -> None:
    """Every file of weights as torch saved it before safetensors; the autoencoder's attention with its older names."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key.replace(name, old)
            if "mid_block.attentions.0" in key and key.startswith(("encoder", "decoder"))
            else key: t
            for key, t in tensors.items()
            for name, old in [next(((n, o) for n, o in older.items() if n in key), ("", ""))]
        }

    for path in directory.glob("*/*.safetensors"):
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(renamed(load_file(path)), path.with_name(f"{stem}.bin"))
        path.unlink()


def with_one_tokenizer_file(directory: Path) -> None:
    """`tokenizer.json` alone, as transformers 5 saves a tokenizer."""
    folder = directory / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    for path in folder.iterdir():
        path.unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": []}}))


def without_text_model(directory: Path) -> None:
    """The text encoder's keys as newer versions of transformers name them."""
    path = directory / "text_encoder" / "model.safetensors"
    save_file({key.removeprefix("text_model."): tensor for key, tensor in load_file(path).items()}, path)


WAYS: dict[str, Callable[[Path], None]] = {
    "sharded": shard,
    "a variant": as_variant,
    "pickles": as_pickles,
    "tokenizer.json": with_one_tokenizer_file,
    "newer names": without_text_model,
}
