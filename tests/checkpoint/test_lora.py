"""LoRA files that diffusers and peft wrote, in every dialect, change the model as they change theirs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.diffusers_peer.networks import Networks, build_peer
from benchmarks.tools.sizes import SIZES, build_random
from ldm.checkpoint.loading import Placement, load_model
from ldm.checkpoint.lora import is_lora, read_lora
from ldm.checkpoint.lora_saving import lora_writer
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import checkpoint_writer
from ldm.errors import UserError
from ldm.nn.lora import adapted_layers
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.lora import add_adapters

TINY = SIZES["tiny"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TARGETS = {
    "attention": ATTENTION,
    "everything": [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut",
                   "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"],
}  # fmt: skip
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
QUERY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"

State = dict[str, Tensor]


@dataclass(frozen=True)
class Theirs:
    """Random adapters in diffusers' UNet and transformers' text encoder, and what these compute with them."""

    networks: Networks
    unet: State
    text: State
    eps: Tensor
    context: Tensor


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFile:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    checkpoint_writer(path, build_random(TINY), CheckpointInfo(), torch.float32)()
    return read_checkpoint(path)


def latents() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 768, (2, 77), generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([9, 700]), ids


@cache
@torch.inference_mode(False)
@torch.no_grad()
def theirs(targets: str, alpha: int = 4, **options: Any) -> Theirs:
    peer = build_peer(build_random(TINY), TINY)
    generator = torch.Generator().manual_seed(5)
    for network, names in ((peer.unet, TARGETS[targets]), (peer.text_encoder, TEXT)):
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=names, **options)
        inject_adapter_in_model(config, network)
        network.peft_config = {"default": config}
        for name, weight in network.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                weight.normal_(0.0, 0.2, generator=generator)
            elif "magnitude" in name:
                weight.mul_(1 + 0.3 * torch.rand(weight.shape, generator=generator))
    noisy, timesteps, ids = latents()
    context = peer.text_encoder(ids)[0]
    eps = peer.unet(noisy, timesteps, context).sample
    unet, text = (get_peft_model_state_dict(one) for one in (peer.unet, peer.text_encoder))
    return Theirs(peer, unet, text, eps, context)


def prefixed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {f"{prefix}{key}": tensor.detach().clone().contiguous() for key, tensor in state.items()}


def peft_names(one: Theirs) -> State:
    return prefixed(one.unet, "unet.") | prefixed(one.text, "text_encoder.")


def kohya_names(one: Theirs) -> State:
    return {key: tensor.contiguous() for key, tensor in convert_state_dict_to_kohya(peft_names(one)).items()}


def trainer_names(one: Theirs) -> State:
    """As diffusers' training scripts wrote before PEFT: `.lora.down`, `.lora_linear_layer.down`."""
    unet = {key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): t for key, t in one.unet.items()}
    return prefixed(unet, "unet.") | prefixed(convert_state_dict_to_diffusers(one.text), "text_encoder.")


def processor_names(one: Theirs) -> State:
    """As the first versions of diffusers wrote: `attn1.processor.to_q_lora.down`."""
    state = {}
    for key, tensor in peft_names(one).items():
        for old, new in ((".lora_A.", "_lora.down."), (".lora_B.", "_lora.up.")):
            key = key.replace(old, new)
        if key.startswith("unet."):
            key = key.replace(".to_", ".processor.to_").replace(".to_out.0_lora", ".to_out_lora")
        elif ".self_attn." in key:
            for role in "qkv":
                key = key.replace(f".{role}_proj_lora", f".to_{role}_lora")
            key = key.replace(".out_proj_lora", ".to_out_lora")
        else:
            key = key.replace("_lora.", ".lora_linear_layer.")
        state[key] = tensor.contiguous()
    return state


def original_names(one: Theirs) -> State:
    """kohya's endings after the original code's names."""
    original = {
        "down_blocks_0_resnets_0": "input_blocks_1_0",
        "down_blocks_0_attentions_0": "input_blocks_1_1",
        "down_blocks_0_downsamplers_0_conv": "input_blocks_2_0_op",
        "down_blocks_1_resnets_0": "input_blocks_3_0",
        "mid_block_attentions_0": "middle_block_1",
        "mid_block_resnets_0": "middle_block_0",
        "mid_block_resnets_1": "middle_block_2",
        "up_blocks_0_resnets_0": "output_blocks_0_0",
        "up_blocks_0_resnets_1": "output_blocks_1_0",
        "up_blocks_0_upsamplers_0_conv": "output_blocks_1_1_conv",
        "up_blocks_1_resnets_0": "output_blocks_2_0",
        "up_blocks_1_resnets_1": "output_blocks_3_0",
        "up_blocks_1_attentions_0": "output_blocks_2_1",
        "up_blocks_1_attentions_1": "output_blocks_3_1",
        "_conv1": "_in_layers_2",
        "_conv2": "_out_layers_3",
        "_conv_shortcut": "_skip_connection",
        "_time_emb_proj": "_emb_layers_1",
        "unet_conv_in": "unet_input_blocks_0_0",
        "unet_conv_out": "unet_out_2",
    }
    state = {}
    for key, tensor in kohya_names(one).items():
        for new, old in original.items():
            if key.startswith("lora_unet_"):
                key = key.replace(new, old)
        state[key] = tensor
    return state


