"""A run's checkpoints: what they hold and what they say of themselves."""

from pathlib import Path

import torch

from ldm.checkpoint.reading import read_checkpoint
from tests.commands.calls import info_of, tensors_of
from tests.commands.dreambooth.fine_tuning import FineTune, sha256
from tests.commands.fixtures import Trained
from tests.tiny import TINY_YAML


def test_a_checkpoint_has_its_metadata(trained: Trained, tiny_checkpoint: Path) -> None:
    infos = [info_of(trained.step(step)) for step in (3, 6, 7)]
    assert [info.step for info in infos] == [3, 6, 7]
    for info in infos:
        assert info.config == TINY_YAML
        assert info.class_name == "Tin Can"
        assert info.instance_prompt == "a photo of sks Tin Can"
        assert info.class_prompt == "a photo of a Tin Can"
        assert info.seed == 42
        assert info.base == tiny_checkpoint.name
        assert info.base_sha256 == sha256(tiny_checkpoint)
        assert info.options["iterations"] == 7
        assert info.options["learning_rate"] == 1e-3
        assert info.versions.keys() >= {"ldm", "torch", "pytorch-lightning"}
    base = info_of(tiny_checkpoint).parts
    assert [{part for part in base if info.parts[part] == base[part]} for info in infos] == [
        set()
    ] * 3  # half precision
    assert len({info.parts["unet"] for info in infos}) == 3
    assert len({info.parts["text_encoder"] for info in infos}) == 1


def test_a_checkpoint_holds_the_official_layout_in_half_precision(trained: Trained, tiny_checkpoint: Path) -> None:
    tensors, base = tensors_of(trained.step(3)), tensors_of(tiny_checkpoint)
    assert tensors.keys() == base.keys()
    weights = [key for key in tensors if key.startswith(("model.", "first_stage_model.", "cond_stage_model."))]
    assert {tensors[key].dtype for key in weights if "position_ids" not in key} == {torch.float16}


def test_save_dtype_is_the_weights_type(uninterrupted: Trained, stopped_once: Path) -> None:
    for checkpoint, dtype in (
        (uninterrupted.step(3), torch.float32),
        (stopped_once / "step-00002.safetensors", torch.bfloat16),
    ):
        tensors = tensors_of(checkpoint)
        assert {tensor.dtype for key, tensor in tensors.items() if key.startswith("model.")} == {dtype}


def test_files_are_numbered_by_optimizer_updates(trained: Trained) -> None:
    state = torch.load(trained.directory / "resume.ckpt", weights_only=True)
    assert state["global_step"] == 7
    assert {int(one["step"]) for one in state["optimizer_states"][0]["state"].values()} == {7}


def test_frozen_parts_are_the_base_models(trained: Trained, tiny_checkpoint: Path) -> None:
    base = tensors_of(tiny_checkpoint)
    for key, tensor in tensors_of(trained.step(7)).items():
        if key.startswith(("first_stage_model.", "cond_stage_model.")):
            assert torch.equal(tensor, base[key].to(tensor.dtype)), key
    key = "model.diffusion_model.out.2.weight"
    steps = [tensors_of(trained.step(step))[key] for step in (3, 6, 7)]
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[1], steps[2])


def test_a_checkpoint_names_no_directory_of_this_machine(trained: Trained) -> None:
    options = read_checkpoint(trained.directory / "step-00003.safetensors").metadata["ldm.options"]
    assert str(trained.directory.parents[1]) not in options


def test_with_a_decay_the_average_is_saved(fine_tune: FineTune) -> None:
    run = fine_tune("--ema-decay", 0.9, "--save-dtype", "fp32", "--class-img-count", 0, "--no-previews")
    state = torch.load(run.directory / "resume.ckpt", weights_only=True)["state_dict"]
    saved = tensors_of(run.step(2))["model.diffusion_model.out.2.weight"]
    assert torch.equal(saved, state["average.unet/out/2/weight"])
    assert not torch.equal(saved, state["ldm.model.diffusion_model.out.2.weight"])
