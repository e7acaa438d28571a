"""Textual inversions of every layout are read as the same vectors; what is none, or of another model, is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoint.embedding import TOKEN_KEY, is_embedding, raise_unless_fitting, read_embedding, with_embeddings
from ldm.checkpoint.learned_words import Embedding, all_vectors, as_text, from_text, knowing
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.errors import UserError
from ldm.nn.tokenizer import load_tokenizer
from tests.tiny import tiny_config, write_tokenizer

VECTORS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))


def written(path: Path, content: Any, metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path, metadata=metadata)
    else:
        torch.save(content, path)
    return path


def a1111(vectors: Tensor) -> dict[str, Any]:
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "train-7", "step": 300}


LAYOUTS: dict[str, tuple[Any, dict[str, str] | None, str]] = {
    "cat.pt": (a1111(VECTORS), None, "cat"),
    "parameter.pt": (a1111(nn.Parameter(VECTORS)), None, "parameter"),
    "paper.pt": ({"string_to_token": {"*": 265}, "string_to_param": nn.ParameterDict({"*": nn.Parameter(VECTORS)})},
                 None, "paper"),
    "learned_embeds.bin": ({"<cat-toy>": VECTORS}, None, "<cat-toy>"),
    "learned_embeds.safetensors": ({"<cat-toy>": VECTORS}, None, "<cat-toy>"),
    "kohya.safetensors": ({"emb_params": VECTORS}, None, "kohya"),
    "step-00400.safetensors": ({"emb_params": VECTORS}, {TOKEN_KEY: '"sks"'}, "sks"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_the_same_vectors(name: str, tmp_path: Path) -> None:
    content, metadata, token = LAYOUTS[name]
    file = read_checkpoint(written(tmp_path / name, content, metadata))
    assert is_embedding(file)
    found = read_embedding(file)
    assert torch.equal(found.vectors, VECTORS) and found.token == token
    assert read_embedding(file, "other").token == "other"


def test_one_vector_may_have_one_dimension(tmp_path: Path) -> None:
    path = written(tmp_path / "one.bin", {"<one>": VECTORS[0].half()})
    assert torch.equal(read_embedding(read_checkpoint(path)).vectors, VECTORS[:1].half())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "of Stable Diffusion XL, which has two"),
        ({"emb_params": torch.ones(2, 1024)}, "1024 numbers, as those of Stable Diffusion 2, and the text encoder"),
        ({"emb_params": torch.ones(76, 32)}, "has 76 vectors, and a prompt has room for 75"),
        ({"emb_params": torch.full((1, 32), torch.nan)}, "is damaged"),
        ({"emb_params": torch.ones(1, 1, 32)}, "should hold vectors"),
        ({"a\tb": torch.ones(1, 32)}, "which no prompt holds: name it FILE:TOKEN"),
        ({"a": torch.ones(1, 32), "b": torch.ones(1, 32)}, "is no embedding: it holds 2 tensors"),
    ],
)
def test_what_can_not_be_used_is_named(content: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", content)
    with pytest.raises(UserError, match=words):
        raise_unless_fitting(read_embedding(read_checkpoint(path)), tiny_config())


def test_a_tokenizer_gets_their_words_and_another_digest(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    one, other = Embedding(tmp_path / "a", "Cat", VECTORS), Embedding(tmp_path / "b", "dog", VECTORS[:1])
    extended = knowing(tokenizer, (one, other), 514)
    assert extended.token_ids("cat dog") == [514, 515, 516, 517]
    assert torch.equal(all_vectors((one, other)), torch.cat([VECTORS, VECTORS[:1]]))
    moved = Embedding(tmp_path / "a", "Cat", VECTORS + 1)
    assert len({tokenizer.digest, extended.digest, knowing(tokenizer, (moved, other), 514).digest}) == 3
    assert knowing(tokenizer, (), 514) is tokenizer
    with pytest.raises(UserError, match="another embedding stands for 'CAT' already; name it FILE:TOKEN"):
        knowing(tokenizer, (one, Embedding(tmp_path / "c", "CAT", VECTORS)), 514)


def test_a_model_carries_the_words_that_it_was_trained_with(tmp_path: Path) -> None:
    own, other = Embedding(tmp_path / "a", "sks", VECTORS), Embedding(tmp_path / "b", "dog", VECTORS[:1])
    info = CheckpointInfo(words=as_text([own]))
    file = CheckpointFile(tmp_path / "x", {}, info.to_metadata())
    words = with_embeddings(file, (other,), tiny_config()).embeddings
    assert [(one.token, one.short_hash) for one in words] == [("sks", ""), ("dog", "")]
    assert torch.equal(words[0].vectors, VECTORS)
    assert [one.token for one in with_embeddings(file, (own,), tiny_config()).embeddings] == ["sks"]
    for text in ("no base64", "AAAA"):
        with pytest.raises(UserError, match="x: its words are damaged"):
            from_text({"sks": text}, tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["<cat-toy>", "emb_params"])
@torch.inference_mode()
def test_images_are_those_of_diffusers(key: str, tmp_path: Path) -> None:
    """`load_textual_inversion` of three vectors, in a prompt with the word twice; our own layout needs its token."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from benchmarks.diffusers_peer.networks import build_peer
    from benchmarks.tools.sizes import MAX_LENGTH, SIZES, TOKENIZER, build_random
    from ldm.diffusion.guidance import classifier_free
    from ldm.diffusion.noise import draw_noise, image_generators
    from ldm.diffusion.sampling import SamplingConfig, sample_images
    from ldm.files import ROOT

    size = SIZES["tiny"]
    ours = build_random(size)
    peer = build_peer(ours, size)
    vectors = torch.randn(3, ours.config.text_encoder.hidden_size, generator=torch.Generator().manual_seed(1))
    path = written(tmp_path / "learned_embeds.safetensors", {key: vectors})
    pipeline = StableDiffusionPipeline(
        peer.vae, peer.text_encoder, peer.tokenizer, peer.unet,
        DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                      set_alpha_to_one=False, steps_offset=1),
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    token = {} if key == "<cat-toy>" else {"token": "<cat-toy>"}
    pipeline.load_textual_inversion(str(path), **token)
    embedding = read_embedding(read_checkpoint(path), **token)
    vocab_size = ours.config.text_encoder.vocab_size
    ours.tokenizer = knowing(load_tokenizer(ROOT / TOKENIZER, MAX_LENGTH), (embedding,), vocab_size)
    ours.text_encoder.embeddings.learned = all_vectors((embedding,))
    prompt, negative = "a photo of <cat-toy> and <cat-toy>, on the beach", "a <cat-toy>"
    sampling = SamplingConfig(height=size.pixels, width=size.pixels, num_steps=2)
    context, uncond_context = ours.encode_prompts([prompt]), ours.encode_prompts([negative])
    images = sample_images(ours, classifier_free(context, uncond_context, 7.5), [5], sampling)
    noise = draw_noise((1, *ours.config.latent_shape(size.pixels, size.pixels)), image_generators([5]))
    expected = pipeline(
        prompt, negative_prompt=negative, latents=noise, num_inference_steps=2, guidance_scale=7.5,
        height=size.pixels, width=size.pixels, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(context, uncond_context, atol=0.1)
