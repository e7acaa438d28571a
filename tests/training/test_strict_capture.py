"""The computations that are captured as CUDA graphs do nothing that a capture forbids."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.nn.graphed import capture_cuda_graph
from ldm.training.graphed_step import GraphedStep
from tests.strict_capture import META, CaptureError, StrictCapture
from tests.training.parts import batch_of, build_module


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: x * torch.tensor([1.0, 2.0]).to(META),
        lambda x: x + torch.arange(2).to(x),
        lambda x: x + torch.randn(2, device=META),
        lambda x: torch.nn.functional.dropout(x),
        lambda x: x.cpu(),
    ],
    ids=["item", "mask", "branch", "constant", "range", "random", "dropout", "copy"],
)
def test_what_a_capture_forbids_is_refused(call: Callable[[Tensor], object]) -> None:
    with pytest.raises((CaptureError, RuntimeError, NotImplementedError)), StrictCapture():
        call(torch.zeros(2, device=META))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"train_text_encoder": True}, id="text encoder"),
        pytest.param({"gradient_checkpointing": "all"}, marks=pytest.mark.slow, id="checkpointing"),
        pytest.param({"train_dtype": "bf16", "optimizer": "adamw8bit"}, marks=pytest.mark.slow, id="bfloat16"),
        pytest.param({"lora": 4}, marks=pytest.mark.slow, id="LoRA"),
    ],
)
def test_a_training_step_can_be_captured(changes: dict[str, Any]) -> None:
    module = build_module(**changes)
    batch = batch_of(module, 0)
    module.to(META)
    step = GraphedStep(module.losses, module.trained_parameters(), None, capture_cuda_graph)
    on_device = {name: value.to(META) for name, value in batch.items()}
    step._run(on_device)  # as before each capture: calls that copy to the device what later calls find there
    with StrictCapture() as capture:
        norms, losses = step._run(on_device)
    assert capture.operations > 500
    assert all(weight.grad is not None and weight.grad.device == META for weight in module.trained_parameters())
    assert norms.shape == (len(module.trained_parameters()),) and losses["total"].shape == ()


def test_the_unets_call_can_be_captured() -> None:
    unet = build_module().ldm.unet.to(META)
    context = torch.zeros(2, 77, unet.config.context_dim, device=META)
    with torch.inference_mode():
        projected = unet.project_context(context)
        latents, timesteps = torch.zeros(2, 4, 4, 4, device=META), torch.zeros(2, dtype=torch.int64, device=META)
        with StrictCapture():
            assert unet(latents, timesteps, projected).shape == latents.shape
