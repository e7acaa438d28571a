"""The UNet: the original's output, blocks and gradients; checkpointing; its geometry."""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ldm.nn.attention import SpatialTransformer
from ldm.nn.unet import ResBlock, UNet, UNetConfig
from tests.oracle import BOUND, BOUND_F64, facts, new_unet, rel, small_unet, tensors, transposed, unet_config


class Gradients(NamedTuple):
    """One backward pass of the stored loss."""

    out: Tensor
    loss: Tensor
    latents: Tensor
    context: Tensor
    parameters: dict[str, Tensor]


def gradients(gradient_checkpointing: str) -> Gradients:
    io = tensors("unet-small-io")
    unet = new_unet()
    unet.set_gradient_checkpointing(gradient_checkpointing)
    latents, context = io["x"].clone().requires_grad_(), io["context"].clone().requires_grad_()
    out = unet(latents, io["t"], context)
    loss = (out - io["target"]).square().mean()
    loss.backward()
    by_name = {name: parameter.grad for name, parameter in unet.named_parameters()}
    return Gradients(out.detach(), loss.detach(), latents.grad, context.grad, by_name)


@pytest.fixture(scope="module", params=["none", "attention", "all"])
def run(request: pytest.FixtureRequest) -> Gradients:
    return gradients(request.param)


@torch.inference_mode()
def test_output_is_the_originals() -> None:
    io = tensors("unet-small-io")
    out = small_unet()(io["x"], io["t"], io["context"])
    assert rel(out, io["out"]) < BOUND
    assert rel(out, io["out_f64"]) < BOUND


@torch.inference_mode()
def test_output_in_float64_is_the_originals() -> None:
    io = tensors("unet-small-io")
    out = small_unet(torch.float64)(io["x"].double(), io["t"], io["context"].double())
    assert out.dtype == torch.float64
    assert rel(out, io["out_f64"]) < BOUND_F64


@torch.inference_mode()
def test_every_blocks_output_and_the_time_embedding_are_the_originals() -> None:
    io, rows = tensors("unet-small-io"), facts("unet-small")["block_stats"]["rows"]
    unet, outputs = new_unet(), {}
    for name in [row[0] for row in rows] + ["time_embed"]:
        unet.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output.double()})
        )
    unet(io["x"], io["t"], io["context"])
    assert rel(outputs["time_embed"], io["emb"]) < BOUND
    assert len(rows) == len(unet.input_blocks) + 1 + len(unet.output_blocks)
    for name, shape, mean, std, norm in rows:
        block = outputs[name]
        assert list(block.shape) == shape, name
        assert block.mean().item() == pytest.approx(mean, abs=1e-6 * std), name
        assert block.std().item() == pytest.approx(std, rel=1e-6), name
        assert block.norm().item() == pytest.approx(norm, rel=1e-6), name


def test_loss_and_the_gradients_of_its_inputs_are_the_originals(run: Gradients) -> None:
    io = tensors("unet-small-io")
    assert rel(run.loss, io["loss"]) < BOUND
    assert rel(run.loss, io["loss_f64"]) < BOUND
    assert rel(run.latents, io["grad_x"]) < BOUND
    assert rel(run.context, io["grad_context"]) < BOUND


def test_stored_gradients_are_the_originals(run: Gradients) -> None:
    stored = {key.removeprefix("grad."): value for key, value in tensors("unet-small-io").items() if "grad." in key}
    assert len(stored) == 6
    for name, gradient in stored.items():
        assert rel(run.parameters[name], gradient) < BOUND, name


def test_every_parameters_gradient_norm_is_the_originals(run: Gradients) -> None:
    expected = facts("unet-small-grads")
    assert run.parameters.keys() == expected["norms"].keys()
    for name, norm in expected["norms"].items():
        actual = run.parameters[name].double().norm().item()
        if name in expected["zero"]:
            assert actual < 1e-5, name
        else:
            assert actual == pytest.approx(norm, rel=BOUND), name


def test_levels_of_gradient_checkpointing_run_their_layers_twice_and_change_no_bit() -> None:
    io, unet, calls = tensors("unet-small-io"), new_unet(), Counter()
    block, transformer = unet.middle_block[0], unet.middle_block[1]
    assert isinstance(block, ResBlock) and isinstance(transformer, SpatialTransformer)
    for layer in (block, transformer):
        layer.register_forward_pre_hook(lambda module, *_: calls.update([type(module)]))
    results, times = [], []
    for level in ("none", "attention", "all"):
        calls.clear()
        unet.zero_grad()
        unet.set_gradient_checkpointing(level)
        out = unet(io["x"], io["t"], io["context"])
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in unet.parameters())])
        times.append((calls[ResBlock], calls[SpatialTransformer]))
    assert times == [(1, 1), (1, 2), (2, 2)]
    for without, attention, every in zip(*results, strict=True):
        assert torch.equal(without, attention) and torch.equal(without, every)


def test_gradient_checkpointing_can_be_switched_off_again_and_rests_without_gradients() -> None:
    io, calls = tensors("unet-small-io"), Counter()
    unet = new_unet()
    unet.middle_block[1].register_forward_pre_hook(lambda *_: calls.update(["transformer"]))
    unet.set_gradient_checkpointing("all")
    with torch.no_grad():
        unet(io["x"], io["t"], io["context"])
    assert calls["transformer"] == 1
    unet.set_gradient_checkpointing("none")
    unet(io["x"], io["t"], io["context"]).sum().backward()
    assert calls["transformer"] == 2


