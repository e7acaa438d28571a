"""LoRA files that are written in each dialect: diffusers computes the same; other programs have a place for all."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.diffusers_peer.networks import build_peer
from benchmarks.tools.sizes import SIZES, build_random
from ldm.checkpoint.loading import Placement, load_model
from ldm.checkpoint.lora import Lora, LowRank
from ldm.checkpoint.lora_dialects import lora_tensors
from ldm.checkpoint.lora_names import Layer, layers_of
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import checkpoint_writer
from ldm.choices import LORA_DIALECTS
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from tests.checkpoint.test_lora import latents
from tests.loras import assert_read_everywhere

TINY = SIZES["tiny"]


def random_changes(shapes: dict[str, torch.Size], layers: dict[str, Layer], rank: int = 4) -> dict[str, LowRank]:
    """Of every layer that has a place in other programs."""
    generator = torch.Generator().manual_seed(2)
    changes = {}
    for key, layer in layers.items():
        out, inputs, *kernel = shapes[key]
        down = torch.randn(rank, inputs, *kernel, generator=generator) * 0.1
        up = torch.randn(out, rank, *[1] * len(kernel), generator=generator) * 0.1
        if layer.is_common:
            changes[key] = LowRank(up, down, 0.375)
    return changes


@pytest.mark.parametrize(
    "dialect",
    ["kohya", pytest.param("peft", marks=pytest.mark.slow), pytest.param("diffusers", marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_diffusers_computes_the_same_with_every_dialect(dialect: str, tmp_path: Path) -> None:
    checkpoint_writer(tmp_path / "base.safetensors", build_random(TINY), CheckpointInfo(), torch.float32)()
    base = read_checkpoint(tmp_path / "base.safetensors")
    shapes = {key: tensor.shape for key, tensor in base.index.items()}
    layers = {layer.key: layer for layer in layers_of(base.index)}
    changes = random_changes(shapes, layers)
    path = tmp_path / "lora" / "ours.safetensors"
    path.parent.mkdir()
    save_file(lora_tensors(path, changes, layers, shapes, dialect, None), path, metadata={"format": "pt"})

    peer = build_peer(build_random(TINY), TINY)
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(path.parent), weight_name=path.name)
    for load, prefix, network in (
        (StableDiffusionPipeline.load_lora_into_unet, "unet.", peer.unet),
        (StableDiffusionPipeline.load_lora_into_text_encoder, "text_encoder.", peer.text_encoder),
    ):
        own = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
        load(own, {key: alpha for key, alpha in (alphas or {}).items() if key.startswith(prefix)} or None, network)
    noisy, timesteps, ids = latents()
    context = peer.text_encoder(ids)[0]
    ours = load_model(merged(base, Lora(path, "", changes)), build_random(TINY).config, Placement(torch.device("cpu")))
    torch.testing.assert_close(ours.text_encoder(ids), context, rtol=2e-5, atol=2e-5)
    eps = peer.unet(noisy, timesteps, context).sample
    torch.testing.assert_close(ours.unet(noisy, timesteps, context), eps, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(build_random(TINY).text_encoder(ids), context, atol=1e-2)


def test_at_stable_diffusions_shapes_every_module_has_a_place() -> None:
    shapes = dict(shapes_of(LatentDiffusionConfig()))
    outline = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    layers = {layer.key: layer for layer in layers_of(outline)}
    changes = {}
    for key, layer in layers.items():
        if layer.is_common:
            out, inputs, *kernel = shapes[key]
            ones = [1] * len(kernel)
            matrices: list[Tensor] = [torch.empty(out, 4, *ones, device="meta"),
                                      torch.empty(4, inputs, *kernel, device="meta")]  # fmt: skip
            changes[key] = LowRank(matrices[0], matrices[1], 1.0)
    path = Path("a.safetensors")
    tensors = lora_tensors(path, changes, layers, shapes, "kohya", torch.float16)
    assert (
        len(assert_read_everywhere(tensors)) == len(changes) == 72 + 192 + 50 + 22 + 14
    )  # those that are trained, time embeddings, shortcuts
    for dialect in LORA_DIALECTS.keys() - {"kohya"}:
        named = lora_tensors(path, changes, layers, shapes, dialect, torch.float16)
        assert len(named) == 2 * len(changes) and all("lora" in key for key in named)
