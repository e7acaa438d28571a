"""`modelspec` metadata: of whole checkpoints with the shape of Stable Diffusion v1, which other programs show."""

from pathlib import Path

import torch

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import save_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from tests.tiny import tiny_config

CAN = CheckpointInfo(class_name="can", instance_prompt="a photo of sks can", step=400)


def test_a_checkpoint_carries_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"model.diffusion_model.out.2.bias": torch.zeros(4)}, CAN, LatentDiffusionConfig())
    metadata = read_checkpoint(path).metadata
    assert {key: value for key, value in metadata.items() if key.startswith("modelspec.")} == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": "can, step 400",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "a photo of sks can",
    }
    assert CheckpointInfo.from_metadata(metadata).class_name == "can"


def test_a_model_without_a_subject_is_named_by_its_file() -> None:
    spec = modelspec(CheckpointInfo(config={"sampling": {"width": 640}}), LatentDiffusionConfig(), "v1-5")
    assert (spec["modelspec.title"], spec["modelspec.resolution"]) == ("v1-5", "640x512")
    assert "modelspec.trigger_phrase" not in spec


def test_another_shape_is_no_stable_diffusion() -> None:
    assert modelspec(CAN, tiny_config(), "tiny") == {}


def test_of_a_lora_it_names_the_adapter() -> None:
    spec = modelspec(CAN, LatentDiffusionConfig(), "can-1", "lora")
    assert spec["modelspec.architecture"] == "stable-diffusion-v1/lora"
