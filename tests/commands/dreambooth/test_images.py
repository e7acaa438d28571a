"""The images that a run trains on: class images, shared by runs that would sample the same, and their encoding."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth import images as training_images
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.images import encode_images, views_together
from ldm.commands.dreambooth.plan import RunPlan
from ldm.config import build_config, read_yaml, to_yaml
from ldm.data import images as data_images
from ldm.data.images import read_ahead
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderKL, DiagonalGaussian
from ldm.runtime.devices import Compute
from ldm.runtime.models import DEFAULT_CONFIG, EMBEDDED, Settings, settings_of
from ldm.training.dreambooth_config import DreamBoothConfig
from tests.commands.calls import call, difference, pixels, refused
from tests.commands.dreambooth.fine_tuning import FineTune, Plan, scalars
from tests.commands.fixtures import Trained, UNetCall, write_photos
from tests.tiny import build_tiny_model, write_tiny_checkpoint


def test_class_images_are_sampled_by_the_base_model_as_txt2img_would(trained: Trained, tiny_checkpoint: Path) -> None:
    directory = next((trained.root / "class-images").iterdir())
    assert directory.name.startswith("a-photo-of-a-tin-can-")
    assert sorted(path.name for path in directory.glob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    out = trained.root.parent / "class-out"
    outcome = call("txt2img", "-c", tiny_checkpoint, "-p", "a photo of a Tin Can", "-v", 3, "-o", out)
    assert outcome.status == 0
    for index, seed in enumerate((42, 43, 44)):
        sampled = pixels(next(out.glob(f"*/*_{seed}.png")))
        assert difference(sampled, pixels(directory / f"{index:05d}.png")) <= 1


@pytest.mark.usefixtures("plan")
def test_another_run_shares_the_class_images(fine_tune: FineTune, unet_calls: list[UNetCall]) -> None:
    fine_tune("--no-previews")
    images = sorted((fine_tune.root / "class-images").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in images]
    unet_calls.clear()
    again = fine_tune(
        "--no-previews", "-i", write_photos(fine_tune.root.parent / "others", 4), "--learning-rate", "1e-4"
    )
    assert not unet_calls
    assert [path.stat().st_mtime_ns for path in images] == times
    assert "2 class images 'a photo of a can' from" in again.outcome.said


@pytest.mark.slow
@pytest.mark.usefixtures("plan")
def test_another_users_class_images_are_shared_where_nothing_may_be_written(
    fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune("--no-previews")
    theirs = fine_tune.root / "class-images"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    fine_tune("--no-previews")
    refused(fine_tune.call("--class-img-count", 3), f"you may not write in {theirs}")
    assert not (fine_tune.root / "can-3").exists()


@pytest.mark.usefixtures("plan")
def test_missing_class_images_are_added(fine_tune: FineTune) -> None:
    fine_tune("--no-previews")
    more = fine_tune("--no-previews", "--class-img-count", 3)
    assert "sampling 1 of 3 class images" in more.outcome.said
    assert len(list((fine_tune.root / "class-images").iterdir())) == 1


@pytest.mark.slow
def test_another_class_base_or_setting_never_shares_class_images(
    fine_tune: FineTune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories: list[Path] = []

    def sample(plan: RunPlan) -> None:
        directories.append(plan.class_images.directory)
        raise UserError("enough")

    monkeypatch.setattr(command, "sample_class_images", sample)
    other_base = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(seed=3))
    changes: list[tuple[object, ...]] = [
        (),
        ("-c", "cup"),
        ("--ckpt-path", other_base),
        ("--seed", 1),
        ("--ddim-eta", 0.5),
        ("--learning-rate", "1e-5"),  # does not matter to them
    ]
    for change in changes:
        refused(fine_tune.call(*change), "enough")
    assert len(set(directories)) == len(changes) - 1
    assert directories[0] == directories[-1]


@pytest.mark.usefixtures("plan")
def test_each_device_chooses_its_batch_size(
    fine_tune: FineTune, unet_calls: list[UNetCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its share of the images, in the process that samples them, unless it is given."""
    shares: list[int] = []

    def choose(*how: Any) -> int:
        shares.append(how[-1])
        return 1

    monkeypatch.setattr(training_images, "batch_that_fits", choose)
    fine_tune("--no-previews")
    assert shares == [2]
    unet_calls.clear()
    fine_tune("--no-previews", "--class-img-count", 5, "--generation-batch-size", 3)
    assert shares == [2] and {one.batch for one in unet_calls} == {6}


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "value", "passes"), [("--scale", 1, 3), ("--class-sampler", "plms", 4)])
def test_flags_decide_how_class_images_are_sampled(
    flag: str, value: object, passes: int, plan: Plan, unet_calls: list[UNetCall]
) -> None:
    plan(flag, value, "--no-previews")
    assert len(unet_calls) == passes
    assert unet_calls[0].batch == (2 if flag == "--scale" else 4)


