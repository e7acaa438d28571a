"""The first stage from scratch: its losses by hand, its teacher, and that it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.config import build_config
from ldm.data.batches import ImageBatch
from ldm.data.captioned import find_captioned
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, ResnetBlock
from ldm.training import autoencoder as stage
from ldm.training.autoencoder import FIRST_LOGVAR, AutoencoderTraining, PatchPCA, edge_error, initialise, psnr
from ldm.training.config import AutoencoderTrainingConfig
from tests.scratch import SCRATCH_YAML, write_captioned
from tests.training.parts import Logging, assert_same, fit_on_cpu, full_disk_at, logged_first


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve images. They are shared: don't write to them."""
    directory = write_captioned(tmp_path_factory.mktemp("captioned") / "pictures")
    return [image.path for image in find_captioned(directory)]


class Observed(Logging, AutoencoderTraining):
    pass


def build_module(paths: list[Path], *, workers: int = 0, **changes: Any) -> Observed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = AutoencoderKL(build_config(AutoencoderConfig, SCRATCH_YAML["model"]["autoencoder"], "scratch"))
    initialise(autoencoder)
    values = {**SCRATCH_YAML["autoencoder_training"], **changes}
    config = build_config(AutoencoderTrainingConfig, values, "scratch")
    return Observed(autoencoder, paths, config, seed=7, workers=workers)


# Numbers


def test_psnr_by_hand() -> None:
    """The range of an image in [-1, 1] is 2: 10 log10(4 / mean square)."""
    error = torch.stack([torch.full((3, 4, 4), 0.02), torch.full((3, 4, 4), 2.0), torch.zeros(3, 4, 4)])
    error[2, 0, 0, 0] = 1.0
    assert psnr(error).tolist() == pytest.approx([40.0, 0.0, 10 * math.log10(4 * 48)], rel=1e-5)
    assert psnr(error.bfloat16()).dtype == torch.float32


def test_edge_error_by_hand() -> None:
    """Neighbours in a row differ by 3, those in a column by 1; a shift of all colours is no error of edges."""
    error = 3.0 * torch.arange(4.0) + torch.arange(5.0)[:, None]
    assert edge_error(error.expand(2, 3, 5, 4)).item() == pytest.approx(2.0)
    assert edge_error(torch.full((1, 3, 4, 4), 0.7)).item() == 0.0


