"""Textual inversion in training: what the vectors begin as, what moves them, what memory they take."""

from pathlib import Path

import pytest
import torch

from ldm.checkpoint.embedding_saving import embedding_writer
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.errors import UserError
from ldm.nn.tokenizer import load_tokenizer
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


@pytest.mark.slow
def test_the_predicted_memory_has_the_text_encoder_and_neither_gradients_nor_moments_of_networks() -> None:
    workload = Workload(tiny_config(), 32, 32, with_class=False, autocast_dtype=torch.bfloat16, previews=False)
    whole, embedding = (
        predict(workload, config).step for config in (DreamBoothConfig(), DreamBoothConfig(train="embedding"))
    )
    weights = sum(p.numel() for p in build_tiny_model().unet.parameters())
    assert whole - embedding > 10 * weights
