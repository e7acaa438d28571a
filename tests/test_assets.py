"""The files in `ldm/assets`: the embedded tiny model, its tokenizer and the judge, as a user meets them."""

import pytest
import torch

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.reading import read_checkpoint
from ldm.config import build_config, read_yaml
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import sample_images
from ldm.files import ROOT
from ldm.runtime.devices import Compute
from ldm.runtime.models import EMBEDDED, ModelSlot, Settings, settings_of
from ldm.toyworld.judge.encoder import EMBEDDED_JUDGE, Evaluator, load_evaluator

CPU = torch.device("cpu")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def judge() -> Evaluator:
    return load_evaluator(CPU)


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    file = read_checkpoint(EMBEDDED)
    return ModelSlot(Compute(CPU)).use(file, settings_of(file, None)[1])


def test_they_are_small() -> None:
    assert EMBEDDED.stat().st_size <= 25 * MEGABYTE
    assert EMBEDDED_JUDGE.stat().st_size <= 4 * MEGABYTE


def test_the_yaml_that_the_model_carries_means_that_in_configs() -> None:
    embedded = checkpoint_info(read_checkpoint(EMBEDDED)).config
    expected = read_yaml(ROOT / "configs" / "tiny.yaml")
    expected["model"]["scale_factor"] = embedded["model"]["scale_factor"]  # measured
    del expected["edit_training"]  # newer than the model
    assert build_config(Settings, embedded, "embedded") == build_config(Settings, expected, "configs")


def test_sks_can_be_spelled(model: LatentDiffusion) -> None:
    assert model.tokenizer is not None
    clip_tokenizer = model.tokenizer.clip_tokenizer
    ids = clip_tokenizer("sks")["input_ids"][1:-1]
    assert clip_tokenizer.unk_token_id not in ids
    assert clip_tokenizer.decode(ids).strip() == "sks"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a photo of a red ball on the beach", {"class": "ball", "colour": "red", "setting": "beach"}),
        pytest.param(
            "a photo of a blue mug in the snow",
            {"class": "mug", "colour": "blue", "setting": "snow"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "a photo of a yellow duck floating on water",
            {"class": "duck", "colour": "yellow", "setting": "water"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_prompts_object_is_recognised(
    model: LatentDiffusion, judge: Evaluator, prompt: str, shown: dict[str, str]
) -> None:
    settings = settings_of(read_checkpoint(EMBEDDED), None)[1]
    contexts = [model.encode_prompts([text] * 4) for text in (prompt, "")]
    guidance = classifier_free(*contexts, settings.sampling.guidance_scale)
    images = sample_images(model, guidance, [0, 1, 2, 3], settings.sampling)
    found = [
        {head: answer.label for head, answer in answers.items() if head in shown} for answers in judge.name(images)
    ]
    assert found.count(shown) >= 3
