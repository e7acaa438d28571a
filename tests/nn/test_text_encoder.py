"""The text encoder: the original's numbers, what each token sees, and how it is built without memory."""

import pytest
import torch

from ldm.nn.text_encoder import TextEncoder
from tests.oracle import (
    BOUND,
    BOUND_F64,
    facts,
    new_text_encoder,
    official_text_key,
    rel,
    small_text_encoder,
    tensors,
    text_encoder_config,
    text_weights,
)


def test_weights_are_the_checkpoints_but_for_the_prefix_and_position_ids() -> None:
    keys = {official_text_key(key) for key in small_text_encoder().transformer.state_dict()}
    assert keys | {"text_model.embeddings.position_ids"} == tensors("text-tiny").keys()


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
    norms = {
        official_text_key(name): parameter.grad.double().norm().item()
        for name, parameter in encoder.transformer.named_parameters()
    }
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
def test_built_on_the_meta_device_only_the_position_ids_have_values() -> None:
    with torch.device("meta"):
        encoder = TextEncoder(text_encoder_config())
    assert all(parameter.is_meta for parameter in encoder.parameters())
    positions = [module.position_ids for module in encoder.modules() if hasattr(module, "position_ids")]
    assert len(positions) == 1
    assert torch.equal(positions[0], torch.arange(77)[None])
    assert positions[0].device.type == "cpu"
    encoder.transformer.load_state_dict(text_weights(encoder), assign=True)
    io = tensors("text-tiny-io")
    assert rel(encoder.eval()(io["input_ids"]), io["last_hidden_state"]) < BOUND
