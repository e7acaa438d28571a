"""Is our 8-bit AdamW as good as those of the libraries? Memory, time of an update, and losses beside float32 AdamW.

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --device cuda --weights 860000000

Contenders are torch's AdamW on float32 weights (fused), ours, torchao's (which compiles its update), and that of
bitsandbytes, each on float32 and on bfloat16 weights where it can. Those that are not installed are left out with a
note. On CUDA ours is measured with its kernel and, as `torch`, without it.

- State: bytes that the optimizer keeps for each weight, beyond the weight and its gradient.
- Update: N weights in matrices of 1024 x 1024; contenders take turns. The time for the 860 million weights of Stable
  Diffusion v1's UNet is that of N, multiplied; it grows in proportion.
- Loss: 200 steps of a small network that regresses a fixed function, the same batches for all, for three seeds; the
  mean of the last 20 steps, as a multiple of float32 AdamW's with the same seed.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim import Optimizer  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.measuring import ratio, seconds, take_turns  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.commands.options.common import number  # noqa: E402
from ldm.runtime.devices import parse_device  # noqa: E402
from ldm.training import adamw_8bit  # noqa: E402

EXACT, OURS, BY_TORCH, AO, BNB = "torch's AdamW, float32", "ours", "ours by torch", "torchao", "bitsandbytes"
SIDE = 1024
"""Of the matrices whose update is timed."""
UNET = 859_520_964
"""Weights of Stable Diffusion v1's UNet."""
RATE, LAST, WIDTH = 2e-3, 20, 128
"""Of the small network: learning rate, steps whose losses count, size of its layers."""
LOSS_TARGET = 1.02
Make = Callable[[list[nn.Parameter], int], Optimizer]
"""(weights, seed) -> optimizer."""


def contenders(device: torch.device) -> dict[str, tuple[torch.dtype, Make]]:
    """By name: the type of the weights, and the optimizer; those that are installed, the exact one first."""
    float32, bfloat16 = torch.float32, torch.bfloat16

    def ours(name: str, by_torch: bool = False) -> dict[str, tuple[torch.dtype, Make]]:
        def make(keep_low_bits: bool) -> Make:
            def build(weights: list[nn.Parameter], seed: int) -> Optimizer:
                optimizer = adamw_8bit.AdamW8bit(weights, lr=RATE, seed=seed, keep_low_bits=keep_low_bits)
                optimizer.use_kernel = not by_torch
                return optimizer

            return build

        return {
            f"{name}, float32": (float32, make(True)),
            f"{name}, bfloat16 and 8 more bits": (bfloat16, make(True)),
            f"{name}, bfloat16": (bfloat16, make(False)),
        }

    found: dict[str, tuple[torch.dtype, Make]] = {
        EXACT: (float32, lambda weights, seed: torch.optim.AdamW(weights, lr=RATE, fused=True)),
        **ours(OURS),
    }
    if device.type == "cuda":
        found |= ours(BY_TORCH, by_torch=True)
    return found | _torchao() | _bitsandbytes()


def _torchao() -> dict[str, tuple[torch.dtype, Make]]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        say("torchao is not installed and is left out")
        return {}

    def build(weights: list[nn.Parameter], seed: int) -> Optimizer:
        torch.manual_seed(seed)  # it rounds by torch's own random numbers
        return AdamW8bit(weights, lr=RATE, bf16_stochastic_round=True)

    return {
        f"{AO}, float32": (torch.float32, build),
        f"{AO}, bfloat16, rounded at random": (torch.bfloat16, build),
    }


def _bitsandbytes() -> dict[str, tuple[torch.dtype, Make]]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        say("bitsandbytes is not installed and is left out")
        return {}

    def build(weights: list[nn.Parameter], seed: int) -> Optimizer:
        return AdamW8bit(weights, lr=RATE)

    return {f"{BNB}, float32": (torch.float32, build), f"{BNB}, bfloat16": (torch.bfloat16, build)}


