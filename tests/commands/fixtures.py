"""Training runs on the tiny model, made once for all tests that look at them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from ldm.nn.unet import UNet
from tests.commands.calls import Outcome, Sampled, call
from tests.commands.machine import Machine


@dataclass(frozen=True)
class Trained:
    """A run of dreambooth.py that went through."""

    directory: Path
    outcome: Outcome

    @property
    def root(self) -> Path:
        """What was given as --output-dir."""
        return self.directory.parent

    def step(self, number: int) -> Path:
        """The checkpoint of this step."""
        return self.directory / f"step-{number:05d}.safetensors"


def write_photos(directory: Path, count: int = 3) -> Path:
    """Images of a red disc that are not symmetric."""
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        photo = Image.new("RGB", (40 + 8 * index, 44), (60 * index, 120, 255 - 60 * index))
        ImageDraw.Draw(photo).ellipse((4, 8 + index, 22, 30), fill=(230, 30, 20))
        photo.save(directory / f"{index}.png")
    return directory


@pytest.fixture(scope="session")
def subject_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos. They are shared: don't write to them."""
    return write_photos(tmp_path_factory.mktemp("subject") / "can")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, subject_dir: Path) -> Trained:
    """Seven updates with the model's own defaults, saved at 3, 6 and 7. It is shared: don't write to it."""
    root = tmp_path_factory.mktemp("trained") / "ckpts"
    outcome = call(
        "dreambooth", "-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", root,
        "--iterations", 7, "-s", 3, "--class-img-count", 3,
    )  # fmt: skip
    assert outcome.status == 0, outcome.said
    return Trained(root / "tin-can-1", outcome)


EXACT = (
    "-t", "--flip", "--lr-schedule", "cosine", "--warmup-steps", 3, "--iterations", 12, "-s", 3,
    "--save-dtype", "fp32", "--seed", 7, "--batch-size", 2, "--class-img-count", 3,
    "--preview-prompt", "a photo of sks {class}", "a photo of a {class}",
)  # fmt: skip
"""Options of a run in which every kind of randomness and state plays a part."""


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, subject_dir: Path) -> Trained:
    """A run with the options `EXACT`, saved at 3, 6, 9 and 12. It is shared: don't write to it."""
    root = tmp_path_factory.mktemp("uninterrupted")
    outcome = call("dreambooth", "-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", root, *EXACT)
    assert outcome.status == 0, outcome.said
    return Trained(root / "can-1", outcome)


Sample = Callable[..., Sampled]


@pytest.fixture
def txt2img(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Runs txt2img.py in an empty directory, with the tiny model unless told otherwise; returns what it wrote."""
    monkeypatch.chdir(tmp_path)
    return _sampling("txt2img", tiny_checkpoint)


@pytest.fixture
def img2img(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Runs img2img.py likewise."""
    monkeypatch.chdir(tmp_path)
    return _sampling("img2img", tiny_checkpoint)


def _sampling(command: str, checkpoint: Path) -> Sample:
    def sample(*arguments: object) -> Sampled:
        named = {"-c", "--ckpt-path"} & set(arguments)
        outcome = call(command, *arguments, *([] if named else ["-c", checkpoint]))
        assert outcome.status == 0, outcome.said
        directory = Path(outcome.said.rstrip().rsplit(" in ", 1)[1])
        return Sampled(directory, outcome.said)

    return sample


@dataclass
class UNetCall:
    """What the UNet was given and computed in."""

    batch: int
    latents: tuple[int, ...]
    weight_dtype: Any
    conv_dtype: Any


@pytest.fixture
def unet_calls(monkeypatch: pytest.MonkeyPatch) -> list[UNetCall]:
    """Every pass through a UNet from now on."""
    calls: list[UNetCall] = []
    forward = UNet.forward

    def watched(self: UNet, latents: Any, timesteps: Any, context: Any) -> Any:
        seen: list[Any] = []
        first = self.input_blocks[0][0]  # type: ignore[index]
        handle = first.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
        try:
            return forward(self, latents, timesteps, context)
        finally:
            handle.remove()
            calls.append(UNetCall(len(latents), tuple(latents.shape[1:]), self.dtype, seen[0]))

    monkeypatch.setattr(UNet, "forward", watched)
    return calls


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Torch sees no other device than the CPU, until `has` gives it some."""
    return Machine(monkeypatch)