def written(path: Path, state: State, metadata: dict[str, str] | None = None) -> CheckpointFile:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path, metadata=metadata)
    return read_checkpoint(path)


@torch.no_grad()
def assert_same(file: CheckpointFile, base: CheckpointFile, one: Theirs, tolerance: float = 2e-5) -> None:
    assert is_lora(file)
    ldm = load_model(merged(base, read_lora(file, base)), build_random(TINY).config, Placement(torch.device("cpu")))
    noisy, timesteps, ids = latents()
    context = ldm.text_encoder(ids)
    torch.testing.assert_close(context, one.context, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ldm.unet(noisy, timesteps, context), one.eps, rtol=tolerance, atol=tolerance)


DIALECTS = {
    "kohya.safetensors": kohya_names,
    "original.safetensors": original_names,
    "peft.safetensors": peft_names,
    "trainer.safetensors": trainer_names,
}


@pytest.mark.parametrize(
    ("name", "dialect", "targets"),
    [
        *((name, dialect, "everything") for name, dialect in DIALECTS.items()),
        ("kohya.safetensors", kohya_names, "attention"),
        ("old.bin", processor_names, "attention"),
    ],
)
def test_every_dialect_changes_our_networks_as_theirs(
    name: str, dialect: Callable[[Theirs], State], targets: str, base: CheckpointFile, tmp_path: Path
) -> None:
    one = theirs(targets)
    assert_same(written(tmp_path / name, dialect(one)), base, one)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"use_dora": True}, {"alpha": 9}], ids=str)
def test_what_diffusers_saves_with_its_description(
    options: dict[str, Any], base: CheckpointFile, tmp_path: Path
) -> None:
    """An alpha that only the metadata have, also scaled by the root of the rank; DoRA's magnitudes."""
    one = theirs("everything", **options)
    networks = {"unet": one.networks.unet, "text_encoder": one.networks.text_encoder}
    configs = {f"{name}_lora_adapter_metadata": network.peft_config["default"].to_dict()
               for name, network in networks.items()}  # fmt: skip
    StableDiffusionPipeline.save_lora_weights(
        str(tmp_path), unet_lora_layers=one.unet, text_encoder_lora_layers=one.text, **configs
    )
    assert_same(read_checkpoint(tmp_path / "pytorch_lora_weights.safetensors"), base, one)


def test_a_directory_of_peft_has_its_alpha_beside_it(base: CheckpointFile, tmp_path: Path) -> None:
    one = theirs("everything", alpha=9)
    file = written(tmp_path / "adapter_model.safetensors", prefixed(one.unet, "base_model.model."))
    with pytest.raises(UserError, match=r"its alpha is in adapter_config\.json, which should lie beside it"):
        read_lora(file, base)
    one.networks.unet.peft_config["default"].save_pretrained(tmp_path)
    changes = read_lora(file, base).changes
    assert {change.scale for change in changes.values()} == {9 / 4}


