"""Weighted and long prompts, against embeddings computed by hand, and clip skip against diffusers'."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.prompt_encoding import PromptReading, chunks_of, encode_prompt, same_length
from ldm.nn.tokenizer import load_tokenizer
from tests.tiny import build_tiny_model, write_tokenizer

SYNTAX = PromptReading(with_syntax=True)


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentDiffusion]:
    model = build_tiny_model()
    model.tokenizer = load_tokenizer(write_tokenizer(Path(tmp_path_factory.mktemp("tokenizer"))))
    with torch.inference_mode():
        yield model


def ids_by_hand(ldm: LatentDiffusion, text: str) -> Tensor:
    """Begin, the bytes of the words, end, padded with end: this tokenizer merges nothing."""
    assert ldm.tokenizer is not None
    vocabulary = ldm.tokenizer.clip_tokenizer.get_vocab()
    letters = [[*word[:-1], f"{word[-1]}</w>"] for word in text.split()]
    ids = [512, *(vocabulary[letter] for word in letters for letter in word), 513]
    return torch.tensor([ids + [513] * (77 - len(ids))])


def test_a_plain_prompt_has_the_same_bits_with_and_without_syntax(ldm: LatentDiffusion) -> None:
    expected = ldm.encode_prompts(["a photo of a cat"])
    assert torch.equal(encode_prompt(ldm, "a photo of a cat"), expected)
    assert torch.equal(encode_prompt(ldm, "a photo of a cat", SYNTAX), expected)
    assert torch.equal(encode_prompt(ldm, "", SYNTAX), ldm.encode_prompts([""]))


def test_without_syntax_brackets_are_words(ldm: LatentDiffusion) -> None:
    assert torch.equal(encode_prompt(ldm, "a (cat:1.3)"), ldm.encode_prompts(["a (cat:1.3)"]))
    assert not torch.equal(encode_prompt(ldm, "a (cat:1.3)"), encode_prompt(ldm, "a (cat:1.3)", SYNTAX))


def test_weights_scale_their_tokens_and_the_mean_stays(ldm: LatentDiffusion) -> None:
    plain = ldm.text_encoder(ids_by_hand(ldm, "a cat sat"))
    weights = torch.ones(77)
    weights[2:5] = 1.3  # begin, a, then c a t
    by_hand = plain * weights[:, None]
    by_hand = by_hand * plain.mean() / by_hand.mean()
    torch.testing.assert_close(encode_prompt(ldm, "a (cat:1.3) sat", SYNTAX), by_hand)


def test_a_long_prompt_is_in_chunks_of_75_tokens(ldm: LatentDiffusion) -> None:
    words = " ".join("ab" for _ in range(50))  # 100 tokens
    first, second = (" ".join("ab" for _ in range(count)) for count in (37, 12))
    context = encode_prompt(ldm, words, SYNTAX)
    assert context.shape == (1, 154, 32)
    tail = ids_by_hand(ldm, f"{first} a")  # the 75th token is the first letter of a word
    tail[0, 75] = ids_by_hand(ldm, "ab")[0, 1]
    assert torch.equal(context[:, :77], ldm.text_encoder(tail))
    rest = ids_by_hand(ldm, f"b {second}")
    assert torch.equal(context[:, 77:], ldm.text_encoder(rest))


def test_a_full_chunk_ends_at_a_near_comma(ldm: LatentDiffusion) -> None:
    assert ldm.tokenizer is not None
    near, far = (f"{'ab ' * count}, {'cd ' * 30}" for count in (30, 20))
    sizes = [[int((ids != 513).sum()) - 1 for ids, _ in chunks_of(ldm.tokenizer, text)] for text in (near, far)]
    assert sizes == [[61, 60], [75, 26]]


def test_break_pads_a_chunk_and_begins_the_next(ldm: LatentDiffusion) -> None:
    context = encode_prompt(ldm, "a cat BREAK a dog", SYNTAX)
    by_hand = [ldm.text_encoder(ids_by_hand(ldm, text)) for text in ("a cat", "a dog")]
    assert torch.equal(context, torch.cat(by_hand, dim=1))


def test_the_shorter_of_two_contexts_gets_empty_chunks(ldm: LatentDiffusion) -> None:
    one, two, empty = (encode_prompt(ldm, text, SYNTAX) for text in ("a", "a BREAK b", ""))
    padded, same = same_length(one, two, empty)
    assert torch.equal(padded, torch.cat([one, empty], dim=1)) and same is two
    assert torch.equal(same_length(two, one, empty)[1], padded)


def test_the_vectors_of_a_learned_word_stay_together_and_have_its_weight(ldm: LatentDiffusion) -> None:
    assert ldm.tokenizer is not None
    learned = ldm.tokenizer.with_words({"<toy>": 4}, 514, "")
    (ids, weights), (rest, rest_weights) = chunks_of(learned, "ab " * 36 + "(<toy>:1.5) cd")
    assert ids.tolist()[73:] == [513] * 4 and weights.unique().tolist() == [1.0]
    assert rest.tolist()[1:5] == [514, 515, 516, 517] and rest_weights[:6].tolist() == [1, 1.5, 1.5, 1.5, 1.5, 1]
    assert [len(chunks_of(learned, text)) for text in ("<toy> BREAK <toy>", "ab " * 35 + "<toy>")] == [2, 1]


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_is_diffusers(ldm: LatentDiffusion, clip_skip: int) -> None:
    """Their `clip_skip` counts from 0; they too end with the last LayerNorm."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    assert ldm.tokenizer is not None
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    theirs = CLIPTextModel(config).eval()
    weights = {f"text_model.{name}": weight for name, weight in _text_model(ldm).items()}
    known = theirs.state_dict()
    if not any(name.startswith("text_model.") for name in known):
        weights = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    theirs.load_state_dict(weights)
    if not hasattr(theirs, "text_model"):  # newer transformers have its parts in the model itself
        theirs.__dict__["text_model"] = theirs
    pipeline = StableDiffusionPipeline.__new__(StableDiffusionPipeline)
    pipeline.text_encoder, pipeline.tokenizer = theirs, ldm.tokenizer.clip_tokenizer  # type: ignore[attr-defined]
    pipeline.tokenizer.model_max_length = 77  # type: ignore[attr-defined]
    expected, _ = StableDiffusionPipeline.encode_prompt(
        pipeline, "a cat", torch.device("cpu"), 1, False, clip_skip=clip_skip - 1 or None
    )
    actual = encode_prompt(ldm, "a cat", PromptReading(clip_skip=clip_skip))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def _text_model(ldm: LatentDiffusion) -> dict[str, Tensor]:
    return ldm.text_encoder.transformer["text_model"].state_dict()
