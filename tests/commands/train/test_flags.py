"""Each flag of train.py and what it does."""

import shutil
from pathlib import Path

import pytest
import torch

from ldm.commands.train import diffusion as diffusion_stage
from ldm.files import ROOT
from ldm.nn.graphed import capture_cuda_graph
from ldm.runtime.compiling import step_capture
from tests.commands.calls import call, info_of, refused, tensors_of
from tests.commands.train.stages import LAST, Plan, Scratch, files_of
from tests.scratch import SCRATCH_YAML

CUDA = torch.device("cuda")


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_flags_reach_the_training(stage: str, plan: Plan) -> None:
    words = ("--iterations", 9, "--save-every", 2, "--learning-rate", 0.5, "--batch-size", 7)
    planned = plan(stage, *words, "--seed", 5, "--workers", 3, "--logger", "csv")
    config = planned.module.config
    assert (config.iterations, config.save_every, config.learning_rate, config.batch_size) == (9, 2, 0.5, 7)
    assert (planned.module.seed, planned.module.workers, planned.options.logger) == (5, 3, "csv")


@pytest.mark.parametrize(("flags", "captured"), [((), True), (("--compile", "off"), False)])
def test_steps_are_captured_on_cuda_unless_compile_is_off(
    flags: tuple[str, ...], captured: bool, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan("diffusion", *flags).options.capture is None
    monkeypatch.setattr(diffusion_stage, "step_capture", lambda devices, mode: step_capture([CUDA], mode))
    assert plan("diffusion", *flags).options.capture is (capture_cuda_graph if captured else None)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_precision_and_devices_reach_the_training(stage: str, plan: Plan) -> None:
    planned = plan(stage, "--precision", "bf16-mixed", "-d", "cpu,cpu")
    assert planned.options.autocast_dtype == torch.bfloat16
    assert planned.options.devices == [torch.device("cpu")] * 2


def test_without_flags_the_yaml_decides(plan: Plan) -> None:
    for stage in ("autoencoder", "diffusion"):
        config = plan(stage).module.config
        for name, value in SCRATCH_YAML[f"{stage}_training"].items():
            assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)


def test_the_seed_decides_the_first_weights(plan: Plan) -> None:
    for stage in ("autoencoder", "diffusion"):
        one, same, other = (
            plan(stage, "--seed", seed).module.trained_parameters()[0].detach().clone() for seed in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_weights_are_saved_in_half_precision_by_default(scratch: Scratch) -> None:
    for flags, dtype in (((), torch.float16), (("--save-dtype", "bf16"), torch.bfloat16)):
        run = scratch.train("autoencoder", "--iterations", 1, *flags)
        assert {t.dtype for t in tensors_of(run.directory / "step-000001.safetensors").values()} == {dtype}


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_ckpt_path_is_where_it_starts_from(stage: str, scratch: Scratch, second: Path) -> None:
    """With no learning the weights stay what they were, and the model keeps its scale factor."""
    run = scratch.train(
        stage, "--ckpt-path", second / LAST, "--learning-rate", 0, "--iterations", 1, "--save-dtype", "fp32"
    )
    weights, start_weights = tensors_of(run.directory / "step-000001.safetensors"), tensors_of(second / LAST)
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, start_weights[key], msg=key)
    if stage == "diffusion":
        scale, own = (
            info_of(path).config["model"]["scale_factor"]
            for path in (run.directory / "step-000001.safetensors", second / LAST)
        )
        assert scale == own


def test_a_tokenizer_beside_the_autoencoder_replaces_the_yamls(
    plan: Plan, scratch: Scratch, first: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(first / LAST, tmp_path / "elsewhere" / "ae.safetensors")
    scratch.tokenizer.rename(tmp_path / "elsewhere" / "tokenizer")
    planned = plan("diffusion", "--autoencoder", tmp_path / "elsewhere" / "ae.safetensors")
    assert files_of(planned.options.run_dir / "tokenizer") == {"vocab.json", "merges.txt"}


def test_the_default_yaml_is_found_from_any_directory(scratch: Scratch) -> None:
    """The error about its tokenizer, which exists, shows that it was read."""
    refused(call("train", "tokenizer", "-i", scratch.images), str(ROOT / "configs" / "tiny.yaml"))
