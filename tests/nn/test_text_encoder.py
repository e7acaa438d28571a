"""The text encoder: the original's numbers, what each token sees, and how it is built without memory."""

from dataclasses import replace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from ldm.nn.text_encoder import TextEncoder, TextEncoderConfig
from tests.oracle import (
    BOUND,
    BOUND_F64,
    POSITION_IDS,
    facts,
    new_text_encoder,
    rel,
    small_text_encoder,
    tensors,
    text_encoder_config,
)


def test_weights_are_the_checkpoints_but_for_the_position_ids() -> None:
    assert small_text_encoder().transformer.state_dict().keys() | {POSITION_IDS} == tensors("text-tiny").keys()


@torch.inference_mode()
def test_hidden_states_are_the_originals() -> None:
    io = tensors("text-tiny-io")
    hidden = small_text_encoder()(io["input_ids"])
    assert rel(hidden, io["last_hidden_state"]) < BOUND
    assert rel(hidden, io["last_hidden_state_f64"]) < BOUND


@torch.inference_mode()
def test_hidden_states_in_float64_are_the_originals() -> None:
    io = tensors("text-tiny-io")
    assert rel(small_text_encoder(torch.float64)(io["input_ids"]), io["last_hidden_state_f64"]) < BOUND_F64


def test_gradient_norms_are_the_originals() -> None:
    io, expected = tensors("text-tiny-io"), facts("text-tiny")
    encoder = new_text_encoder()
    (encoder(io["input_ids"]) - io["target"]).square().mean().backward()
    norms = {name: parameter.grad.double().norm().item() for name, parameter in encoder.transformer.named_parameters()}
    assert norms.keys() == expected["grad_norms"].keys()
    for name, norm in expected["grad_norms"].items():
        if name in expected["zero"]:
            assert norms[name] < 1e-5, name
        else:
            assert norms[name] == pytest.approx(norm, rel=BOUND), name


@torch.inference_mode()
def test_a_token_is_read_by_itself_and_those_after_it_only() -> None:
    encoder, ids = small_text_encoder(), tensors("text-tiny-io")["input_ids"][:1].clone()
    before = encoder(ids)
    ids[0, 5] = (ids[0, 5] + 1) % 600
    changed = (encoder(ids) - before).abs().amax(dim=(0, 2))
    assert changed[:5].max() < 1e-6
    assert changed[5:].min() > 1e-5


def test_pad_tokens_are_attended_to() -> None:
    encoder, end = new_text_encoder(), text_encoder_config().vocab_size - 1
    encoder(torch.tensor([[end - 1, 7, end, end, end]]))[0, 4].square().sum().backward()
    (positions,) = (p for name, p in encoder.named_parameters() if name.endswith("position_embedding.weight"))
    assert positions.grad[:5].norm(dim=1).min() > 1e-4
    assert positions.grad[5:].eq(0).all()


@torch.inference_mode()
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_it_is_transformers_network(hidden_act: str) -> None:
    config = replace(text_encoder_config(), hidden_act=hidden_act)
    encoder = TextEncoder(config).eval()
    end = config.vocab_size - 1
    peer = CLIPTextModel(CLIPTextConfig(**vars(config), bos_token_id=end - 1, eos_token_id=end, pad_token_id=end))
    ours = encoder.transformer.state_dict()
    official = {key: key if key in ours else f"text_model.{key}" for key in peer.state_dict()}
    peer.load_state_dict({key: ours[name] for key, name in official.items()})
    ids = torch.randint(config.vocab_size, (3, 77), generator=torch.Generator().manual_seed(0))
    assert rel(encoder(ids), peer.eval()(input_ids=ids).last_hidden_state) < BOUND


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="quick_gelu, gelu, not 'relu'"):
        TextEncoderConfig(hidden_act="relu")
