"""Files that a stranger could have made: each maker writes one to a directory and returns its path.

`REFUSED` are refused by `read_checkpoint`, `UNFIT` by what comes after it (metadata, config, comparison with the
model); all within a second, by a `UserError` that names the file, and without running code in them. `FOREIGN` are
files of other kinds with a word of the message. Tests and campaigns share them.
"""

import io
import json
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save, save_file

from tests.checkpoint.files import ATTACKS, few_tensors
from tests.tiny import TINY_YAML, write_tiny_checkpoint

Maker = Callable[[Path], Path]

MARKER = "code-was-run"
"""A file that an attack creates beside its own if its code runs."""


def text(value: str) -> bytes:
    """A pickle's code for a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """A pickle's code for a whole number of any size."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(content)) + content


def numbers(*values: int) -> bytes:
    """A pickle's code for a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    size: bytes,
    stride: bytes,
    *,
    offset: int = 0,
    count: int = 4,
    kind: str = "torch\nFloatStorage",
    key: bytes = text("0"),
    rebuild: str = "_rebuild_tensor_v2",
) -> bytes:
    """A pickle's code for a tensor over the record `key`."""
    storage = b"(" + text("storage") + f"c{kind}\n".encode() + key + text("cpu") + number(count) + b"tQ"
    return f"ctorch._utils\n{rebuild}\n".encode() + b"(" + storage + number(offset) + size + stride + b"\x89}tR"


def state_dict(value: bytes, key: bytes = text("model.diffusion_model.x")) -> bytes:
    """A whole pickle: a state dict of one entry."""
    return b"\x80\x02}" + text("state_dict") + b"}" + key + value + b"ss."


