"""The content of a torch pickle, read without running it, and which of the names in a pickle are harmless.

A pickle is a program for a stack machine that may call any function. This machine knows what checkpoints consist of and
calls nothing: a function stays a name, a tensor a description of where its numbers are. Its work is bounded, whatever
the program: each step takes time proportional to the values it moves, and only short values are hashed, copied or
printed. A file that names more than tensors need is refused nevertheless, with the names: other programs would call
them.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 250_000
"""The official file with its averaged weights takes 60,000, one with Adam's moments 130,000."""
LONGEST_NAME = 300

KNOWN_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "builtins.set",
    "__builtin__.set",
)
"""Harmless names that training frameworks leave behind."""

DTYPES = [
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

TENSOR_NAMES = {
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
    "torch.nn.modules.container.ParameterDict",
    *STORAGE_TYPES,
    *(f"torch.{dtype}" for dtype in DTYPES),
}
"""Names that pickles of tensors and plain containers use."""


@dataclass(frozen=True)
class Name:
    """A function or class in a pickle, `module.name`."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A record of the file: the name of its type, its key, and how many elements it holds."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: some elements of a storage. Nothing in it has been checked; `dtype` may be empty: the storage's."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any
    dtype: str = ""


class Opaque:
    """Any value that tensors don't need."""


class Parameters(dict[Any, Any]):
    """torch's dictionary of parameters: it gets its entries with its attributes."""


@dataclass(frozen=True)
class Pickled:
    """What a pickle holds, and all names in it."""

    content: Any
    names: frozenset[str]


def refused_names(pickle: bytes) -> list[str]:
    """The names in a pickle, sorted, that are neither `TENSOR_NAMES` nor `KNOWN_INERT`.

    Raises `ValueError` if the bytes are no pickle.
    """
    return refused_among(read_pickle(pickle).names)


def refused_among(names: frozenset[str]) -> list[str]:
    """Those of the names, sorted, that are neither `TENSOR_NAMES` nor `KNOWN_INERT`."""
    return sorted(names - TENSOR_NAMES - set(KNOWN_INERT))


def read_pickle(pickle: bytes) -> Pickled:
    """What a pickle holds. Raises `ValueError` if the bytes are not a pickle, or one of too many steps."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            machine.spend(1)
            _STEPS[opcode.name](machine, argument)
        return Pickled(machine.pop(), frozenset(machine.names))
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"not a pickle of plain values and tensors: {type(error).__name__} at {error}"[:200]
        ) from error


class _Machine:
    """The stack, the values below each mark, the memo, and all names in the pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()
        self.left = MOST_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"a pickle of more than {MOST_STEPS} steps")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def drop(self) -> None:
        """Drops the topmost value or mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def take(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LONGEST_NAME:
            raise ValueError("an impossible name")
        self.names.add(text := f"{module}.{name}")
        self.push(Name(text))

    def named(self, words: str) -> None:
        if len(words) > LONGEST_NAME:
            raise ValueError("an impossible name")
        self.name(*words.split(" ", 1))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is not a list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, dict):
            target.update(_entries(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is not a dictionary")

    def call(self, function: Any, arguments: Any) -> None:
        """The result of a call that tensors need, else `Opaque`; nothing is called."""
        build = _BUILDERS.get(function.text) if isinstance(function, Name) else None
        self.push(build(self, *arguments) if build and isinstance(arguments, tuple) else Opaque())

    def new(self, arguments: int = 1) -> None:
        """An object of a class: a dictionary of one of two kinds, else `Opaque`."""
        cls, *_ = self.take(1 + arguments)
        self.push(Parameters() if cls == PARAMETER_DICT else {} if cls == ORDERED_DICT else Opaque())

    def build(self) -> None:
        """Attributes: only those of a dictionary of parameters are of use."""
        attributes = self.pop()
        target = self.stack[-1]
        if isinstance(target, Parameters) and isinstance(attributes, dict):
            found = attributes.get("_parameters")
            target.update(found if isinstance(found, dict) else {})

    def instance(self) -> None:
        self.pop_to_mark()
        self.push(Opaque())

    def named_instance(self, words: str) -> None:
        self.named(words)
        self.drop()
        self.instance()

    def dictionary(self) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def storage(self) -> None:
        """A record of the file: ("storage", type, key, device, count)."""
        match self.pop():
            case ("storage", Name(text=kind), str(key), _, int(count)) if len(key) <= LONGEST_NAME:
                self.push(Storage(kind, key, count))
            case _:
                raise ValueError("a reference to something other than a tensor's numbers")


ORDERED_DICT = Name("collections.OrderedDict")
PARAMETER_DICT = Name("torch.nn.modules.container.ParameterDict")


def _is_key(value: Any) -> bool:
    """Whether hashing the value is fast: a tuple of tuples, each twice in the next, would take for ever."""
    return (
        value is None
        or isinstance(value, str | bytes | float | Name)
        or (isinstance(value, int) and value.bit_length() <= 64)
    )


def _entries(pairs: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs if _is_key(key)}


def _ordered_dict(machine: _Machine, items: Any = ()) -> Any:
    if not isinstance(items, list | tuple):
        return Opaque()
    machine.spend(len(items))
    return _entries((item[0], item[1]) for item in items)


def _view(machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """`torch._utils._rebuild_tensor` and its successors; the third has the type behind the gradient and the hooks."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without numbers")
    dtype = rest[2].text if len(rest) > 2 and isinstance(rest[2], Name) else ""
    return View(storage, offset, size, stride, dtype)


def _first(machine: _Machine, value: Any = (), *rest: Any) -> Any:
    return value


_BUILDERS: dict[str, Callable[..., Any]] = {
    ORDERED_DICT.text: _ordered_dict,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _view,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": _first,
}

Step = Callable[[_Machine, Any], object]

_VALUES = [
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
]
"""Steps that push a value written out in the pickle."""

_STEPS: dict[str, Step] = {
    **dict.fromkeys(_VALUES, lambda m, value: m.push(value)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "BYTEARRAY8": lambda m, _: m.push(Opaque()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(Opaque()),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "DICT": lambda m, _: m.dictionary(),
    "FROZENSET": lambda m, _: m.instance(),
    "APPEND": lambda m, _: m.append(m.take(1)),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.pop_to_mark(),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, index: m.memo.update({index: m.stack[-1]})),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "GLOBAL": lambda m, words: m.named(words),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "INST": lambda m, words: m.named_instance(words),
    "OBJ": lambda m, _: m.instance(),
    "NEWOBJ": lambda m, _: m.new(),
    "NEWOBJ_EX": lambda m, _: m.new(arguments=2),
    "REDUCE": lambda m, _: m.call(*m.take(2)),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.storage(),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
}
"""The effect of each step. References of other kinds, such as copyreg's extensions, are an error."""
