"""Checks of 8-bit AdamW's kernel by Triton's interpreter, which has to be chosen before Triton is imported.

TRITON_INTERPRET=1 python -m tests.training.interpreted_kernel all | training | failure
"""

import copy
import logging
import sys

import torch
from torch import Tensor, nn

import ldm.training.adamw_8bit as adamw_8bit
import ldm.training.adamw_8bit_kernel as kernel_module
from ldm.training.adamw_8bit_buckets import Bucket, Slice
from tests.training.test_adamw_8bit_kernel import examples

SAME = 1e-6
"""Relative: float32's rounding, without a code or a bit that was rounded the other way."""


def check_all_kinds() -> None:
    """Each kind of bucket gets the reference's numbers."""
    for bucket, low in examples(torch.device("cpu")):
        assert kernel_module.distance_from_reference(bucket, low) < SAME, (bucket, low)


def trained(model: nn.Module, optimizer: adamw_8bit.AdamW8bit, steps: range) -> Tensor:
    """The weights after steps whose gradients are a function of the step."""
    for step in steps:
        for number, weight in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + number)
            weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        optimizer.step()
    return torch.cat([weight.detach().flatten().float() for weight in model.parameters()])


def check_training() -> None:
    """A training by kernels is close to one by torch, and continued from its state it ends with the same bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(70, 70), nn.Linear(70, 70)).bfloat16()
    plain = trained(copy.deepcopy(model), adamw_8bit.AdamW8bit([*model.parameters()]), range(0))
    start = copy.deepcopy(model)
    adamw_8bit.bucket_kernel = lambda device: kernel_module.BucketKernel()

    def optimizer(of: nn.Module) -> adamw_8bit.AdamW8bit:
        return adamw_8bit.AdamW8bit(of.parameters(), lr=0.01, seed=5, bucket=4096)

    first = optimizer(model)
    middle = trained(model, first, range(2))
    assert (middle - plain).norm() > 0.1 * plain.norm()
    continued = copy.deepcopy(model)
    second = optimizer(continued)
    second.load_state_dict(first.state_dict())
    whole = trained(model, first, range(2, 3))
    assert torch.equal(trained(continued, second, range(2, 3)), whole)
    adamw_8bit.bucket_kernel = lambda device: None
    by_torch = trained(start, optimizer(start), range(3))
    assert not torch.equal(whole, by_torch)  # other random numbers
    assert (whole - by_torch).norm() < 0.05 * (whole - plain).norm()


def check_failure() -> None:
    """A kernel that fails, or gives other numbers, is not used, and the log says so."""
    messages: list[str] = []
    logging.getLogger("ldm").addHandler(handler := logging.Handler())
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]

    class Broken:
        def __getitem__(self, grid: object) -> object:
            raise RuntimeError("no C compiler\nat all")

    weight = nn.Parameter(torch.ones(8))
    weight.grad = torch.ones(8)
    bucket = Bucket((Slice(weight, 0, 8),), exact=True)
    state = {**kernel_module.new_state(bucket, keep_low_bits=False), "step": 1}
    group = {"betas": (0.9, 0.999), "lr": 0.1, "eps": 1e-8, "weight_decay": 0.1}
    working, kernel_module._update_kernel = kernel_module._update_kernel, Broken()
    assert not kernel_module.BucketKernel().update("0", bucket, state, group, 1)
    kernel_module._update_kernel, kernel_module.AGREEMENT = working, 0.0
    assert not kernel_module.BucketKernel().update("0", bucket, state, group, 1)
    assert "no C compiler" in messages[0] and "at all" not in messages[0] and "other numbers" in messages[1]
    assert torch.equal(weight, torch.ones(8)) and not state["first"].any()


if __name__ == "__main__":
    {"all": check_all_kinds, "training": check_training, "failure": check_failure}[sys.argv[1]]()
