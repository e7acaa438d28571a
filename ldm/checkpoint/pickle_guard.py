"""Which of the names that a pickle asks for are harmless.

Nothing that a checkpoint names is called here (`ldm.checkpoint.unpickling`). A file that names more than tensors need
is refused all the same, with the names: whoever opens it with another program is warned.
"""

from ldm.checkpoint.unpickling import read_pickle

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
"""Harmless names that training frameworks leave behind."""

DTYPES = frozenset(
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ]
)
"""Types of numbers, as torch names them."""

STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
"""The beginnings of torch's names for storages, and the type of the numbers in them."""

UNTYPED_STORAGE = "torch.storage.UntypedStorage"
"""A storage of bytes; the tensor names their type."""

STORAGE_TYPES = {f"torch.{kind}Storage": dtype for kind, dtype in STORAGES.items()} | {UNTYPED_STORAGE: "uint8"}

TENSORS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.Tensor",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    *STORAGE_TYPES,
    *(f"torch.{dtype}" for dtype in DTYPES),
}
"""Names of which tensors and plain containers are made."""


def refused_names(pickle: bytes) -> list[str]:
    """The names that a pickle asks for and that are neither tensors nor known to be inert, sorted.

    Raises `ValueError` if the bytes are no pickle.
    """
    return refused_among(read_pickle(pickle).names)


def refused_among(names: frozenset[str]) -> list[str]:
    """Those of the names that are neither tensors nor known to be inert, sorted."""
    return sorted(names - TENSORS - set(KNOWN_INERT))
