"""The reference's loop: it learns what it is told to, from files, and its options change what they say."""

from pathlib import Path

import pytest
import torch

from benchmarks.diffusers_peer.networks import build_peer
from benchmarks.diffusers_peer.training import Reference, ReferenceOptions, build_accelerator, build_scheduler
from benchmarks.tools.photos import write_images
from benchmarks.tools.sizes import SIZES, build_random
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError

TINY = SIZES["tiny"]


def begun(ldm: LatentDiffusion, directory: Path, options: ReferenceOptions) -> Reference:
    trained = ["unet", "text_encoder"] if options.train_text_encoder else ["unet"]
    accelerator = build_accelerator(torch.device("cpu"), None)
    prompts = ("a photo of sks can", "a photo of a can")
    scheduler = build_scheduler(ldm.config)
    reference = Reference(build_peer(ldm, TINY, trained), scheduler, options, accelerator, prompts)
    folders = [directory / name for name in ("photos", "class")]
    if not folders[0].exists():
        for folder, count in zip(folders, (2, 3), strict=True):
            write_images(folder, count, 48)
    torch.manual_seed(0)
    reference.begin(*folders, TINY.pixels)
    return reference


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_weights_that_should_move_do(tmp_path: Path, train_text_encoder: bool) -> None:
    ldm = build_random(TINY)
    before = {name: value.clone() for name, value in ldm.state_dict().items()}
    options = ReferenceOptions(train_text_encoder=train_text_encoder, learning_rate=1e-3)
    reference = begun(ldm, tmp_path, options)
    losses = [reference.step() for _ in range(3)]
    reference.end()
    assert all(0 < loss < 100 for loss in losses)
    moved = {name.split(".")[0] for name, value in ldm.state_dict().items() if not value.equal(before[name])}
    assert moved == {"model", "cond_stage_model"} if train_text_encoder else moved == {"model"}
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in ldm.parameters())


def test_options_for_speed_and_memory_change_no_loss(tmp_path: Path) -> None:
    plain = begun(build_random(TINY), tmp_path, ReferenceOptions())
    other = ReferenceOptions(precomputed_text=True, gradient_checkpointing=True)
    expected = [plain.step() for _ in range(2)]
    tuned = begun(build_random(TINY), tmp_path, other)
    assert [tuned.step() for _ in range(2)] == pytest.approx(expected, rel=1e-4)


def test_eight_bits_need_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="bitsandbytes"):
        begun(build_random(TINY), tmp_path, ReferenceOptions(adam_8bit=True))


def test_only_the_first_gpu_can_be_used() -> None:
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        build_accelerator(torch.device("cuda:1"), None)
