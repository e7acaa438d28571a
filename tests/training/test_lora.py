"""Adapters in training: what they begin as, what is trained, how they are saved, and what memory they take."""

import copy
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from torch import Tensor, nn

from ldm.checkpoint.loading import Placement, load_model
from ldm.checkpoint.lora import read_lora
from ldm.checkpoint.lora_saving import lora_state_dict, lora_writer
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.choices import LORA_TARGETS
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.nn.lora import AdaptedLinear, adapt, adapted_layers, drop_ranks, keep_ranks
from ldm.nn.memory import weightless
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.lora import add_adapters, count_adapter_weights, store_frozen_in
from ldm.training.memory import Workload, predict
from tests.tiny import build_tiny_model, tiny_config, write_tiny_checkpoint

EVERYTHING = DreamBoothConfig(lora=3, lora_alpha=6.0, lora_targets="all+conv", train_text_encoder=True)
DORA = replace(EVERYTHING, dora=True)


def outputs(ldm: LatentDiffusion) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    context = ldm.text_encoder(torch.randint(0, 500, (1, 77), generator=generator))
    return context, ldm.unet(torch.randn(1, 4, 4, 4, generator=generator), torch.tensor([500]), context)


def moved(ldm: LatentDiffusion) -> LatentDiffusion:
    """The model with random numbers in its adapters."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in adapted_layers(ldm):
        layer.lora_up.data = torch.randn(layer.lora_up.shape, generator=generator) * 0.1
        if layer.lora_magnitude is not None:
            layer.lora_magnitude.data *= 1 + 0.2 * torch.rand(len(layer.lora_magnitude), generator=generator)
    return ldm


@pytest.mark.parametrize("config", [EVERYTHING, pytest.param(DORA, marks=pytest.mark.slow)], ids=["lora", "dora"])
def test_adapters_change_nothing_at_first_and_begin_with_the_seed(config: DreamBoothConfig) -> None:
    plain, one, same, other = (build_tiny_model() for _ in range(4))
    for ldm, seed in ((one, 1), (same, 1), (other, 2)):
        add_adapters(ldm, config, seed)
    for ours, expected in zip(outputs(one), outputs(plain), strict=True):
        torch.testing.assert_close(ours, expected)
    first, second, third = (lora_state_dict(ldm, torch.float32) for ldm in (one, same, other))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any(torch.equal(first[key], third[key]) for key in first if key.endswith("down.weight"))


@pytest.mark.parametrize("targets", LORA_TARGETS)
@pytest.mark.parametrize("with_text", [False, True])
def test_the_number_of_their_weights_is_known_without_building_them(targets: str, with_text: bool) -> None:
    config = DreamBoothConfig(lora=3, lora_targets=targets, train_text_encoder=with_text, dora=with_text)
    with weightless():
        ldm = LatentDiffusion(tiny_config())
    layers = add_adapters(ldm, config, 0)
    count = sum(one.numel() for layer in layers for name, one in layer.named_parameters() if name.startswith("lora_"))
    assert count == count_adapter_weights(tiny_config(), config) > 0


@pytest.mark.parametrize("config", [EVERYTHING, DORA], ids=["lora", "dora"])
def test_what_is_saved_and_merged_computes_what_was_trained(config: DreamBoothConfig, tmp_path: Path) -> None:
    base = read_checkpoint(write_tiny_checkpoint(tmp_path))
    ldm = build_tiny_model()
    add_adapters(ldm, config, 0)
    moved(ldm)
    path = tmp_path / "lora.safetensors"
    notes = {"ss_output_name": "can-1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    lora_writer(path, ldm, CheckpointInfo(step=7), torch.float32, notes)()
    loaded = load_model(
        merged(base, read_lora(read_checkpoint(path), base)), tiny_config(), Placement(torch.device("cpu"))
    )
    for ours, expected in zip(outputs(loaded), outputs(ldm), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(loaded)[1], outputs(build_tiny_model())[1], atol=1e-2)
    content = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_steps"], metadata["ss_output_name"]) == ("7", "can-1-00007")
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert json.loads(metadata["ldm.step"]) == 7


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)], ids=str)
def test_dora_computes_what_peft_computes_with_the_same_gradients(layer: nn.Module) -> None:
    theirs = nn.Sequential(copy.deepcopy(layer))
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=["0"], use_dora=True), theirs)
    ours = nn.Sequential(copy.deepcopy(layer))
    (adapted,) = adapt(ours, "0", 2, 4.0, torch.Generator().manual_seed(0), dora=True)
    weights = {name.split(".")[1]: weight for name, weight in theirs.named_parameters() if "lora_" in name}
    names = {"lora_A": adapted.lora_down, "lora_B": adapted.lora_up, "lora_magnitude_vector": adapted.lora_magnitude}
    generator = torch.Generator().manual_seed(1)
    for name, own in names.items():
        assert own is not None
        own.data = own.data + 0.3 * torch.randn(own.shape, generator=generator)
        weights[name].data = own.data.reshape(weights[name].shape).clone()
    x = torch.randn(2, 3, 6, 6, generator=generator)
    output = ours(x)
    torch.testing.assert_close(output, theirs(x))
    for network in (ours, theirs):
        network(x).square().sum().backward()
    for name, own in names.items():
        assert own is not None and own.grad is not None and weights[name].grad is not None
        torch.testing.assert_close(own.grad.flatten(), weights[name].grad.flatten(), rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    merged_weight = copy.deepcopy(layer)
    merged_weight.weight.data += adapted.delta()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(merged_weight(x), output)


def test_dropped_ranks_are_left_out_and_the_others_make_up_for_them() -> None:
    layer = torch.nn.Linear(4, 5)
    layer.__class__ = AdaptedLinear
    assert isinstance(layer, AdaptedLinear)
    layer.attach(400, 400.0, torch.Generator().manual_seed(0))
    layer.lora_up.data.normal_()
    x = torch.ones(1, 4)
    whole = layer(x)
    drop_ranks([layer], 0.25, torch.Generator().manual_seed(0))
    assert torch.allclose(layer.lora_kept.unique(), torch.tensor([0.0, 4 / 3]))
    assert 0.2 < (layer.lora_kept == 0).float().mean() < 0.3
    assert not torch.allclose(layer(x), whole)
    keep_ranks([layer])
    assert torch.equal(layer(x), whole)


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_frozen_layers_in_half_precision_compute_what_autocast_computes(dora: bool) -> None:
    ldm, half = build_tiny_model(), build_tiny_model()
    config = replace(EVERYTHING, train_text_encoder=False, dora=dora)
    store_frozen_in(half, config, torch.bfloat16)
    for one in (ldm, half):
        add_adapters(one, config, 0)
        moved(one)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(outputs(half)[1], outputs(ldm)[1], rtol=2e-2, atol=2e-2)
    assert {layer.lora_down.dtype for _, layer in adapted_layers(half)} == {torch.float32}


@pytest.mark.slow
def test_the_predicted_memory_has_the_frozen_weights_in_half_precision_and_no_moments_of_them() -> None:
    workload = Workload(tiny_config(), 32, 32, autocast_dtype=torch.bfloat16, previews=False)
    whole, lora, exact = (
        predict(one, config).step
        for one, config in (
            (workload, DreamBoothConfig()),
            (workload, DreamBoothConfig(lora=2)),
            (replace(workload, autocast_dtype=None), DreamBoothConfig(lora=2)),
        )
    )
    weights = sum(p.numel() for p in build_tiny_model().unet.parameters())
    assert whole - lora > 10 * weights
    assert exact - lora > 1.5 * weights


# What other programs look at, at Stable Diffusion v1's real shapes


@pytest.fixture(scope="module")
def full_size() -> dict[str, Tensor]:
    """The tensors of a file with rank 4 over all targets, on the meta device."""
    with weightless():
        ldm = LatentDiffusion(LatentDiffusionConfig())
    add_adapters(ldm, replace(EVERYTHING, lora=4), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.checkpoint.lora_saving.snapshot", lambda tensor, dtype: tensor)
        return lora_state_dict(ldm, torch.float16)


def test_every_module_has_down_up_and_alpha(full_size: dict[str, Tensor]) -> None:
    """A1111 takes a key to its first dot, and needs both; diffusers wants one of two beginnings."""
    modules: dict[str, set[str]] = {}
    for key in full_size:
        module, _, ending = key.partition(".")
        modules.setdefault(module, set()).add(ending)
    assert len(modules) == 72 + 192 + 50
    assert all(endings == {"lora_down.weight", "lora_up.weight", "alpha"} for endings in modules.values())
    assert all(re.match(r"lora_(unet|te)_", module) for module in modules)


def test_names_and_shapes_are_those_of_kohyas_trainer(full_size: dict[str, Tensor]) -> None:
    expected = set()
    levels = [("down", level, 2) for level in (0, 1, 2)] + [("up", level, 3) for level in (1, 2, 3)]
    blocks = [f"{side}_blocks_{level}_attentions_{index}" for side, level, count in levels for index in range(count)]
    inside = [f"attn{n}_to_{role}" for n in (1, 2) for role in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
    for block in [*blocks, "mid_block_attentions_0"]:
        expected |= {f"lora_unet_{block}_{name}" for name in ("proj_in", "proj_out")}
        expected |= {f"lora_unet_{block}_transformer_blocks_0_{name}" for name in inside}
    for layer in range(12):
        names = [f"self_attn_{role}_proj" for role in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
        expected |= {f"lora_te_text_model_encoder_layers_{layer}_{name}" for name in names}
    assert len(expected) == 264  # the modules of kohya's log: 192 of the UNet, 72 of the text encoder
    resnets = [(f"{side}_blocks_{level}", count) for side, count in (("down", 2), ("up", 3)) for level in range(4)]
    convolutions = {f"lora_unet_{block}_resnets_{index}_conv{n}"
                    for block, count in resnets for index in range(count) for n in (1, 2)}  # fmt: skip
    convolutions |= {f"lora_unet_mid_block_resnets_{index}_conv{n}" for index in (0, 1) for n in (1, 2)}
    convolutions |= {f"lora_unet_down_blocks_{block}_downsamplers_0_conv" for block in range(3)}
    convolutions |= {f"lora_unet_up_blocks_{block}_upsamplers_0_conv" for block in range(3)}
    assert {key.partition(".")[0] for key in full_size} == expected | convolutions
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert full_size[f"{key}.lora_down.weight"].shape == (4, 768)
    assert full_size[f"{key}.lora_up.weight"].shape == (640, 4)
    conv = "lora_unet_up_blocks_0_upsamplers_0_conv"
    assert full_size[f"{conv}.lora_down.weight"].shape == (4, 1280, 3, 3)
    assert full_size[f"{conv}.lora_up.weight"].shape == (1280, 4, 1, 1)
