"""What a pickle asks for, read without running it.

A `.ckpt` file is a pickle, which may name any function for the reader to call. torch's weights-only reader runs none of
them; this module finds all the names beforehand, so that a refused file can be explained, and supplies inert stand-ins
for the few harmless classes that training frameworks leave behind.
"""

import pickletools
from typing import Any


class Inert:
    """Stands in for an object of a training framework: takes anything, keeps nothing, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


KNOWN_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
"""Harmless names that `Inert` stands in for: the real ones are never imported."""

TENSORS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Tensor",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    *(f"torch.{kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16")),
    *(f"torch.{kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
    *(f"torch.{dtype}" for dtype in ("float64", "float32", "float16", "bfloat16")),
    *(f"torch.{dtype}" for dtype in ("int64", "int32", "int16", "int8", "uint8", "bool")),
}
"""Names of which tensors and plain containers are made."""


def refused_names(pickle: bytes) -> list[str]:
    """The names that a pickle asks for and that are neither tensors nor known to be inert, sorted.

    Raises `ValueError` if the bytes are no pickle.
    """
    return sorted(_names(pickle) - TENSORS - set(KNOWN_INERT))


def _names(pickle: bytes) -> set[str]:
    """Every `module.name` in a pickle. Protocol 4 pushes both as strings, possibly out of the memo."""
    found: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "GLOBAL" | "INST":
                found.add(str(argument).replace(" ", "."))
            case "STACK_GLOBAL":
                found.add(".".join(strings[-2:]))
            case "MEMOIZE":
                memo[len(memo)] = last
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[int(argument or 0)] = last
            case "GET" | "BINGET" | "LONG_BINGET":
                strings.append(memo.get(int(argument or 0), "?"))
        last = argument if isinstance(argument, str) else "?" if opcode.name != "MEMOIZE" else last
        if "UNICODE" in opcode.name:
            strings.append(last)
    return found