@torch.inference_mode()
def test_each_image_is_denoised_with_its_own_timestep_and_context() -> None:
    io, unet = tensors("unet-small-io"), small_unet(torch.float64)
    latents, context = io["x"].double(), io["context"].double()
    together = unet(latents, io["t"], context)
    for i in range(2):
        torch.testing.assert_close(
            unet(latents[i : i + 1], io["t"][i : i + 1], context[i : i + 1]), together[i : i + 1]
        )
    assert rel(unet(latents, io["t"].flip(0), context), together) > 1e-2
    assert rel(unet(latents, io["t"], context.flip(0)), together) > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_context_projected_once_changes_no_bit_of_any_step(dtype: torch.dtype) -> None:
    io, unet = tensors("unet-small-io"), small_unet(dtype)
    latents, context = io["x"].to(dtype), io["context"].to(dtype)
    projected = unet.project_context(context)
    for timesteps in (io["t"], io["t"].flip(0)):
        assert torch.equal(unet(latents, timesteps, projected), unet(latents, timesteps, context))


@torch.inference_mode()
def test_with_a_projected_context_no_stage_projects_it_again() -> None:
    io, unet, calls = tensors("unet-small-io"), new_unet(), Counter()
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    projected = unet.project_context(io["context"])
    assert set(calls.values()) == {1}
    unet(io["x"], io["t"], projected)
    assert set(calls.values()) == {1}
    unet(io["x"], io["t"], io["context"])
    assert set(calls.values()) == {2}


def test_training_with_a_projected_context_has_the_same_gradients() -> None:
    io, unet = tensors("unet-small-io"), new_unet()
    contexts = [io["context"].clone().requires_grad_() for _ in range(2)]
    unet.set_gradient_checkpointing("all")
    unet(io["x"], io["t"], contexts[0]).square().mean().backward()
    unet(io["x"], io["t"], unet.project_context(contexts[1])).square().mean().backward()
    assert rel(contexts[1].grad, contexts[0].grad) < BOUND


@torch.inference_mode()
def test_a_whole_timestep_may_come_as_a_float_and_a_fraction_counts() -> None:
    io, unet = tensors("unet-small-io"), small_unet()
    out = unet(io["x"], io["t"], io["context"])
    assert torch.equal(unet(io["x"], io["t"].float(), io["context"]), out)
    assert rel(unet(io["x"], io["t"] + 0.5, io["context"]), out) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(8, 24), (24, 8), (8, 8)])
def test_latents_need_not_be_square(height: int, width: int) -> None:
    io, generator = tensors("unet-small-io"), torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64)
    context = io["context"].double()
    out = small_unet(torch.float64)(latents, io["t"], context)
    assert out.shape == latents.shape
    sideways = transposed(new_unet(torch.float64))(latents.transpose(2, 3), io["t"], context)
    torch.testing.assert_close(sideways.transpose(2, 3), out)


@torch.inference_mode()
def test_height_and_width_must_be_multiples_of_size_multiple() -> None:
    io, unet = tensors("unet-small-io"), small_unet()
    assert unet.config.size_multiple == 8
    assert UNetConfig(channel_mult=(1, 2)).size_multiple == 2
    with pytest.raises(RuntimeError):
        unet(torch.zeros(2, 4, 8, 12), io["t"], io["context"])


@torch.inference_mode()
def test_a_new_unet_predicts_no_noise() -> None:
    io = tensors("unet-small-io")
    assert UNet(unet_config())(io["x"], io["t"], io["context"]).eq(0).all()


@torch.inference_mode()
def test_a_new_residual_block_is_its_skip_connection() -> None:
    generator = torch.Generator().manual_seed(0)
    x, emb = torch.randn(2, 32, 4, 6, generator=generator), torch.randn(2, 8, generator=generator)
    assert torch.equal(ResBlock(32, 8, 32)(x, emb), x)
    wider = ResBlock(32, 8, 64)
    assert torch.equal(wider(x, emb), wider.skip_connection(x))


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_stays_half_and_comes_near(dtype: torch.dtype, bound: float) -> None:
    io = tensors("unet-small-io")
    out = small_unet(dtype)(io["x"].to(dtype), io["t"], io["context"].to(dtype))
    assert out.dtype == dtype
    assert rel(out, io["out"]) < bound


@torch.inference_mode()
def test_num_groups_changes_every_normalisation_and_no_weight() -> None:
    io, config = tensors("unet-small-io"), unet_config()
    assert config.num_groups == 32
    fewer = UNet(replace(config, num_groups=8)).eval()
    fewer.load_state_dict(small_unet().state_dict())
    assert {m.num_groups for m in fewer.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    assert rel(fewer(io["x"], io["t"], io["context"]), io["out"]) > 100 * BOUND


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_groups": 24}, "model_channels should be a multiple of num_groups: 320 channels, 24 groups"),
        ({"num_groups": 0}, "num_groups should be from 1"),
        ({"num_heads": 7}, "the channels of level 0, 1 \\* model_channels, should be a multiple of num_heads"),
        ({"num_heads": 7, "attention_resolutions": ()}, "the channels of level 3, 4 \\* model_channels"),
    ],
)
def test_shapes_that_are_not_possible_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNetConfig(**changes)
