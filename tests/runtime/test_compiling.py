"""`--compile`: when the UNet is recorded, and that recorded images are the plain ones."""

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
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.errors import UserError
from ldm.nn.graphed import capture_cuda_graph
from ldm.runtime import compiling
from ldm.runtime.batching import worker_pool
from ldm.runtime.compiling import (
    CALLS_WORTH_CAPTURING,
    CAPTURES,
    accelerate_unet,
    refuse_graphs_without_cuda,
    step_capture,
)
from ldm.runtime.models import ModelSlot, settings_of
from ldm.runtime.precision import Compute
from tests.commands.calls import call, difference, pixels
from tests.commands.fixtures import Sample, Trained
from tests.recording import Simulation
from tests.tiny import build_tiny_model, write_tiny_checkpoint

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """What `--compile full` records with."""
    simulation = Simulation()
    monkeypatch.setitem(CAPTURES, "full", simulation)
    return simulation


def model_on(device: torch.device) -> Any:
    """As much of a model as is looked at."""
    unet = SimpleNamespace(to=lambda memory_format: None)
    return SimpleNamespace(device=device, unet=unet, graphed_unet=None)


@pytest.mark.parametrize(
    ("asked", "device", "calls", "recorder"),
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
def test_when_the_unet_is_recorded_and_how(asked: str, device: torch.device, calls: int, recorder: str | None) -> None:
    ldm = model_on(device)
    accelerate_unet(ldm, asked, calls)
    assert (ldm.graphed_unet and ldm.graphed_unet.record) == (recorder and CAPTURES[recorder])


def test_four_images_are_drawn_plainly_and_200_class_images_with_graphs() -> None:
    assert 50 < CALLS_WORTH_CAPTURING <= 200 / 16 * 20


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_graphs_are_refused_where_there_are_none(device: str) -> None:
    refuse_graphs_without_cuda("graphs", CUDA)
    refuse_graphs_without_cuda("full", torch.device(device))
    with pytest.raises(UserError, match=f"--compile graphs needs a CUDA device, not {device}"):
        accelerate_unet(model_on(torch.device(device)), "graphs", 1000)


def test_a_recording_is_kept_while_it_is_wanted() -> None:
    ldm = model_on(CUDA)
    accelerate_unet(ldm, "auto", 1000)
    first = ldm.graphed_unet
    accelerate_unet(ldm, "auto", 1000)
    assert ldm.graphed_unet is first
    accelerate_unet(ldm, "auto", 10)
    assert ldm.graphed_unet is None


def draw(ldm: LatentDiffusion, seeds: list[int], **sampling: Any) -> Tensor:
    generator = torch.Generator().manual_seed(len(seeds))
    context, uncond = (torch.randn(1, 77, 32, generator=generator).expand(len(seeds), -1, -1) for _ in range(2))
    config = SamplingConfig(height=32, width=32, **sampling)
    return sample_images(ldm, classifier_free(context, uncond, config.guidance_scale), seeds, config)


@pytest.mark.parametrize(("sampler", "guidance_scale"), [("ddim", 1.0), *((sampler, 3.0) for sampler in SAMPLERS)])
def test_no_sampler_is_misled_by_outputs_that_are_overwritten(
    sampler: str, guidance_scale: float, full: Simulation
) -> None:
    sampling = {"sampler": sampler, "num_steps": 6, "guidance_scale": guidance_scale}
    ldm = build_tiny_model().eval()
    expected = [draw(ldm, seeds, **sampling) for seeds in ([1, 2], [3, 4], [5])]
    accelerate_unet(ldm, "full", 1)
    for seeds, images in zip(([1, 2], [3, 4], [5]), expected, strict=True):
        torch.testing.assert_close(draw(ldm, seeds, **sampling), images, rtol=0, atol=1e-4)
    assert full.recorded == 1
    assert full.replayed == 2 * (6 + (sampler == "plms"))  # but for the last, smaller batch


def test_other_weights_are_recorded_anew(tmp_path: Path, full: Simulation) -> None:
    files = [read_checkpoint(write_tiny_checkpoint(tmp_path / str(i), model=build_tiny_model(i))) for i in range(2)]
    settings = settings_of(files[0], None)[1]
    slot = ModelSlot(Compute(CPU))
    for number, file in enumerate(files, 1):
        ldm = slot.use(file, settings)
        accelerate_unet(ldm, "full", 1)
        drawn = draw(ldm, [1], num_steps=3)
        torch.testing.assert_close(drawn, draw(ModelSlot(Compute(CPU)).use(file, settings), [1], num_steps=3))
        assert full.recorded == number
    slot.use(files[1], settings)
    draw(ldm, [1], num_steps=3)
    assert full.recorded == 2


def test_one_thread_draws_with_a_recording(full: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    ldm, sampling = build_tiny_model(), SamplingConfig(height=32, width=32)
    assert worker_pool(ldm, sampling).workers == 4
    accelerate_unet(ldm, "full", 1)
    assert worker_pool(ldm, sampling) == WorkerPool()


def test_a_sweep_is_drawn_with_a_recording_of_each_checkpoint(
    txt2img: Sample, trained: Trained, full: Simulation
) -> None:
    plain = txt2img("-c", trained.root, "-v", 2, "-o", "plain")
    recorded = txt2img("-c", trained.root, "-v", 2, "--compile", "full")
    assert full.recorded == 4
    assert len(plain.images) == len(recorded.images) == 8
    assert all(difference(*pair) <= 1 for pair in zip(plain.images, recorded.images, strict=True))


def test_a_continued_call_may_be_compiled_otherwise_and_draws_anew_what_rounds_otherwise(
    txt2img: Sample, full: Simulation
) -> None:
    drawn = txt2img("-v", 1)
    again = txt2img("-r", drawn.directory, "--compile", "off")
    assert drawn.paths[0].stat().st_mtime_ns == again.paths[0].stat().st_mtime_ns
    assert not full.recorded
    txt2img("-r", drawn.directory, "--compile", "full")
    assert full.recorded == 1


def test_class_images_are_drawn_with_a_recording(
    trained: Trained, tiny_checkpoint: Path, subject_dir: Path, full: Simulation, tmp_path: Path
) -> None:
    words = ("-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, "--iterations", 1)
    outcome = call("dreambooth", *words, "--class-img-count", 3, "--gb", 1, "--no-previews", "--compile", "full")
    assert outcome.status == 0
    assert full.recorded >= 1
    assert full.replayed >= 3 * 3
    drawn, expected = (sorted((root / "class-images").rglob("*.png")) for root in (tmp_path, trained.root))
    assert all(difference(pixels(one), pixels(other)) <= 1 for one, other in zip(drawn, expected, strict=True))


def test_every_way_but_auto_and_off_has_its_recorder() -> None:
    assert {"auto", "off", *compiling.CAPTURES} == {"auto", "off", "graphs", "full"}


@pytest.mark.parametrize(
    ("device", "asked", "recorded"),
    [
        (CUDA, "auto", True),
        (CUDA, "graphs", True),
        (CUDA, "off", False),
        (CPU, "auto", False),
        (MPS, "auto", False),
    ],
)
def test_training_steps_are_recorded_on_cuda_unless_that_is_off(
    device: torch.device, asked: str, recorded: bool
) -> None:
    assert step_capture([device], asked) == (capture_cuda_graph if recorded else None)
