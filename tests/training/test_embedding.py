"""Textual inversion in training: what the vectors begin as, what moves them, what memory they take."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ldm.checkpoint.embedding_saving import embedding_writer
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.config import read_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.nn.tokenizer import load_tokenizer
from ldm.runtime.models import DEFAULT_CONFIG
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.embedding import learn_word, learned_vectors, spread, vector_movement
from ldm.training.memory import Workload, predict
from tests.tiny import build_tiny_model, tiny_config, write_tokenizer


def test_few_vectors_are_means_of_the_words_and_many_repeat_them() -> None:
    vectors = torch.arange(6.0).reshape(3, 2)
    assert spread(vectors, 1).tolist() == [[2, 3]]
    assert spread(vectors, 2).tolist() == [[0, 1], [3, 4]]
    assert torch.equal(spread(vectors, 3), vectors)
    assert torch.equal(spread(vectors, 6), vectors.repeat_interleave(2, dim=0))


def test_untrained_vectors_are_the_words_and_gradients_reach_them_alone(tmp_path: Path) -> None:
    ldm = build_tiny_model().requires_grad_(False)
    ldm.tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    expected = ldm.encode_prompts(["a photo of can can"])
    start = learn_word(ldm, "can", DreamBoothConfig(train="embedding", vectors=3))
    context = ldm.encode_prompts(["a photo of sks can"])
    assert torch.equal(context, expected)
    context.square().mean().backward()
    assert bool(learned_vectors(ldm).grad.any())  # type: ignore[union-attr]
    assert not any(one.grad is not None for one in ldm.parameters() if one is not learned_vectors(ldm))
    learned_vectors(ldm).data.mul_(1.5)
    assert vector_movement(ldm, start)["embedding"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="emb_params is not finite"):
        embedding_writer(
            tmp_path / "x.safetensors", learned_vectors(ldm) * 1e9, "sks", CheckpointInfo(), torch.float16, {}
        )()


def test_a_file_for_stable_diffusion_is_one_tensor_that_says_what_it_is(tmp_path: Path) -> None:
    """A1111, ComfyUI, kohya and diffusers take the one tensor of a file; none of them looks for more."""
    path, yaml = tmp_path / "step-00400.safetensors", read_yaml(DEFAULT_CONFIG)
    info = CheckpointInfo(config=yaml, class_name="can", instance_prompt="a photo of sks can", step=400)
    notes = modelspec(info, LatentDiffusionConfig(), "can-1", "textual-inversion")
    embedding_writer(path, torch.ones(4, 768), "sks", info, torch.float16, notes)()
    ((key, tensor),) = load_file(path).items()
    assert (key, tensor.shape, tensor.dtype) == ("emb_params", (4, 768), torch.float16)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert metadata["modelspec.trigger_phrase"] == "a photo of sks can"
    assert path.stat().st_size < 16_000


@pytest.mark.slow
def test_the_predicted_memory_has_the_text_encoder_and_neither_gradients_nor_moments_of_networks() -> None:
    workload = Workload(tiny_config(), 32, 32, with_class=False, autocast_dtype=torch.bfloat16, previews=False)
    whole, embedding = (
        predict(workload, config).step for config in (DreamBoothConfig(), DreamBoothConfig(train="embedding"))
    )
    weights = sum(p.numel() for p in build_tiny_model().unet.parameters())
    assert whole - embedding > 10 * weights
