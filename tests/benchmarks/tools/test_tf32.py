"""What a GPU may round is as it was afterwards."""

import pytest
import torch

from benchmarks.tools.tf32 import tf32


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_allowed_for_a_while() -> None:
    before = allowed()
    with tf32(products=False, convolutions=False):
        assert allowed() == (False, False)
        with tf32(products=False):
            assert allowed() == (False, True), "PyTorch's default"
        with pytest.raises(ValueError), tf32(products=True):
            assert allowed() == (True, True)
            raise ValueError
        assert allowed() == (False, False)
    assert allowed() == before
