"""Sizes that do not fit into memory are refused before anything is made; the count lies between the two bounds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm.commands import enough_memory
from ldm.commands.enough_memory import Need, dreambooth_need, refuse_too_large_images
from ldm.commands.train.checks import stage_need
from ldm.config import build_config
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.runtime.models import Settings
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import Workload
from tests.commands.calls import call, refused
from tests.scratch import SCRATCH_YAML, write_captioned, write_yaml
from tests.tiny import tiny_config

CPU, OTHER = torch.device("cpu"), torch.device("mps")


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> list[Need]:
    """Every `Need` that was checked; nothing is refused."""
    checked: list[Need] = []
    monkeypatch.setattr(Need, "more_than", lambda self, limit: checked.append(self))
    return checked


def in_order(need: Need) -> bool:
    return 0 < need.least <= need.counted() <= need.most


@pytest.mark.slow
@pytest.mark.parametrize(("side", "batch_size"), [(32, 1), (512, 3)])
def test_the_count_of_sampling_lies_between_the_bounds(side: int, batch_size: int, needs: list[Need]) -> None:
    sampling = SamplingConfig(side, side)
    refuse_too_large_images(tiny_config(), sampling, batch_size, torch.float32, OTHER)
    assert in_order(needs[0])


@pytest.mark.slow
def test_the_count_of_training_lies_between_the_bounds() -> None:
    assert in_order(dreambooth_need(Workload(tiny_config(), 256, 256, like_cuda=False), DreamBoothConfig(batch_size=2)))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_count_of_a_stage_lies_between_the_bounds(stage: str) -> None:
    assert in_order(stage_need(build_config(Settings, {"tokenizer": "", **SCRATCH_YAML}, "scratch"), stage, 32, 4))


def test_the_count_decides_between_the_bounds() -> None:
    need = Need(least=10, most=30, counted=lambda: 20)
    assert [need.more_than(limit) for limit in (9, 19, 20, 30)] == [10, 20, None, None]
    assert Need(10, 30, lambda: pytest.fail("counted")).more_than(30) is None


def test_on_a_cpu_each_worker_needs_memory(needs: list[Need], monkeypatch: pytest.MonkeyPatch) -> None:
    for cores in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        refuse_too_large_images(tiny_config(), SamplingConfig(32, 32), 1, torch.float32, CPU)
    assert needs[1].most > 2 * needs[0].most


def test_memory_is_shared_by_processes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enough_memory, "available_memory", lambda: 1000)
    assert enough_memory.memory_of(CPU, 4) == 250


def test_unknown_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enough_memory, "available_memory", lambda: None)
    refuse_too_large_images(tiny_config(), SamplingConfig(65_536, 65_536), 1, torch.float32, CPU)


def test_the_error_suggests_a_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enough_memory, "available_memory", lambda: 2 * 10**9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(UserError, match=r"20000 x 10000 would take .* TB of memory, and 2 GB are available") as error:
        refuse_too_large_images(tiny_config(), SamplingConfig(20_000, 10_000), 1, torch.float32, CPU)
    height, width = map(int, str(error.value).partition("--hw ")[2].split()[:2])
    refuse_too_large_images(tiny_config(), SamplingConfig(height, width), 1, torch.float32, CPU)


Refuse = Callable[..., None]


@pytest.fixture
def refuses(tiny_checkpoint: Path, subject_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs a command that is refused and leaves no file."""
    monkeypatch.chdir(tmp_path)
    needed = {
        "txt2img": ["-c", tiny_checkpoint],
        "img2img": ["-c", tiny_checkpoint, "-i", subject_dir / "0.png"],
        "evaluate": ["-c", tiny_checkpoint, "-p", "a cat", "--encoder", "toyworld-judge"],
        "dreambooth": ["-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint],
    }

    def check(command: str, arguments: list[object], *words: str) -> None:
        refused(call(command, *needed[command], *arguments), *words)
        assert not [*tmp_path.iterdir()]

    return check


@pytest.mark.parametrize("command", ["txt2img", "img2img", "evaluate", "dreambooth"])
def test_every_command_refuses_an_absurd_size(command: str, refuses: Refuse) -> None:
    refuses(command, ["--hw", 65_536, 65_536], "B of memory", "--hw")


def test_an_absurd_batch_size_is_refused(refuses: Refuse) -> None:
    refuses("dreambooth", ["--batch-size", 65_536, "--hw", 1024], "GB of memory", "--batch-size")


def test_training_from_scratch_refuses_an_absurd_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enough_memory, "available_memory", lambda: 10**9)
    config = write_yaml(tmp_path / "a.yaml", tmp_path, {"autoencoder_training": {"size": 1024}})
    images = write_captioned(tmp_path / "images", 2)
    words = ("autoencoder", "-i", images, "--config", config, "-o", tmp_path / "runs", "--batch-size", 60_000)
    refused(call("train", *words), "60000 images of 1024 x 1024", "--batch-size")
    assert not (tmp_path / "runs").exists()


def test_too_many_images_are_refused(refuses: Refuse) -> None:
    refuses("txt2img", ["-v", 100_000_000], "--variations", "from 1 to 100000")
    refuses("txt2img", ["-v", 60_000, "-p", "a", "b"], "120,000 images", "1 checkpoints x 2 prompts x 60,000 seeds")