def batch_of(paths: list[Path]) -> ImageBatch:
    images = torch.stack([to_tensor(fit_image(read_image(path), 16, 16)) for path in paths[:3]])
    return ImageBatch(images=images, noise=torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_terms(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"absolute_weight": 0.7, "square_weight": 3.0, "edge_weight": 0.4, "kl_weight": 0.02}
    module, batch = build_module(paths, teacher_iterations=0, **weights), batch_of(paths)
    monkeypatch.setattr(Observed, "trainer", type("Trainer", (), {"global_step": 0}))
    total = module.training_step(batch, 0).item()
    posterior = module.autoencoder.encode(batch["images"])
    error = module.autoencoder.decode(posterior.mean + posterior.std * batch["noise"]) - batch["images"]
    expected = {
        "loss/absolute": 0.7 * error.abs().mean().item(),
        "loss/square": 3.0 * error.square().mean().item(),
        "loss/edges": 0.4 * edge_error(error).item(),
        "loss/kl": 0.02 * posterior.kl().sum().item() / batch["images"].numel(),
    }
    expected |= {"loss/total": sum(expected.values()), "psnr": psnr(error).mean().item()}
    assert logged_first(module) == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(expected["loss/total"], rel=1e-5)


# The beginning


def test_it_begins_with_little_noise_and_identical_residuals(paths: list[Path]) -> None:
    module = build_module(paths)
    posterior = module.autoencoder.encode(batch_of(paths)["images"])
    assert posterior.logvar.mean().item() == pytest.approx(FIRST_LOGVAR, abs=0.3)
    blocks = [block for block in module.autoencoder.modules() if isinstance(block, ResnetBlock)]
    assert blocks
    for block in blocks:
        x = torch.randn(1, block.norm1.num_channels, 4, 4)
        assert torch.equal(block(x), block.nin_shortcut(x))


# The teacher


def test_the_teacher_is_fitted_to_the_images_and_used_in_its_updates_only(paths: list[Path], tmp_path: Path) -> None:
    module = build_module(paths, iterations=4, teacher_iterations=3)
    fit_on_cpu(module, tmp_path)
    expected = PatchPCA(2, 4)
    expected.fit(torch.stack([to_tensor(fit_image(read_image(path), 16, 16)) for path in paths]))
    assert torch.equal(module.teacher.components, expected.components)
    assert torch.equal(module.teacher.mean, expected.mean)
    logged = vars(module)["logged"]
    assert (len(logged["loss/teacher"]), len(logged["loss/total"])) == (3, 4)


@torch.no_grad()
def test_with_a_teacher_the_decoder_decodes_its_codes(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = build_module(paths, teacher_iterations=5), batch_of(paths)
    module.teacher.fit(batch["images"])
    monkeypatch.setattr(Observed, "trainer", type("Trainer", (), {"global_step": 4}))
    module.training_step(batch, 0)
    posterior, codes = module.autoencoder.encode(batch["images"]), module.teacher(batch["images"])
    error = module.autoencoder.decode(codes + posterior.std * batch["noise"]) - batch["images"]
    logged = logged_first(module)
    assert logged["loss/teacher"] == pytest.approx((posterior.mean - codes).square().mean().item(), rel=1e-5)
    assert logged["loss/absolute"] == pytest.approx(error.abs().mean().item(), rel=1e-5)


def test_without_a_teacher_no_image_is_read_before_the_first_batch(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "read_image", None)
    fit_on_cpu(build_module(paths, iterations=1, teacher_iterations=0), tmp_path)


def test_a_resumed_training_keeps_its_teacher(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitting it again may take minutes."""
    fit_on_cpu(build_module(paths, iterations=3, teacher_iterations=5), tmp_path)
    monkeypatch.setattr(stage, "read_image", None)
    continued = build_module(paths, iterations=4, teacher_iterations=5)
    fit_on_cpu(continued, tmp_path)
    assert continued.teacher.fitted


# Training


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_training_resumes_to_the_very_same_weights(
    workers: int, paths: list[Path], tmp_path: Path
) -> None:
    whole = build_module(paths, workers=workers)
    fit_on_cpu(whole, tmp_path / "whole")
    with pytest.raises(UserError, match="the disk is full"):
        fit_on_cpu(build_module(paths, workers=workers), tmp_path / "run", full_disk_at(6))
    continued = build_module(paths, workers=workers)
    fit_on_cpu(continued, tmp_path / "run")
    assert vars(continued)["logged"]["loss/total"] == vars(whole)["logged"]["loss/total"][3:]
    assert_same(continued, whole)


def reconstruction_error(module: AutoencoderTraining, images: Tensor) -> float:
    with torch.no_grad(), module.average.swapped_in():
        return (module.autoencoder.decode(module.autoencoder.encode(images).mean) - images).square().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(("teacher_iterations", "times"), [pytest.param(0, 2, marks=pytest.mark.slow), (20, 5)])
def test_training_lowers_the_error(teacher_iterations: int, times: int, paths: list[Path], tmp_path: Path) -> None:
    """The reconstruction error of the averaged weights falls by this factor, faster with a teacher."""
    images = batch_of(paths)["images"]
    changes = {"iterations": 40, "save_every": 40, "batch_size": 6, "learning_rate": 5e-3}
    module = build_module(paths, teacher_iterations=teacher_iterations, **changes)
    before = reconstruction_error(module, images)
    fit_on_cpu(module, tmp_path)
    assert reconstruction_error(module, images) < before / times


def test_an_unreadable_image_in_the_middle_stops_it_by_name(tmp_path: Path) -> None:
    directory = write_captioned(tmp_path / "pictures", 4)
    paths = [image.path for image in find_captioned(directory)]
    (directory / "2.png").write_bytes(b"no image")
    for workers in (0, 1):
        module = build_module(paths, workers=workers, batch_size=1, teacher_iterations=0)
        with pytest.raises(UserError, match=r"^.*2\.png is not a readable image \(text\)$"):
            fit_on_cpu(module, tmp_path / f"run-{workers}")
