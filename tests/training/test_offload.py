"""Offloaded networks: where they are when, and that they are unchanged when they are back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.diffusion import latent_diffusion
from ldm.nn.memory import on_host
from ldm.training.dreambooth import HOST, DreamBooth, OffloadedNetworks
from tests.training.parts import assert_same, build_module, train, weights

HALF = torch.bfloat16


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    return layers.requires_grad_(False)


def types(layers: nn.Module) -> set[torch.dtype]:
    return {tensor.dtype for tensor in (*layers.parameters(), *layers.buffers()) if tensor.is_floating_point()}


def test_they_are_onloaded_only_in_the_block_and_stay_unchanged() -> None:
    """A type of their own stands for the device that a CPU doesn't have."""
    layers = network()
    parameters = list(layers.parameters())
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    waiting = OffloadedNetworks([layers])
    for _ in range(2):
        with waiting.onloaded(HOST, HALF):
            assert types(layers) == {HALF}
            assert layers[1].num_batches_tracked.dtype == torch.int64
        assert types(layers) == {torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
    assert all(one is other for one, other in zip(layers.parameters(), parameters, strict=True))


def test_after_an_error_they_are_offloaded_too() -> None:
    layers = network()
    with pytest.raises(KeyError), OffloadedNetworks([layers]).onloaded(HOST, HALF):
        raise KeyError
    assert types(layers) == {torch.float32}


@pytest.mark.gpu
def test_on_a_gpu_their_memory_is_free_while_they_are_offloaded() -> None:
    device = torch.device("cuda")
    layers = nn.Linear(1000, 1000).to(device).requires_grad_(False)
    before, expected = torch.cuda.memory_allocated(), layers.weight.cpu()
    waiting = OffloadedNetworks([layers])
    waiting.offload()
    assert torch.cuda.memory_allocated() <= before - layers.weight.nbytes
    with waiting.onloaded(device):
        assert torch.equal(layers.weight, expected.to(device))
    assert layers.weight.device.type == "cpu" and torch.equal(layers.weight, expected)


def test_on_the_host_nothing_is_copied() -> None:
    layers = network()
    before = [tensor.data_ptr() for tensor in layers.parameters()]
    with OffloadedNetworks([layers]).onloaded(HOST):
        assert [tensor.data_ptr() for tensor in layers.parameters()] == before


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which call follows which."""
    calls: list[str] = []
    offload = OffloadedNetworks.offload
    monkeypatch.setattr(OffloadedNetworks, "offload", lambda self: calls.append("offload") or offload(self))
    yield calls


@pytest.mark.slow
@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_a_training_offloads_fixed_networks_and_onloads_them_to_sample(
    train_text_encoder: bool, tmp_path: Path, moves: list[str]
) -> None:
    module = build_module(train_text_encoder=train_text_encoder)
    fixed = [module.ldm.autoencoder] if train_text_encoder else [module.ldm.autoencoder, module.ldm.text_encoder]
    before = weights(module)

    def save(module: object, step: int) -> None:
        moves.append(f"step {step}")
        with build.all_onloaded():
            moves.append("sample")
            assert all(parameter.grad is None for parameter in build.trained_parameters())

    build = module
    train(module, tmp_path, save)
    assert moves[0] == "offload"
    assert moves[1:5] == ["step 2", "offload", "sample", "offload"]
    tensors = {id(tensor) for tensor in module._offloaded._tensors}
    assert tensors == {id(tensor) for network in fixed for tensor in (*network.parameters(), *network.buffers())}
    after = weights(module)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("first_stage_model."))


def test_before_a_training_they_are_onloaded_to_the_others_device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build_module()
    module.ldm.unet.to("meta")  # stands for a GPU; nobody has moved the module itself, whose `device` is the CPU
    devices: list[torch.device] = []
    onloaded = OffloadedNetworks.onloaded
    monkeypatch.setattr(
        OffloadedNetworks, "onloaded", lambda self, device, dtype: devices.append(device) or onloaded(self, HOST, dtype)
    )
    with module.all_onloaded():
        assert devices == [torch.device("meta")]


class Watched(DreamBooth):
    """Notes how many weights have a gradient when a step begins."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        waiting = sum(parameter.grad is not None for parameter in self.trained_parameters())
        vars(self).setdefault("held", []).append(waiting)
        return super().training_step(batch, batch_idx)


def test_no_gradient_is_held_while_the_next_forward_pass_runs(tmp_path: Path) -> None:
    module = build_module(cls=Watched)
    train(module, tmp_path)
    assert vars(module)["held"] == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_preview_between_steps_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    plain, sampled = build_module(), build_module()
    train(plain, tmp_path / "plain")

    def sample(module: object, step: int) -> None:
        with sampled.all_onloaded(torch.bfloat16):
            assert sampled.ldm.autoencoder.quant_conv.weight.dtype == torch.bfloat16

    train(sampled, tmp_path / "sampled", sample)
    assert_same(sampled, plain)


@pytest.mark.parametrize("fused_backward", [True, False])
def test_where_memory_is_scarce_a_preview_has_one_network_on_the_device_at_a_time(
    fused_backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build_module(fused_backward=fused_backward)
    waiting: list[list[Any]] = []
    monkeypatch.setattr(latent_diffusion, "on_host", lambda some: waiting.append(some) or on_host(some))
    before = weights(module)
    with module.all_onloaded(), module.alone(module.ldm.autoencoder):
        pass
    assert waiting == ([[module.ldm.unet, module.ldm.text_encoder]] if fused_backward else [])
    assert all(torch.equal(one, before[name]) for name, one in weights(module).items())
