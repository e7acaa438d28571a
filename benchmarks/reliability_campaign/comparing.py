"""Compares two directories bit for bit, apart from their places and times."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.reliability_campaign.scenes import UNSETTLED

STATE_KEYS = ("global_step", "state_dict", "optimizer_states", "lr_schedulers")
"""Keys of a resume state whose counters depend on where it was interrupted."""
RECORD_KEYS = ("options", "config", "data", "files", "photos", "checkpoints")
"""Of run.yaml; its command, time and versions are the first call's."""

SAID_BY_CALLS = re.compile(rb'"(created|command)": ?"(?:[^"\\\\]|\\\\.)*"')
"""In tables and pages: when, and by which call. The last one of several differs from an uninterrupted one."""

CALLED_WITH = re.compile(rb'\\*"(resume_dir|commit)\\*": ?(null|\\*"[^"]*")(, ?)?')
"""In what checkpoints and tables say of their run: whether the call that made them continued it, and the checkout's
commit, which may change while the campaign runs."""

Digests = dict[str, str]


def digests(root: Path, renamed: dict[str, str] | None = None) -> Digests:
    """A digest of each file, by its path below `root`; `renamed`: directories and what they would have been called."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = _renamed(path.relative_to(root).as_posix(), renamed or {})
        if path.is_file() and not UNSETTLED.search(name):
            found[name] = digest(path, root, renamed or {})
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = "empty"
    return found


def differences(expected: Digests, found: Digests) -> list[str]:
    """Missing, additional and different files; empty if all are the same."""
    missing = [f"missing: {name}" for name in expected.keys() - found.keys()]
    left = [f"left over: {name}" for name in found.keys() - expected.keys()]
    other = [f"differs: {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(missing) + sorted(left) + sorted(other)


def digest(path: Path, root: Path, renamed: dict[str, str]) -> str:
    """Of a file's content, without paths below `root`."""

    def settle(content: bytes) -> bytes:
        for place in {str(root.resolve()), str(root)}:
            content = content.replace(place.encode(), b"ROOT")
        for old, new in renamed.items():
            content = content.replace(old.encode(), new.encode())
        return content

    parts: Iterator[bytes]
    if path.suffix == ".safetensors":
        parts = _safetensors(path)
    elif path.suffix == ".png":
        parts = _png(path)
    elif path.name == "resume.ckpt":
        parts = _state(path)
    elif path.name == "run.yaml":
        parts = _record(path)
    else:
        parts = iter([CALLED_WITH.sub(b"", SAID_BY_CALLS.sub(b"", path.read_bytes()))])
    total = hashlib.sha256()
    for part in parts:
        total.update(settle(part))
    return total.hexdigest()


def _safetensors(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    yield CALLED_WITH.sub(b"", json.dumps(json.loads(content[8:end]), sort_keys=True).encode())
    yield content[end:]


def _png(path: Path) -> Iterator[bytes]:
    with Image.open(path) as image:
        image.load()
        yield f"{image.mode} {image.size} {sorted(image.info.items())}".encode(errors="surrogateescape")
        yield image.tobytes()


def _state(path: Path) -> Iterator[bytes]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in STATE_KEYS:
        yield from _plain(key, state.get(key))


def _plain(name: str, value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key in value:
            yield from _plain(f"{name}.{key}", value[key])
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _plain(f"{name}.{index}", one)
    elif isinstance(value, torch.Tensor):
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        yield np.ascontiguousarray(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy()).tobytes()
    else:
        yield f"{name} {value!r}".encode()


def _record(path: Path) -> Iterator[bytes]:
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = {key: record.get(key) for key in RECORD_KEYS}
    yield CALLED_WITH.sub(b"", json.dumps(kept, sort_keys=True, default=str).encode())


def _renamed(name: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        name = re.sub(rf"(^|/){re.escape(old)}(?=/|$)", rf"\g<1>{new}", name)
    return name
