"""The report at the end: how far each part's weights moved."""

from pathlib import Path

import pytest
import torch

from ldm.training.movement import GROUPS, weight_movement
from tests.tiny import build_tiny_model, write_tiny_checkpoint

KEYS = {
    "unet cross-attention": ".attn2.",
    "unet self-attention": ".attn1.",
    "unet residual blocks": ".in_layers.",
    "unet, the rest": "diffusion_model.time_embed.",
    "text encoder": "cond_stage_model.",
    "autoencoder": "first_stage_model.",
}
"""Weights that certainly belong to each group."""


def test_every_group_is_reported_and_untouched_weights_moved_by_nothing(tiny_checkpoint: Path) -> None:
    assert weight_movement(build_tiny_model(), tiny_checkpoint) == dict.fromkeys(GROUPS, 0.0)
    assert KEYS.keys() == GROUPS.keys()


@pytest.mark.parametrize("group", list(KEYS))
def test_movement_is_found_in_its_own_group_only(group: str, tiny_checkpoint: Path) -> None:
    model = build_tiny_model()
    touched = [parameter for name, parameter in model.named_parameters() if KEYS[group] in name]
    assert touched
    with torch.no_grad():
        touched[0].add_(1.0)
    moved = weight_movement(model, tiny_checkpoint)
    assert {name for name, share in moved.items() if share > 0} == {group}


def test_movement_is_relative_to_the_weights_length(tiny_checkpoint: Path) -> None:
    model = build_tiny_model()
    with torch.no_grad():
        for parameter in model.text_encoder.parameters():
            parameter.mul_(1.25)
        for parameter in model.unet.parameters():
            parameter.mul_(-1.0)
    moved = weight_movement(model, tiny_checkpoint)
    assert moved["text encoder"] == pytest.approx(0.25, rel=1e-4)
    assert moved["autoencoder"] == 0.0
    assert [moved[group] for group in GROUPS if group.startswith("unet")] == pytest.approx([2.0] * 4, rel=1e-4)


def test_movement_is_measured_in_float32_from_a_base_in_half_precision(tmp_path: Path) -> None:
    base = write_tiny_checkpoint(tmp_path, torch.float16)
    model = build_tiny_model().half().float()
    assert set(weight_movement(model, base).values()) == {0.0}
    with torch.no_grad():
        for parameter in model.text_encoder.parameters():
            parameter.mul_(1.0 + 1e-4)  # less than float16 can tell
    assert weight_movement(model, base)["text encoder"] == pytest.approx(1e-4, rel=0.02)


def test_a_group_whose_weights_began_at_zero_has_no_relative_movement(tmp_path: Path) -> None:
    model = build_tiny_model()
    with torch.no_grad():
        for parameter in model.autoencoder.parameters():
            parameter.zero_()
    base = write_tiny_checkpoint(tmp_path, model=model)
    assert weight_movement(build_tiny_model(), base)["autoencoder"] == 0.0
