"""Memory that is too small is told in the user's words."""

import contextlib

import pytest
import torch

from ldm.errors import UserError
from ldm.runtime.out_of_memory import explain_out_of_memory


def test_out_of_memory_is_explained_with_advice() -> None:
    with (
        pytest.raises(UserError, match="memory is too small for this: a smaller --hw needs less"),
        explain_out_of_memory("a smaller --hw needs less"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass_through() -> None:
    with contextlib.suppress(ZeroDivisionError), explain_out_of_memory("nothing helps"):
        _ = 1 / 0
        pytest.fail("the error was swallowed")
    with pytest.raises(ZeroDivisionError), explain_out_of_memory("nothing helps"):
        _ = 1 / 0