@torch.no_grad()
def test_diffusers_reads_what_we_write(base: CheckpointFile, tmp_path: Path) -> None:
    """Into the UNet, of which our file changes every kind of layer; of the text encoder it converts every name."""
    ldm = build_random(TINY)
    config = DreamBoothConfig(lora=3, lora_alpha=5.0, lora_targets="all+conv", train_text_encoder=True)
    add_adapters(ldm, config, 0)
    generator = torch.Generator().manual_seed(1)
    for _, layer in adapted_layers(ldm):
        layer.lora_up.copy_(torch.randn(layer.lora_up.shape, generator=generator) * 0.1)
    path = tmp_path / "ours.safetensors"
    lora_writer(path, ldm, CheckpointInfo(), torch.float32, {"ss_output_name": "ours"})()
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name=path.name)
    text = {key for key in state if key.startswith("text_encoder.")}
    assert len(text) == 2 * 2 * 6 and len(alphas) == len(state) // 2
    peer = build_peer(build_random(TINY), TINY)
    unet = {key: tensor for key, tensor in state.items() if key not in text}
    StableDiffusionPipeline.load_lora_into_unet(
        unet, {key: alpha for key, alpha in alphas.items() if key.startswith("unet.")}, peer.unet
    )
    noisy, timesteps, ids = latents()
    context = build_random(TINY).text_encoder(ids)
    theirs = peer.unet(noisy, timesteps, context).sample
    torch.testing.assert_close(ldm.unet(noisy, timesteps, context), theirs, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(build_random(TINY).unet(noisy, timesteps, context), theirs, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_merged_in_float32(dtype: torch.dtype, base: CheckpointFile, tmp_path: Path) -> None:
    one = theirs("attention")
    state = {key: tensor if key.endswith("alpha") else tensor.to(dtype) for key, tensor in kohya_names(one).items()}
    lora = read_lora(written(tmp_path / "half.safetensors", state), base)
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    up, down = (state[f"{QUERY}.lora_{role}.weight"].float() for role in ("up", "down"))
    assert torch.equal(lora.delta(key, base.tensors[key]), up @ down)


def test_alpha_over_rank_scales_a_change_and_a_copy_in_another_dialect_is_the_same(
    base: CheckpointFile, tmp_path: Path
) -> None:
    one = theirs("attention")
    same = read_lora(written(tmp_path / "a.safetensors", kohya_names(one)), base)
    other = read_lora(written(tmp_path / "b.safetensors", peft_names(one), {"ss_steps": "9"}), base)
    assert same.digest == other.digest
    half = kohya_names(one) | {f"{QUERY}.alpha": torch.tensor(2.0)}
    scaled = read_lora(written(tmp_path / "c.safetensors", half), base)
    assert scaled.digest != same.digest
    assert sorted(change.scale for change in scaled.changes.values())[:2] == [0.5, 1.0]


def test_a_tucker_decomposition_is_three_convolutions(base: CheckpointFile, tmp_path: Path) -> None:
    """LoCon's middle layer: 1x1 down, 3x3 between, 1x1 up."""
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    generator = torch.Generator().manual_seed(0)
    down, mid, up = (torch.randn(*shape, generator=generator) for shape in ((3, 32, 1, 1), (3, 3, 3, 3), (32, 3, 1, 1)))
    state = {f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": mid, f"{name}.lora_up.weight": up,
             f"{name}.alpha": torch.tensor(1.5)}  # fmt: skip
    lora = read_lora(written(tmp_path / "locon.safetensors", state), base)
    (key,) = lora.keys
    x = torch.randn(1, 32, 5, 5, generator=generator)
    conv = torch.nn.functional.conv2d
    expected = 0.5 * conv(conv(conv(x, down), mid, padding=1), up)
    torch.testing.assert_close(conv(x, lora.delta(key, base.tensors[key]), padding=1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of_inputs", [False, True])
def test_lengths_of_dora_are_those_of_outputs_or_of_inputs(
    of_inputs: bool, base: CheckpointFile, tmp_path: Path
) -> None:
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    weight = base.tensors[key]
    shape, dims = ((1, 32, 1, 1), (0, 2, 3)) if of_inputs else ((32, 1, 1, 1), (1, 2, 3))
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    state = {f"{name}.lora_down.weight": torch.randn(2, 32, 3, 3), f"{name}.lora_up.weight": torch.randn(32, 2, 1, 1),
             f"{name}.dora_scale": 1 + torch.rand(shape)}  # fmt: skip
    lora = read_lora(written(tmp_path / "dora.safetensors", state), base)
    changed = weight + lora.delta(key, weight)
    lengths = torch.linalg.vector_norm(changed, dim=dims, keepdim=True)
    torch.testing.assert_close(lengths, state[f"{name}.dora_scale"], rtol=1e-4, atol=1e-4)


ONE = torch.ones(1)
TAKES_1024 = {f"{QUERY.replace('to_q', 'to_k')}.lora_{role}.weight": torch.zeros(shape)
              for role, shape in (("down", (4, 1024)), ("up", (64, 4)))}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "metadata", "words"),
    [
        ({"lora_unet_none.lora_up.weight": torch.zeros(2, 2)}, {}, "1 of its .* no place .*lora_unet_none.lora_up"),
        ({f"{QUERY}.lora_up.bias": torch.zeros(64)}, {}, "is a LoRA with biases.* no place in this model: .*bias"),
        ({f"{QUERY}.hada_w1_a": torch.zeros(2, 2)}, {}, "a LoHa, which can't be merged"),
        ({f"{QUERY}.lora_down.weight": torch.zeros(4, 64)}, {}, f"of {QUERY} it has down and no up"),
        (TAKES_1024, {}, "is a LoRA of Stable Diffusion 2: .* shape"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ONE}, {}, "is a LoRA of Stable Diffusion XL"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.alpha": ONE}, {}, "is a LoRA of Flux"),
        ({"lora_unet_none.alpha": ONE}, {"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL"),
        ({"lora_unet_none.alpha": ONE}, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "2"),
    ],
)  # fmt: skip
def test_a_tensor_without_a_place_is_an_error_that_names_it_and_the_kind(
    state: State, metadata: dict[str, str], words: str, base: CheckpointFile, tmp_path: Path
) -> None:
    file = written(tmp_path / "my-lora.safetensors", state, metadata)
    with pytest.raises(UserError, match=rf"my-lora\.safetensors .*{words}"):
        read_lora(file, base)


def test_a_model_is_no_lora_and_reading_leaves_the_file(base: CheckpointFile, tmp_path: Path) -> None:
    assert not is_lora(base)
    path = tmp_path / "lora.safetensors"
    lora = read_lora(written(path, kohya_names(theirs("attention"))), base)
    path.unlink()
    before = load_file(written(path, kohya_names(theirs("attention"))).path)
    assert all(change.up.is_contiguous() for change in lora.changes.values()) and before
