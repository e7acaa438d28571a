"""Writes a checkpoint in the official sd-v1-4.ckpt's layout with random weights.

    python -m tests.full_size.make_ckpt sd-v1-4.ckpt

It is made from the list of the official keys and shapes alone, not with this project's networks, and pickled as
pytorch-lightning 1.4.2 did: with the class ModelCheckpoint itself as a key among the callbacks.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import torch
from torch import Tensor

KEYS = Path(__file__).parents[1] / "fixtures" / "oracle" / "sd-v1-keys.json"
LIGHTNING_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint"


def random_weight(key: str, shape: list[int], generator: torch.Generator) -> Tensor:
    """About unit gain: normal over the square root of the fan-in; norms near the identity."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        is_norm = any(part in key for part in ("norm", "in_layers.0", "out_layers.0", "out.0"))
        return 0.02 * noise + (1.0 if is_norm and key.endswith("weight") else 0.0)
    if "embedding" in key:
        return 0.02 * noise
    fan_in = noise[0].numel()
    return noise / fan_in**0.5


def random_state_dict(seed: int) -> dict[str, Tensor]:
    """Every key of the official file; schedule buffers and position ids have plausible values."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape, dtype in json.loads(KEYS.read_text())["keys"]:
        if dtype != "float32":
            tensors[key] = torch.arange(shape[-1]).expand(shape).clone()
        elif "." not in key:
            tensors[key] = torch.linspace(0.001, 0.999, shape[0])
        else:
            tensors[key] = random_weight(key, shape, generator)
    return tensors


def write_official_ckpt(path: Path, state_dict: dict[str, Tensor]) -> None:
    """Pickles as Lightning 1.4.2 did, whether or not a Lightning is installed."""
    module = types.ModuleType(LIGHTNING_CALLBACK)
    callback = type("ModelCheckpoint", (), {"__module__": LIGHTNING_CALLBACK})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    there, sys.modules[LIGHTNING_CALLBACK] = sys.modules.get(LIGHTNING_CALLBACK), module
    try:
        torch.save(
            {
                "epoch": 0,
                "global_step": 470000,
                "pytorch-lightning_version": "1.4.2",
                "state_dict": {
                    **state_dict,
                    "model_ema.decay": torch.tensor(0.9999),
                    "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
                },
                "callbacks": {callback: {"monitor": "val/loss_simple_ema", "best_model_score": torch.tensor(0.1)}},
            },
            path,
        )
    finally:
        if there is None:
            del sys.modules[LIGHTNING_CALLBACK]
        else:
            sys.modules[LIGHTNING_CALLBACK] = there


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write, 4.3 GB")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_official_ckpt(options.path, random_state_dict(options.seed))
