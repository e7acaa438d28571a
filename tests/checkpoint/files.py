"""Files to read: a few tensors in the official layout, as different tools write them, and as attackers would."""

import builtins
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

LIGHTNING_MODULE = "pytorch_lightning.callbacks.model_checkpoint"


def few_tensors() -> dict[str, Tensor]:
    """One tensor for each part, of several types."""
    generator = torch.Generator().manual_seed(0)
    return {
        "betas": torch.linspace(0.1, 0.2, 10),
        "model.diffusion_model.out.2.weight": torch.randn(4, 3, generator=generator),
        "first_stage_model.quant_conv.bias": torch.randn(8, generator=generator).half(),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


def same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether names, order, types and all values are the same."""
    return list(actual) == list(expected) and all(
        actual[key].dtype == expected[key].dtype and torch.equal(actual[key], expected[key]) for key in expected
    )


def lightning_content(model_checkpoint: Any, state_dict: dict[str, Tensor]) -> dict[str, Any]:
    """What pytorch-lightning 1.4.2 saves; its callbacks' states stand under the callbacks' classes."""
    return {
        "epoch": 26,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state_dict,
        "callbacks": {
            model_checkpoint: {
                "monitor": "val/loss_simple_ema",
                "best_model_score": torch.tensor(0.1353),
                "best_model_path": "checkpoints/epoch=000005.ckpt",
                "current_score": None,
                "dirpath": "checkpoints",
            }
        },
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 7, "lr_lambdas": [None]}],
    }


def pretend_lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as pytorch-lightning's `ModelCheckpoint`; the real package is hidden meanwhile."""
    names = LIGHTNING_MODULE.split(".")
    for length in range(1, len(names) + 1):
        monkeypatch.setitem(sys.modules, ".".join(names[:length]), ModuleType(".".join(names[:length])))
    callback = type("ModelCheckpoint", (), {"__module__": LIGHTNING_MODULE})
    monkeypatch.setattr(sys.modules[LIGHTNING_MODULE], "ModelCheckpoint", callback, raising=False)
    return callback


def replace_pickle(path: Path, change: Callable[[bytes], bytes], target: Path) -> None:
    """Copies a torch zip file with its pickle changed; all checksums are right."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            copy.writestr(name, change(content) if name.endswith("/data.pkl") else content)


class Calls:
    """Pickles as a call of `function`: a careless unpickler makes that call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


ATTACKS: dict[str, Callable[[Path], Calls]] = {
    "posix.system": lambda marker: Calls(os.system, f"touch '{marker}'"),
    "builtins.eval": lambda marker: Calls(builtins.eval, f"open({str(marker)!r}, 'w').close()"),
    "builtins.exec": lambda marker: Calls(builtins.exec, f"open({str(marker)!r}, 'w').close()"),
    "subprocess.Popen": lambda marker: Calls(subprocess.Popen, ["touch", str(marker)]),
}
"""What a pickle may name, and a call of it that leaves the file `marker` behind."""
