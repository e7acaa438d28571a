"""dreambooth.py --lora: adapters are trained, saved as small LoRA files, resumed bit for bit, and compared."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.config import read_yaml
from tests.commands.calls import call, equal, info_of, metadata_of, pixels, refused, tensors_of
from tests.commands.dreambooth.fine_tuning import FineTune, Plan, interrupted
from tests.commands.fixtures import Sample
from tests.report.tables import table_of

LORA = ("-t", "--lora", 2, "--lora-targets", "all+conv", "--lora-dropout", 0.4, "--lora-alpha", 4)


@pytest.mark.slow
def test_a_run_saves_small_files_that_a_comparison_reads_and_a_resumed_one_the_same_bits(
    fine_tune: FineTune, txt2img: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fine_tune(*LORA, "--iterations", 4, "-s", 2, "--save-dtype", "fp32", "-o", fine_tune.root.parent / "whole")
    file, metadata = whole.step(4), metadata_of(whole.step(4))
    tensors = tensors_of(file)
    assert all(re.match(r"lora_(unet|te)_.*\.(lora_(down|up)\.weight|alpha)$", key) for key in tensors)
    ups = [tensor for key, tensor in tensors.items() if key.endswith("lora_up.weight")]
    assert all(bool(up.any()) for up in ups)
    assert {float(tensor) for key, tensor in tensors.items() if key.endswith("alpha")} == {4.0}
    assert metadata["ss_network_dim"] == "2" and metadata["ss_network_alpha"] == "4"
    assert not [name for name in metadata if name.startswith("modelspec") or name == "ss_base_model_version"], (
        "the tiny model is not Stable Diffusion v1"
    )
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "4"}
    assert (info_of(file).class_name, info_of(file).step, metadata["ss_steps"]) == ("can", 4, "4")
    assert read_yaml(whole.directory / "report.yaml")["relative_movement"]["unet cross-attention"] > 0
    stopped = interrupted(fine_tune, monkeypatch, 4, *LORA, "--iterations", 4, "-s", 2, "--save-dtype", "fp32")
    monkeypatch.undo()
    assert call("dreambooth", "-r", stopped).status == 0
    for step in (2, 4):
        assert equal(whole.step(step), stopped / whole.step(step).name)
    sampled = txt2img("-c", whole.directory, "-p", "a photo of sks {class}", "-v", 1)
    assert [row.label for row in table_of(sampled).rows] == ["base model", "step 2", "step 4"]
    previews = [pixels(whole.directory / f"samples/pictures/step-0000{step}_00.png") for step in (0, 2, 4)]
    for image, preview in zip(sorted_images(sampled.directory), previews, strict=True):
        assert np.abs(image - preview).max() <= 1


def sorted_images(directory: Path) -> list[np.ndarray]:
    names = ("base-can", "step-2", "step-4")
    return [pixels(next(path for path in directory.glob("*.png") if name in path.name)) for name in names]


def test_their_learning_rates_are_their_own(plan: Plan) -> None:
    planned = plan("-t", "--lora", 2, "--text-encoder-learning-rate", 0.125)
    optimizer = planned.module.build_optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(20 * 1e-3), 0.125]
    unet, text = ({id(one) for one in group["params"]} for group in optimizer.param_groups)
    assert unet <= {id(one) for one in planned.module.ldm.unet.parameters()}
    assert text <= {id(one) for one in planned.module.ldm.text_encoder.parameters()}
    assert {one.shape[0] for one in planned.module.trained_parameters()} >= {2}


@pytest.mark.slow
def test_frozen_weights_are_in_half_precision_where_arithmetic_is(plan: Plan) -> None:
    module = plan("--lora", 2, "--precision", "bf16-mixed").module
    frozen = {one.dtype for one in module.ldm.unet.parameters() if one.ndim > 1 and not one.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {one.dtype for one in module.trained_parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dora"], "--dora is for adapters: add --lora RANK"),
        (["--lora-alpha", 2], "--lora-alpha is for adapters: add --lora RANK"),
        (["--lora", 2, "--train-dtype", "bf16"], "--train-dtype should be fp32 with lora"),
        (["--text-encoder-learning-rate", 1e-3], "add -t"),
    ],
)
def test_flags_that_do_not_go_together(fine_tune: FineTune, flags: list[object], words: str) -> None:
    refused(fine_tune.call(*flags), words)
    assert not fine_tune.root.exists()
