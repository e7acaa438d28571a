"""The judge's file: half-precision safetensors with its heads and shape in the metadata."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.keys import compare_keys
from ldm.checkpoint.metadata import PREFIX
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import snapshot, write_safetensors
from ldm.config import build_config
from ldm.errors import UserError
from ldm.nn.memory import weightless
from ldm.toyworld.judge.network import Judge, JudgeConfig

CONFIG, TOKENIZER = PREFIX + "judge", PREFIX + "judge_tokenizer"


def judge_writer(path: Path, judge: Judge, tokenizer_digest: str) -> Callable[[], None]:
    """Copies the current weights and returns a function that writes them atomically.

    `tokenizer_digest` is the SHA-256 of the tokenizer that it was trained with.
    """
    tensors = {
        name: snapshot(tensor, torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in judge.state_dict().items()
    }
    metadata = {"format": "pt", CONFIG: json.dumps(dataclasses.asdict(judge.config)), TOKENIZER: tokenizer_digest}
    return partial(_save, path, tensors, metadata)


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path} was not written: {name} is not finite as float16")
    write_safetensors(path, tensors, metadata)


def load_judge(path: Path) -> tuple[Judge, str]:
    """The judge in float32 on the CPU, in evaluation mode, and the digest of its tokenizer.

    Raises `UserError` if the file is damaged or no judge's.
    """
    file = read_checkpoint(path)
    config = _config(file)
    if config.least_tensors > len(file.tensors):
        raise UserError(
            f"{path} is damaged: its config describes at least {config.least_tensors:,} tensors, and it holds "
            f"{len(file.tensors):,}"
        )
    with weightless():
        judge = Judge(config)
    compare_keys(
        {name: tensor.shape for name, tensor in judge.state_dict().items()},
        {name: tensor.shape for name, tensor in file.tensors.items()},
    ).raise_if_any(path)
    needed = judge.state_dict()
    judge.load_state_dict(
        {name: snapshot(file.tensors[name], tensor.dtype) for name, tensor in needed.items()}, assign=True
    )
    return judge.eval().requires_grad_(False), file.metadata.get(TOKENIZER, "")


def _config(file: CheckpointFile) -> JudgeConfig:
    if CONFIG not in file.metadata:
        raise UserError(f"{file.path} is no judge: its metadata have no {CONFIG}")
    try:
        values = json.loads(file.metadata[CONFIG])
        if not isinstance(values, dict):
            raise ValueError("not a mapping")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {str(error)[:200]}") from error
    return build_config(JudgeConfig, values, f"{file.path}: metadata")
