"""Where a GPU may round the factors of a float32 product to 10 bits, which NVIDIA calls TF32."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(products: bool, convolutions: bool = True) -> Iterator[None]:
    """In matrix products and in convolutions; afterwards as before. PyTorch's own default is convolutions alone.

    This project samples and trains without either; the reference needs them to be as its users run it.
    """
    before = _get()
    _set(products, convolutions)
    try:
        yield
    finally:
        _set(*before)


def _get() -> tuple[bool, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch have another way, older ones don't
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def _set(products: bool, convolutions: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions
