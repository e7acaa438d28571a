"""What a training sees is encoded beforehand: exactly on a CPU, several at a time and as training computes on a GPU."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.commands.dreambooth import encoding
from ldm.commands.dreambooth.encoding import encode_files, encoding_arithmetic, read_ahead, views_together
from ldm.nn.autoencoder import AutoencoderKL, DiagonalGaussian
from ldm.runtime.devices import Compute
from tests.commands.dreambooth.training_run import Plan
from tests.tiny import build_tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What every call of an encoder gave from now on."""
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
        ((), torch.float32),
        (("--precision", "bf16-mixed"), torch.bfloat16),
        (("--train-dtype", "bf16", "--optimizer", "adamw8bit"), torch.bfloat16),  # recorded as bf16-mixed
    ],
)
def test_on_a_cpu_views_are_encoded_one_by_one_in_the_trainings_arithmetic(
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
def test_a_gpu_encodes_several_at_a_time_by_their_pixels(
    device: torch.device, size: tuple[int, int], together: int
) -> None:
    assert views_together(device, *size) == together


def test_as_on_a_gpu_all_images_are_there_in_their_order(
    files: list[Path], encoded: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder = build_tiny_model().autoencoder.eval()
    exact = encode_files(autoencoder, files, (32, 40), True, Compute(CPU))
    encoded.clear()
    monkeypatch.setattr(encoding, "views_together", lambda *how: 4)
    together = encode_files(autoencoder, files, (32, 40), True, Compute(CPU, autocast_dtype=torch.bfloat16))
    assert [len(one) for one in encoded] == [4] * 10 + [2]
    assert {one.dtype for one in encoded} == {torch.bfloat16}
    assert exact.shape == together.shape == (21, 2, 8, 4, 5)
    error = (together - exact).square().mean().sqrt() / exact.std()
    assert 0 < error < 0.02
    assert (exact[0] - exact[-1]).square().mean().sqrt() > 0.1 * exact.std()


@pytest.mark.parametrize(
    ("lowered", "dtype"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)]
)
def test_float16_in_which_autoencoders_overflow_is_not_encoded_in(
    lowered: torch.dtype | None, dtype: torch.dtype
) -> None:
    ones = torch.ones(2, 2)
    with encoding_arithmetic(Compute(CPU, autocast_dtype=lowered)):
        assert (ones @ ones).dtype == dtype


def test_images_are_read_ahead_by_threads_but_not_all_at_once(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    read = encoding.read_image

    def watched(path: Path) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(path)
        return read(path)

    monkeypatch.setattr(encoding, "read_image", watched)
    for taken, image in enumerate(read_ahead(files, 32, 40), 1):
        assert image.shape == (3, 32, 40)
        assert image[0, 0, 0] == pytest.approx(12 * (taken - 1) / 127.5 - 1, abs=1e-6)
        assert len(begun) < taken + encoding.AHEAD