def torch_file(pickle: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Maker:
    """A torch file with this pickle, a record `0` of four float32, and further records."""

    def write(directory: Path) -> Path:
        path = directory / "hostile.ckpt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickle)
            for name, content in {"data/0": bytes(16), "version": b"3\n", **records}.items():
                archive.writestr(f"archive/{name}", content)
        return path

    return write


def bomb(depth: int = 60) -> bytes:
    """A tuple of two tuples of two tuples ...: small in memory, but 2^60 values to hash, compare or print."""
    return b"K\x01q\x00" + b"".join(b"0h\x00h\x00\x86q\x00" for _ in range(depth))


ONE = numbers(4), numbers(1)

PICKLES: dict[str, Maker] = {
    "compressed": torch_file(b"\x80\x02" + b"N0" * 20_000_000 + b".", zipfile.ZIP_DEFLATED),
    "compressed records": torch_file(state_dict(tensor(*ONE)), zipfile.ZIP_DEFLATED),
    "a large pickle": torch_file(b"\x80\x02" + b"N0" * 10_000_000 + b"."),
    "many steps": torch_file(b"\x80\x02" + b"N0" * 5_000_000 + b"."),
    "many strings": torch_file(b"\x80\x02(" + text("x" * 1000) * 10_000 + b"l."),
    "many marks": torch_file(b"\x80\x02" + b"(" * 5_000_000 + b"."),
    "deeply nested": torch_file(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "nested dictionaries": torch_file(b"\x80\x02" + (b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000 + b"."),
    "a list of itself": torch_file(b"\x80\x02]q\x00h\x00a."),
    "a state dict of itself": torch_file(b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."),
    "a bomb as a key": torch_file(b"\x80\x02" + bomb() + b"0}h\x00Ns."),
    "a bomb as a name": torch_file(b"\x80\x04" + bomb() + b"h\x00\x93."),
    "a bomb as a function": torch_file(b"\x80\x02" + bomb() + b")R."),
    "a bomb as a class": torch_file(b"\x80\x02" + bomb() + b")\x81."),
    "a bomb as a shape": torch_file(b"\x80\x02" + bomb() + b"0" + state_dict(tensor(b"h\x00", numbers(1)))[2:]),
    "a bomb as a record": torch_file(b"\x80\x02" + bomb() + b"0" + state_dict(tensor(*ONE, key=b"h\x00"))[2:]),
    "a bomb as a tensor": torch_file(b"\x80\x02" + bomb() + b"0ctorch\nTensor\nh\x00\x85R."),
    "long names again and again": torch_file(
        b"\x80\x04" + text("x" * 4_000_000) + b"q\x00" + b"0h\x00h\x00\x93" * 1000 + b"."
    ),
    "long numbers as keys": torch_file(b"\x80\x02" + number(1 << 8_000_000) + b"q\x000}" + b"h\x00Ns" * 10_000 + b"."),
    "a list copied again and again": torch_file(
        b"\x80\x02(" + b"(NNt" * 5_000 + b"lq\x000" + b"ccollections\nOrderedDict\nh\x00\x85R0" * 10_000 + b"N."
    ),
    "a memo of high numbers": torch_file(b"\x80\x02" + b"Nr\xff\xff\xff\x7f" * 1000 + b"."),
    "a number of many digits": torch_file(b"I" + b"9" * 1_000_000 + b"\n."),
    "a frame that goes on": torch_file(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."),
    "a text that goes on": torch_file(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fN."),
    "no tensors": torch_file(state_dict(b"N")),
    "a tensor of 10^15 elements": torch_file(state_dict(tensor(numbers(10**15), numbers(0)))),
    "a tensor of 10^30 elements": torch_file(state_dict(tensor(numbers(10**10, 10**10, 10**10), numbers(0, 0, 0)))),
    "numbers beyond 64 bits": torch_file(state_dict(tensor(numbers(1), numbers(10**30)))),
    "a tensor beyond its record": torch_file(state_dict(tensor(numbers(5), numbers(1)))),
    "a stride beyond its record": torch_file(state_dict(tensor(numbers(2), numbers(10**9)))),
    "an offset beyond its record": torch_file(state_dict(tensor(*ONE, offset=1))),
    "a negative offset": torch_file(state_dict(tensor(*ONE, offset=-1))),
    "a negative size": torch_file(state_dict(tensor(numbers(-4), numbers(1)))),
    "a negative stride": torch_file(state_dict(tensor(numbers(4), numbers(-1)))),
    "a shape of texts": torch_file(state_dict(tensor(b"(" + text("4") + b"t", numbers(1)))),
    "no shape": torch_file(state_dict(tensor(b"N", b"N"))),
    "more strides than sizes": torch_file(state_dict(tensor(numbers(4), numbers(1, 1)))),
    "100,000 dimensions": torch_file(
        state_dict(tensor(b"(" + b"K\x01" * 100_000 + b"t", b"(" + b"K\x01" * 100_000 + b"t"))
    ),
    "a record of more elements": torch_file(state_dict(tensor(*ONE, count=10**15))),
    "a record of fewer elements": torch_file(state_dict(tensor(*ONE, count=-4))),
    "a record that is not there": torch_file(state_dict(tensor(*ONE, key=text("1")))),
    "a record out of the file": torch_file(state_dict(tensor(*ONE, key=text("../../0")))),
    "a storage of no kind": torch_file(state_dict(tensor(*ONE, kind="torch\nSize"))),
    "a quantized tensor": torch_file(state_dict(tensor(*ONE, rebuild="_rebuild_qtensor"))),
    "a sparse tensor": torch_file(state_dict(b"ctorch._utils\n_rebuild_sparse_tensor\n)R")),
    "a tensor without numbers": torch_file(
        state_dict(b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(" + b"NNN\x89tR")
    ),
    "10,001 tensors": torch_file(
        b"\x80\x02" + tensor(*ONE) + b"q\x000}(" + b"".join(text(f"k{i}") + b"h\x00" for i in range(10_001)) + b"u."
    ),
    "another order of bytes": torch_file(state_dict(tensor(*ONE)), byteorder=b"big"),
    "a long order of bytes": torch_file(state_dict(tensor(*ONE)), byteorder=b"big" * 1_000_000),
    "TorchScript": torch_file(state_dict(tensor(*ONE)), **{"constants.pkl": b"N."}),
    "two pickles": torch_file(state_dict(tensor(*ONE)), **{"x/data.pkl": b"N."}),
}


def attributes_that_shadow(directory: Path) -> Path:
    """A state dict that is an OrderedDict with an attribute `items` that is not a method: readable."""
    ordered = b"ccollections\nOrderedDict\n)R" + text("model.diffusion_model.x") + tensor(*ONE) + b"s"
    state = b"}(" + text("items") + b"N" + text("get") + b"K\x07" + text("keys") + text("x") + b"ub"
    return torch_file(b"\x80\x02}" + text("state_dict") + ordered + state + b"s.")(directory)


def whole_model(directory: Path) -> Path:
    """What `torch.save(model, ...)` writes."""
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), directory / "hostile.ckpt")
    return directory / "hostile.ckpt"


def attack(name: str) -> Maker:
    def write(directory: Path) -> Path:
        call = ATTACKS[name](directory / MARKER)
        torch.save({"state_dict": few_tensors(), "x": call}, directory / "hostile.ckpt")
        return directory / "hostile.ckpt"

    return write


def changed(change: Callable[[bytes], bytes]) -> Maker:
    """A good torch file whose bytes are changed."""

    def write(directory: Path) -> Path:
        buffer = io.BytesIO()
        torch.save({"state_dict": few_tensors()}, buffer)
        (directory / "hostile.ckpt").write_bytes(change(buffer.getvalue()))
        return directory / "hostile.ckpt"

    return write


def index_field(offset: int, value: bytes) -> Maker:
    """Overwrites a field of the first entry in a zip file's list of records."""

    def change(content: bytes) -> bytes:
        at = content.index(b"PK\x01\x02") + offset
        return content[:at] + value + content[at + len(value) :]

    return changed(change)


def end_field(offset: int, value: bytes) -> Maker:
    """Overwrites a field of a zip file's last (64-bit) entry, which locates the list of records."""

    def change(content: bytes) -> bytes:
        at = content.rindex(b"PK\x06\x06") + offset
        return content[:at] + value + content[at + len(value) :]

    return changed(change)


def many_records(directory: Path) -> Path:
    """A zip file of very many empty records."""
    path = directory / "hostile.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", state_dict(tensor(*ONE)))
        archive.writestr("archive/data/0", bytes(16))
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    entries = content[start:end] + b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0) + b"%06d" % i
        for i in range(300_000)
    )
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFE, 0xFFFE, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + last)
    return path


def twice(directory: Path) -> Path:
    """Two records of one name: which one is read depends on the reader."""
    path = torch_file(state_dict(tensor(*ONE)))(directory)
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist.append(archive.getinfo("archive/data/0"))
        archive._didModify = True  # type: ignore[attr-defined]
    return path


ZIPS: dict[str, Maker] = {
    "many records": many_records,
    "a record twice": twice,
    "encrypted": index_field(8, b"\x01\0"),
    "sizes of 4 GB": index_field(20, b"\xf0\xff\xff\xff\xf0\xff\xff\xff"),
    "sizes in an absent field": index_field(20, b"\xff" * 8),
    "a record beyond the end": index_field(42, b"\xf0\xff\xff\x7f"),
    "a list beyond the end": end_field(48, b"\xf0\xff\xff\x7f"),
    "a list of 4 GB": end_field(40, b"\xf0\xff\xff\xff"),
    "a list that is elsewhere": end_field(24, b"\xff" * 32),
}


def safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> Maker:
    """A safetensors file with this header; `size` is the header's size according to the file."""

    def write(directory: Path) -> Path:
        path = directory / "hostile.safetensors"
        path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header + data)
        return path

    return write


def entry(size: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """A tensor's entry in a header."""
    return {"dtype": dtype, "shape": size, "data_offsets": [start, end]}


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


SAFETENSORS: dict[str, Maker] = {
    "200,000 tensors": safetensors(
        header(**{f"model.diffusion_model.{i:06d}": entry([0], 0, 0) for i in range(200_000)})
    ),
    "15,000 tensors": safetensors(header(**{f"model.diffusion_model.{i}": entry([0], 0, 0) for i in range(15_000)})),
    "a header of 100 MB": safetensors(b'{"__metadata__": {"a": "' + b"x" * 10**8 + b'"}}'),
    "a header of spaces": safetensors(b"{" + b" " * 17_000_000 + b"}"),
    "a header beyond the end": safetensors(b"{}", size=2**62),
    "a header of no size": safetensors(b"{}", size=0),
    "a deep header": safetensors(b'{"a": ' * 100_000),
    "overlapping tensors": safetensors(header(a=entry([2], 0, 8), b=entry([2], 4, 12)), bytes(12)),
    "tensors with a hole": safetensors(header(a=entry([1], 0, 4), b=entry([1], 8, 12)), bytes(12)),
    "a tensor beyond the end": safetensors(header(a=entry([1000], 0, 4000)), bytes(12)),
    "offsets that fall": safetensors(header(a=entry([1], 4, 0)), bytes(4)),
    "a shape beyond 64 bits": safetensors(header(a=entry([2**63, 2**63], 0, 4)), bytes(4)),
    "a shape of other size": safetensors(header(a=entry([7], 0, 4)), bytes(4)),
    "a negative shape": safetensors(header(a=entry([-1], 0, 4)), bytes(4)),
    "an unknown type": safetensors(header(a=entry([1], 0, 4, "X99")), bytes(4)),
    "no tensors": safetensors(b"{}"),
}

REFUSED: dict[str, Maker] = {
    **PICKLES,
    **{f"zip: {name}": maker for name, maker in ZIPS.items()},
    **{f"safetensors: {name}": maker for name, maker in SAFETENSORS.items()},
    **{f"attack: {name}": attack(name) for name in ATTACKS},
    "a whole model": whole_model,
}


def named(name: str, content: bytes) -> Maker:
    def write(directory: Path) -> Path:
        (directory / name).write_bytes(content)
        return directory / name

    return write


FOREIGN: dict[str, tuple[Maker, str]] = {
    "empty": (named("a.ckpt", b""), "empty (0 bytes)"),
    "zero bytes": (named("a.safetensors", bytes(10_000)), "zero bytes"),
    "a web page": (named("a.ckpt", b"<!DOCTYPE html><html>"), "web page"),
    "a web page after a mark": (named("a.ckpt", b"\xef\xbb\xbf\r\n <html>"), "web page"),
    "a web page after spaces": (named("a.ckpt", b"\n" * 30 + b"<html lang='en'>"), "web page"),
    "a web page in UTF-16": (named("a.ckpt", "<html><body>".encode("utf-16")), "web page"),
    "JSON": (named("a.safetensors", b'{"error": "Entry not found"}'), "JSON text"),
    "JSON with a brace in the ninth place": (named("a.safetensors", b'{"err": {"code": 404}}'), "JSON text"),
    "XML": (named("a.ckpt", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "XML text"),
    "text": (named("a.ckpt", b"Access to model x is restricted"), "Access to model x is restricted"),
    "text in another script": (named("a.ckpt", "доступ запрещён".encode()), "доступ запрещён"),
    "a Git LFS pointer": (named("a.ckpt", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "GGUF": (named("a.safetensors", b"GGUF\x03\0\0\0" + bytes(100)), "GGUF"),
    "ONNX": (named("a.pt", b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(100)), "ONNX"),
    "Keras": (named("a.ckpt", b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "gzip": (named("a.ckpt", b"\x1f\x8b\x08" + bytes(100)), "gzip"),
    "a tar file": (named("a.pth", b"sys_info".ljust(257, b"\0") + b"ustar" + bytes(300)), "tar file"),
    "an image": (named("a.ckpt", b"\x89PNG\r\n\x1a\n"), "PNG"),
}


def pipe(directory: Path) -> Path:
    os.mkfifo(directory / "a.ckpt")
    return directory / "a.ckpt"


def unix_socket(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(directory)  # the path of a socket is short
        server.bind("a.ckpt")
        os.chdir(before)
    return directory / "a.ckpt"


def link(target: str) -> Maker:
    def write(directory: Path) -> Path:
        (directory / "a.ckpt").symlink_to(target)
        return directory / "a.ckpt"

    return write


SPECIAL: dict[str, tuple[Maker, str]] = {
    "a pipe": (pipe, "a named pipe"),
    "a socket": (unix_socket, "a socket"),
    "a device": (link("/dev/zero"), "a device"),
    "a terminal": (link("/dev/tty"), "a device"),
    "a directory": (lambda directory: directory, "a folder"),
    "a link to nothing": (link("nowhere"), "a link to nowhere"),
    "a link to itself": (link("a.ckpt"), "symbolic links"),
}
"""Paths that are not regular files, with a word of the message."""


def metadata(**values: str) -> Maker:
    """A whole tiny model with these metadata in place of its own."""

    def write(directory: Path) -> Path:
        path = write_tiny_checkpoint(directory)
        tensors = load(path.read_bytes())
        kept = {"format": "pt", "ldm.config": json.dumps(TINY_YAML)}
        path.write_bytes(save(tensors, {**kept, **{f"ldm.{name}": value for name, value in values.items()}}))
        return path

    return write


UNFIT: dict[str, Maker] = {
    "config of another type": metadata(config="[1]"),
    "a deep config": metadata(config='{"a":' * 100_000),
    "a number of 5,000 digits": metadata(step="1" * 5000),
    "a number of 4,000 digits for a float": metadata(
        config=json.dumps({**TINY_YAML, "sampling": {"eta": 7}}).replace("7", "1" * 4000)
    ),
    "a negative step": metadata(step="-3"),
    "parts of numbers": metadata(parts='{"unet": 3}'),
    "parts of lists": metadata(parts='{"unet": ["a"]}'),
    "parts as a list": metadata(parts='["unet"]'),
    "an unknown key of 1 MB": metadata(config=json.dumps({**TINY_YAML, "x" * 1_000_000: 1})),
}


def good_safetensors(directory: Path) -> Path:
    """A good file."""
    save_file(few_tensors(), directory / "good.safetensors", {"ldm.class_name": '"can"', "ldm.step": "200"})
    return directory / "good.safetensors"
