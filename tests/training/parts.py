"""A DreamBooth module on the tiny model, with random moments in place of encoded photos."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from ldm.background import BackgroundWriter
from ldm.data.batches import DeviceShare, NoisyLatents
from ldm.errors import UserError
from ldm.interruption import Stopped, handled_signals
from ldm.nn.graphed import Capture
from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from ldm.training.trainer import FitOptions, fit
from tests.tiny import build_tiny_model, write_tokenizer

SHORT = DreamBoothConfig(iterations=4, save_every=2, learning_rate=1e-3, batch_size=1)
SUBJECT = Subject("can")
SEED = 7


@cache
def tokenizer() -> PromptTokenizer:
    """The tiny model's tokenizer."""
    with TemporaryDirectory() as directory:
        return load_tokenizer(write_tokenizer(Path(directory)))


def moments(count: int, views: int = 2, seed: int = 1) -> Tensor:
    """Posterior parameters (count views 8 4 4)."""
    return torch.randn(count, views, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


def build_module(
    config: DreamBoothConfig = SHORT, *, cls: type[DreamBooth] = DreamBooth, with_class: bool = True, **changes: Any
) -> DreamBooth:
    """A module of three photos and, unless `with_class` is off, four class images. `changes` are to the config."""
    ldm = build_tiny_model()
    ldm.tokenizer = tokenizer()
    class_moments = moments(4, seed=2) if with_class else None
    return cls(ldm, SUBJECT, moments(3), class_moments, replace(config, **changes), SEED)


def batch_of(module: DreamBooth, step: int) -> NoisyLatents:
    """The module's batch in this step of a run on one device."""
    return module.batches(DeviceShare(SEED, module.config.batch_size)).step(step)


def train(
    module: DreamBooth,
    run_dir: Path,
    save: Callable[[DreamBooth, int], None] = lambda module, step: None,
    *,
    logger: str = "none",
    autocast_dtype: torch.dtype | None = None,
    writer: BackgroundWriter | None = None,
    capture: Capture | None = None,
) -> int | None:
    """Trains on the CPU; returns the update after which a signal stopped it."""
    device, writer = torch.device("cpu"), writer or BackgroundWriter()
    try:
        with handled_signals():
            fit(module, FitOptions(run_dir, [device], autocast_dtype, logger, capture, writer), save)
    except Stopped as stop:
        return int(stop.after.removeprefix("update "))
    return None


def weights(module: DreamBooth) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in module.ldm.state_dict().items()}


# For trainings of any kind


class Logging:
    """Keeps what a training module logs, also in a step without a trainer."""

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        vars(self).setdefault("logged", {}).setdefault(name, []).append(torch.as_tensor(value).item())
        if self._trainer is not None:  # type: ignore[attr-defined]
            super().log(name, value, *args, **kwargs)  # type: ignore[misc]


def logged_first(module: nn.Module) -> dict[str, float]:
    """The first value of each name that a module has logged."""
    return {name: values[0] for name, values in vars(module)["logged"].items()}


def fit_on_cpu(
    module: Any, run_dir: Path, save: Any = lambda module, step: None, capture: Capture | None = None
) -> int | None:
    return fit(module, FitOptions(run_dir, [torch.device("cpu")], None, "none", capture), save)


def full_disk_at(broken: int) -> Callable[[Any, int], None]:
    """A save that fails at this step."""

    def save(module: Any, step: int) -> None:
        if step == broken:
            raise UserError("the disk is full")

    return save


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """Asserts that both hold the same weights, averages and buffers, bit for bit."""
    expected = other.state_dict()
    assert [name for name, value in one.state_dict().items() if not torch.equal(value, expected[name])] == []


def saved_step(run_dir: Path) -> int:
    """The number of updates in the resume state."""
    state = torch.load(run_dir / "resume.ckpt", weights_only=True)
    updates = {int(one["step"]) for one in state["optimizer_states"][0]["state"].values()}
    assert updates == {state["global_step"]}
    return int(state["global_step"])


@contextmanager
def each_update() -> Iterator[list[dict[str, float]]]:
    """Collects the optimizer's settings and the norm of the gradient of every update in this block."""
    updates: list[dict[str, float]] = []

    def note(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        group = optimizer.param_groups[0]
        gradients = [parameter.grad.norm() for parameter in group["params"] if parameter.grad is not None]
        norm = torch.stack(gradients).norm().item()
        updates.append({"lr": group["lr"], "weight_decay": group["weight_decay"], "grad_norm": norm})

    handle = register_optimizer_step_post_hook(note)
    try:
        yield updates
    finally:
        handle.remove()
