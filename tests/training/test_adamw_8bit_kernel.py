"""8-bit AdamW's kernel: interpreted and compared with the plain version, compiled for a GPU, and run on one."""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm.files import ROOT
from ldm.training import adamw_8bit
from ldm.training.adamw_8bit_buckets import Bucket, Slice

KINDS = ((torch.float32, False), (torch.bfloat16, True), (torch.bfloat16, False))
"""Types of weights, and whether there are 8 more bits."""
AMPERE = 80
"""The oldest compute capability for which Triton compiles."""


def examples(device: torch.device) -> Iterator[tuple[Bucket, bool]]:
    """A bucket of each kind: type of the weights, moments in float32 or not, one slice or several."""
    for (dtype, low), exact, several in itertools.product(KINDS, (False, True), (False, True)):
        slices = (Slice(nn.Parameter(torch.zeros(3, dtype=dtype, device=device)), 0, 3),) * (1 + several)
        yield Bucket(slices, exact), low


def interpret(check: str) -> None:
    """Runs a check of `interpreted_kernel.py`."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.interpreted_kernel", check]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_each_kind_of_bucket_gets_the_plain_versions_numbers() -> None:
    interpret("all")


@pytest.mark.slow
def test_a_failing_or_wrong_kernel_is_replaced_by_the_plain_version() -> None:
    interpret("failure")


@pytest.mark.slow
def test_a_training_by_kernels_is_close_to_one_by_torch_and_resumes_bit_for_bit() -> None:
    interpret("training")


def test_without_triton_the_log_says_that_updates_are_slower(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "ldm.training.adamw_8bit_kernel", None)
    with caplog.at_level(logging.WARNING, "ldm"):
        assert adamw_8bit.bucket_kernel(torch.device("cuda", 0)) is None
    assert "Triton is not installed" in caplog.text


@pytest.mark.slow
def test_each_kind_of_bucket_compiles_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton brings the assembler; the interpreter accepts what the compiler refuses."""
    triton = pytest.importorskip("triton")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from ldm.training import adamw_8bit_kernel as kernel

    constants = {"BLOCK_SIZE": 256, "TILE": kernel.ROWS, "STEPS": 127, "ROOT_STEPS": 255}
    for bucket, low in examples(torch.device("cpu")):
        half, several = bucket.dtype == torch.bfloat16, len(bucket.slices) > 1
        weight = "*i16" if half else "*fp32"
        first, root = ("*fp32", "*fp32") if bucket.exact else ("*i8", "*u8")
        types = dict.fromkeys(["weights", "gradients"], "*i64" if several else weight)
        types |= dict.fromkeys(["starts", "firsts"], "*i32" if several else weight)
        types |= {"first": first, "root": root, "first_scales": "*fp32", "root_scales": "*fp32"}
        types |= {"low": "*i8" if low else first, "length": "i32", "blocks": "i32", "seed": "i64"}
        flags = {"ADDRESSES": several, "EXACT": bucket.exact, "HALF": half, "LOW": low}
        names = kernel._update_kernel.arg_names
        signature = {name: "constexpr" if name.isupper() else types.get(name, "fp32") for name in names}
        source = triton.compiler.ASTSource(kernel._update_kernel, signature, flags | constants)
        assert triton.compile(source, target=backends.GPUTarget("cuda", AMPERE, 32)).asm["cubin"]


@pytest.mark.gpu
def test_on_a_gpu_each_kind_of_bucket_gets_the_plain_versions_numbers() -> None:
    pytest.importorskip("triton")
    from ldm.training.adamw_8bit_kernel import AGREEMENT, distance_from_reference

    for bucket, low in examples(torch.device("cuda")):
        assert distance_from_reference(bucket, low) < AGREEMENT