@pytest.mark.parametrize(
    ("typed", "class_images", "previews"),
    [
        ((), ("ddim", 3), ("ddim", 3)),
        (("--class-sampler", "dpm-solver"), ("dpm-solver", 3), ("ddim", 3)),
        (("--class-sampler", "dpm-solver", "--sampler", "plms", "--ddim-steps", 5), ("dpm-solver", 5), ("plms", 5)),
        (("--class-steps", 4, "--sampler", "plms", "--ddim-steps", 5), ("plms", 4), ("plms", 5)),
        (("--class-sampler", "plms", "--ddim-eta", 0.5), ("plms", 3), ("ddim", 3)),
    ],
)
def test_class_images_and_previews_may_be_sampled_differently(
    typed: tuple[object, ...],
    class_images: tuple[str, int],
    previews: tuple[str, int],
    fine_tune: FineTune,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[RunPlan] = []

    def sample(plan: RunPlan) -> None:
        plans.append(plan)
        raise UserError("enough")

    monkeypatch.setattr(command, "sample_class_images", sample)
    refused(fine_tune.call(*typed), "enough")
    sampling = plans[0].class_images.sampling
    assert (sampling.sampler, sampling.num_steps) == class_images
    assert sampling.eta == 0
    options = read_yaml(fine_tune.root / "can-1" / "run.yaml")["options"]
    assert (options["class_sampler"], options["class_steps"]) == class_images
    assert (options["sampler"], options["ddim_steps"]) == previews


@pytest.mark.slow
def test_a_resumed_run_from_before_these_flags_keeps_its_class_images(fine_tune: FineTune) -> None:
    run = fine_tune("--sampler", "plms", "--no-previews").directory
    record = read_yaml(run / "run.yaml")
    assert record["options"].pop("class_sampler") == "plms"
    assert record["options"].pop("class_steps") == 3
    (run / "run.yaml").write_text(to_yaml(record))
    outcome = call("dreambooth", "-r", run, "--iterations", 3)
    assert outcome.status == 0
    assert "2 class images 'a photo of a can' from" in outcome.said
    assert len(list((fine_tune.root / "class-images").iterdir())) == 1


def test_class_images_are_sampled_by_dpm_solver_in_20_steps_by_default() -> None:
    sd = build_config(Settings, read_yaml(DEFAULT_CONFIG), "sd").dreambooth
    tiny = settings_of(read_checkpoint(EMBEDDED), None)[1].dreambooth
    for config in (DreamBoothConfig(), sd, tiny):
        assert (config.class_sampler, config.class_steps) == ("dpm-solver", 20)


@pytest.mark.parametrize("arguments", [("--class-img-count", 0), ("-l", 0)])
def test_without_prior_preservation_there_are_no_class_images(
    arguments: tuple[object, ...], fine_tune: FineTune, unet_calls: list[UNetCall]
) -> None:
    run = fine_tune(*arguments, "--no-previews")
    assert not (fine_tune.root / "class-images").exists()
    assert [one.batch for one in unet_calls] == [1, 1]
    assert "loss/class" not in scalars(run.directory).Tags()["scalars"]


# Encoding

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The output of every call of an encoder."""
    given: list[Tensor] = []
    encode = AutoencoderKL.encode

    def watched(self: AutoencoderKL, images: Tensor) -> DiagonalGaussian:
        posterior = encode(self, images)
        given.append(posterior.parameters)
        return posterior

    monkeypatch.setattr(AutoencoderKL, "encode", watched)
    return given


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{index:02d}.png" for index in range(21)]
    for index, path in enumerate(paths):
        Image.new("RGB", (40, 32), (12 * index, 0, 0)).save(path)
    return paths


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        pytest.param((), torch.float32, marks=pytest.mark.slow),
        (("--precision", "bf16-mixed"), torch.bfloat16),
        pytest.param(
            ("--train-dtype", "bf16", "--optimizer", "adamw8bit"),  # recorded as bf16-mixed
            torch.bfloat16,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_on_a_cpu_images_are_encoded_one_by_one_in_the_trainings_precision(
    flags: tuple[object, ...], dtype: torch.dtype, plan: Plan, encoded: list[Tensor]
) -> None:
    module = plan("--no-previews", "--class-img-count", 2, *flags).module
    assert {(len(one), one.dtype) for one in encoded} == {(1, dtype)}
    assert len(encoded) == sum(len(moments) * moments.shape[1] for moments in module._moments if moments is not None)
    assert {moments.dtype for moments in module._moments if moments is not None} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "size", "together"),
    [(CPU, (64, 64), 1), (CPU, (512, 512), 1), (CUDA, (512, 512), 2), (CUDA, (1024, 1024), 1), (CUDA, (64, 64), 128)],
)
def test_the_batch_size_of_encoding_on_a_gpu(device: torch.device, size: tuple[int, int], together: int) -> None:
    assert views_together(device, *size) == together


@pytest.mark.slow
def test_a_batch_keeps_the_images_and_their_order(
    files: list[Path], encoded: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder = build_tiny_model().autoencoder.eval()
    size = 32, 40
    exact = encode_images(autoencoder, read_ahead(files, *size), size, True, Compute(CPU))
    encoded.clear()
    monkeypatch.setattr(training_images, "views_together", lambda *how: 4)
    together = encode_images(
        autoencoder, read_ahead(files, *size), size, True, Compute(CPU, autocast_dtype=torch.bfloat16)
    )
    assert [len(one) for one in encoded] == [4] * 10 + [2]
    assert {one.dtype for one in encoded} == {torch.bfloat16}
    assert exact.shape == together.shape == (21, 2, 8, 4, 5)
    error = (together - exact).square().mean().sqrt() / exact.std()
    assert 0 < error < 0.02
    assert (exact[0] - exact[-1]).square().mean().sqrt() > 0.1 * exact.std()


def test_an_autoencoder_that_may_overflow_in_float16_encodes_in_float32(encoded: list[Tensor]) -> None:
    images = torch.zeros(1, 3, 32, 32)
    encode_images(build_tiny_model().autoencoder, images, (32, 32), False, Compute(CPU, autocast_dtype=torch.float16))
    assert [one.dtype for one in encoded] == [torch.float32]


def test_images_are_read_ahead_by_threads_but_not_all_at_once(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    read = data_images.read_image

    def watched(path: Path, cover: int) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(path)
        return read(path, cover)

    monkeypatch.setattr(data_images, "read_image", watched)
    for taken, image in enumerate(read_ahead(files, 32, 40), 1):
        assert image.shape == (3, 32, 40)
        assert image[0, 0, 0] == pytest.approx(12 * (taken - 1) / 127.5 - 1, abs=1e-6)
        assert len(begun) < taken + data_images.AHEAD