class Update:
    """Updates of weights with fixed gradients; `state_bytes` for each weight after the first."""

    def __init__(self, dtype: torch.dtype, make: Make, weights: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        values, gradient = (torch.randn(SIDE, SIDE, generator=generator).to(device, dtype) for _ in range(2))
        self.parameters = [nn.Parameter(values.clone()) for _ in range(max(1, weights // SIDE**2))]
        for parameter in self.parameters:
            parameter.grad = gradient
        self.device = device
        self.optimizer = make(self.parameters, 0)
        self.optimizer.step()
        self.state_bytes = state_bytes(self.optimizer) / sum(one.numel() for one in self.parameters)

    def __call__(self) -> float:
        return seconds(self.optimizer.step, self.device)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors that it keeps; a tensor that several weights share counts once."""
    storages = {}
    for value in tree_leaves([*optimizer.state.values()]):
        if isinstance(value, Tensor):
            names = getattr(value, "tensor_attrs", None)  # torchao's tensors are made of others
            for part in [getattr(value, name) for name in names] if names else [value]:
                storages[part.untyped_storage().data_ptr()] = part.nbytes
    return sum(storages.values())


def final_loss(dtype: torch.dtype, make: Make, seed: int, steps: int, device: torch.device) -> float:
    """The small network's mean loss in the last steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    model.to(device, dtype)
    function = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)) / WIDTH**0.5
    optimizer = make([*model.parameters()], seed)
    losses = []
    for step in range(steps):
        inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1000 * seed + step))
        outputs = model(inputs.to(device, dtype)).float()
        loss = (outputs - torch.tanh(inputs @ function).to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-LAST:]).mean())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = script_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--weights", type=number(int, 1), default=1 << 23, help="that are updated at once (default: 8388608)"
    )
    parser.add_argument("--runs", type=number(int, 1), default=7, help="updates of each contender (default: 7)")
    parser.add_argument("--steps", type=number(int, 1), default=200, help="whose losses are compared (default: 200)")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="of the losses (default: 3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="beside torch's AdamW: those whose names begin so")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", module="torch")
    device = parse_device(options.device)
    say(f"{machine()}\n{options.weights} weights, {options.steps} steps, {options.seeds} seeds\n")
    kinds = contenders(device)
    if options.only:
        kinds = {name: kind for name, kind in kinds.items() if name.startswith((EXACT, *options.only))}
    losses = {
        name: [final_loss(*kind, seed, options.steps, device) for seed in range(options.seeds)]
        for name, kind in kinds.items()
    }
    updates = {name: Update(*kind, options.weights, device) for name, kind in kinds.items()}
    times = take_turns(updates, options.runs)
    rows, figures, targets = [], {}, []
    for name, (dtype, _) in kinds.items():
        apart = ratio(losses[name], losses[EXACT])
        scale = UNET / (len(updates[name].parameters) * SIDE**2)
        update, relative = times[name].scaled(scale), ratio(times[name].values, times[EXACT].values)
        kept = f"{updates[name].state_bytes:.2f}"
        loss = f"{apart.median:.4f} ({min(apart.values):.4f} to {max(apart.values):.4f})"
        rows.append([name, 2 * dtype.itemsize, kept, update, relative, loss])
        figures[name] = {"state": updates[name].state_bytes, "seconds": times[name].values, "losses": losses[name]}
        if name.startswith(OURS):
            targets.append(Target(f"{name}: loss beside float32 AdamW's", apart.median, LOSS_TARGET, "x", at_most=True))
    header = [
        "contender, type of the weights",
        "bytes of a weight and its gradient",
        "bytes of state",
        "s, 860 M weights",
    ]
    say(table([*header, "times torch's AdamW", "loss, times torch's AdamW"], rows))
    write_json(options.json, {"machine": machine(), "weights": options.weights, "contenders": figures})
    return verdict(targets, options.strict)


if __name__ == "__main__":
    run_script(main)
