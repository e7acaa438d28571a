"""`--compile`: when the UNet is captured, and that its images are those of eager calls."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.errors import UserError
from ldm.nn.graphed import capture_cuda_graph
from ldm.runtime.batching import worker_pool
from ldm.runtime.compiling import (
    CALLS_WORTH_CAPTURING,
    CAPTURES,
    compile_unet,
    refuse_graphs_without_cuda,
    step_capture,
)
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot, settings_of
from tests.commands.calls import call, difference, pixels
from tests.commands.fixtures import Sample, Trained
from tests.each_sampler import EACH_SAMPLER
from tests.simulated_capture import SimulatedCapture
from tests.tiny import build_tiny_model, write_tiny_checkpoint

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> SimulatedCapture:
    """The capture of `--compile full`."""
    simulation = SimulatedCapture()
    monkeypatch.setitem(CAPTURES, "full", simulation)
    return simulation


def model_on(device: torch.device) -> Any:
    """The parts of a model that `compile_unet` uses."""
    unet = SimpleNamespace(to=lambda memory_format: None)
    return SimpleNamespace(device=device, unet=unet, graphed_unet=None)


@pytest.mark.parametrize(
    ("compile_", "device", "calls", "capture"),
    [
        ("off", CUDA, 10_000, None),
        ("off", CPU, 10_000, None),
        ("auto", CPU, 10_000, None),
        ("auto", torch.device("mps"), 10_000, None),
        ("auto", CUDA, CALLS_WORTH_CAPTURING - 1, None),
        ("auto", CUDA, CALLS_WORTH_CAPTURING, "graphs"),
        ("graphs", CUDA, 1, "graphs"),
        ("full", CUDA, 1, "full"),
        ("full", CPU, 1, "full"),
    ],
)
def test_when_the_unet_is_captured_and_how(
    compile_: str, device: torch.device, calls: int, capture: str | None
) -> None:
    ldm = model_on(device)
    compile_unet(ldm, compile_, calls)
    assert (ldm.graphed_unet and ldm.graphed_unet.capture) == (capture and CAPTURES[capture])


def test_four_images_are_sampled_eagerly_and_200_class_images_with_graphs() -> None:
    assert 50 < CALLS_WORTH_CAPTURING <= 200 / 16 * 20


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_graphs_are_refused_on_other_devices(device: str) -> None:
    refuse_graphs_without_cuda("graphs", CUDA)
    refuse_graphs_without_cuda("full", torch.device(device))
    with pytest.raises(UserError, match=f"--compile graphs needs a CUDA device, not {device}"):
        compile_unet(model_on(torch.device(device)), "graphs", 1000)


def test_a_graphed_unet_is_kept_until_it_is_switched_off() -> None:
    ldm = model_on(CUDA)
    compile_unet(ldm, "auto", 1000)
    first = ldm.graphed_unet
    compile_unet(ldm, "auto", 1000)
    assert ldm.graphed_unet is first
    compile_unet(ldm, "auto", 10)
    assert ldm.graphed_unet is None


def sample(ldm: LatentDiffusion, seeds: list[int], **sampling: Any) -> Tensor:
    generator = torch.Generator().manual_seed(len(seeds))
    context, uncond = (torch.randn(1, 77, 32, generator=generator).expand(len(seeds), -1, -1) for _ in range(2))
    config = SamplingConfig(height=32, width=32, **sampling)
    return sample_images(ldm, classifier_free(context, uncond, config.guidance_scale), seeds, config)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
@pytest.mark.parametrize("guidance_scale", [3.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_every_sampler_works_with_overwritten_outputs(
    sampler: str, guidance_scale: float, full: SimulatedCapture
) -> None:
    sampling = {"sampler": sampler, "num_steps": 6, "guidance_scale": guidance_scale}
    ldm = build_tiny_model().eval()
    expected = [sample(ldm, seeds, **sampling) for seeds in ([1, 2], [3, 4], [5])]
    compile_unet(ldm, "full", 1)
    for seeds, images in zip(([1, 2], [3, 4], [5]), expected, strict=True):
        torch.testing.assert_close(sample(ldm, seeds, **sampling), images, rtol=0, atol=1e-4)
    assert full.captured == 1
    assert full.replayed == 2 * {"plms": 7, "heun": 11}.get(sampler, 6)  # but for the last, smaller batch


def test_other_weights_are_captured_again(tmp_path: Path, full: SimulatedCapture) -> None:
    files = [read_checkpoint(write_tiny_checkpoint(tmp_path / str(i), model=build_tiny_model(i))) for i in range(2)]
    settings = settings_of(files[0], None)[1]
    slot = ModelSlot(Compute(CPU))
    for number, file in enumerate(files, 1):
        ldm = slot.use(file, settings)
        compile_unet(ldm, "full", 1)
        sampled = sample(ldm, [1], num_steps=3)
        torch.testing.assert_close(sampled, sample(ModelSlot(Compute(CPU)).use(file, settings), [1], num_steps=3))
        assert full.captured == number
    slot.use(files[1], settings)
    sample(ldm, [1], num_steps=3)
    assert full.captured == 2


def test_one_worker_uses_a_graphed_unet(full: SimulatedCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    ldm, sampling = build_tiny_model(), SamplingConfig(height=32, width=32)
    assert worker_pool(ldm, sampling).workers == 4
    compile_unet(ldm, "full", 1)
    assert worker_pool(ldm, sampling) == WorkerPool()


def test_a_comparison_captures_each_checkpoint(txt2img: Sample, trained: Trained, full: SimulatedCapture) -> None:
    plain = txt2img("-c", trained.root, "-v", 2, "-o", "plain")
    compiled = txt2img("-c", trained.root, "-v", 2, "--compile", "full")
    assert full.captured == 4
    assert len(plain.images) == len(compiled.images) == 8
    assert all(difference(*pair) <= 1 for pair in zip(plain.images, compiled.images, strict=True))


def test_a_resumed_call_may_change_compile_and_samples_again_what_rounds_differently(
    txt2img: Sample, full: SimulatedCapture
) -> None:
    sampled = txt2img("-v", 1)
    again = txt2img("-r", sampled.directory, "--compile", "off")
    assert sampled.paths[0].stat().st_mtime_ns == again.paths[0].stat().st_mtime_ns
    assert not full.captured
    txt2img("-r", sampled.directory, "--compile", "full")
    assert full.captured == 1


def test_class_images_are_sampled_with_a_captured_unet(
    trained: Trained, tiny_checkpoint: Path, subject_dir: Path, full: SimulatedCapture, tmp_path: Path
) -> None:
    words = ("-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, "--iterations", 1)
    outcome = call("dreambooth", *words, "--class-img-count", 3, "--gb", 1, "--no-previews", "--compile", "full")
    assert outcome.status == 0
    assert full.captured >= 1
    assert full.replayed >= 3 * 3
    sampled, expected = (sorted((root / "class-images").rglob("*.png")) for root in (tmp_path, trained.root))
    assert all(difference(pixels(one), pixels(other)) <= 1 for one, other in zip(sampled, expected, strict=True))


@pytest.mark.parametrize(
    ("device", "compile_", "captured"),
    [(CUDA, "auto", True), (CUDA, "graphs", True), (CUDA, "off", False), (CPU, "auto", False), (MPS, "auto", False)],
)
def test_training_steps_are_captured_on_cuda_unless_switched_off(
    device: torch.device, compile_: str, captured: bool
) -> None:
    assert step_capture([device], compile_) == (capture_cuda_graph if captured else None)
