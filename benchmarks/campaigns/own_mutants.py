"""Mutated files as long as tests/data/mutations.py and tests/checkpoint/mutations.py are not there."""

import io
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.data.images import read_image
from ldm.errors import UserError
from tests.checkpoint.files import ATTACKS, few_tensors

SLOWEST = 20
"""Seconds that a file may take."""
IMAGE_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "ICO", "PPM", "TGA")
OPCODES = b"(.012FIJKLMNRSTUVXabcdeghijlopqrstu}]\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94QP"

Read = Callable[[Path], object]


def image_seeds() -> list[bytes]:
    """Whole files of every format, size and mode."""
    found, noise = [], np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for kind in IMAGE_KINDS:
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "1"):
            picture = Image.fromarray(noise).convert("L" if mode == "I;16" else mode).convert(mode)
            exif = Image.Exif()
            exif[0x0112] = 6
            buffer = io.BytesIO()
            try:
                picture.save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
            except (OSError, KeyError, ValueError):
                continue  # not every format has every mode
            found.append(buffer.getvalue())
    return found


def checkpoint_seeds() -> list[bytes]:
    """Whole files of both formats; some of the torch files hold an attack."""
    info = CheckpointInfo(config={"model": {"unet": {"num_heads": 4}}}, class_name="can", step=200)
    found = [save(few_tensors(), info.to_metadata())]
    states: list[object] = [{"global_step": 3, "state_dict": few_tensors()}, few_tensors()]
    states += [{"state_dict": few_tensors(), "x": attack(Path("marker"))} for attack in ATTACKS.values()]
    for state in states:
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
            found.append(buffer.getvalue())
    return found


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut, doubled, put in or taken away; most of it near the beginning or the end."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        share = chance.choice((chance.random() ** 3, chance.random(), 1 - chance.random() ** 3))
        place = min(int(share * len(changed)), max(0, len(changed) - 1))
        what = chance.randrange(7)
        if what < 3 and changed:
            changed[place] = chance.randrange(256)
        elif what == 3:
            changed[place : place + chance.randrange(1, 9)] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f"))
        elif what == 4:
            changed[place:place] = bytes(chance.choice(OPCODES) for _ in range(chance.randrange(1, 9)))
        elif what == 5:
            del changed[place : place + chance.randrange(1, 64)]
        else:
            end = place + chance.randrange(1, 200)
            changed[place:place] = changed[place:end]
    return bytes(changed[: chance.randrange(len(changed) + 1)] if chance.random() < 0.15 else changed)


def read_any_checkpoint(path: Path) -> None:
    """All of it, and what it says of itself."""
    file = read_checkpoint(path)
    for tensor in file.tensors.values():
        tensor.clone()
    checkpoint_info(file)


SEEDS: dict[str, tuple[Callable[[], list[bytes]], Read]] = {
    "images": (image_seeds, read_image),
    "checkpoints": (checkpoint_seeds, read_any_checkpoint),
}


class TooSlowError(Exception):
    """A file took longer than one may."""


def read_own_mutants(kind: str, seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Reads so many; what came of them, and what should not have."""
    make, read = SEEDS[kind]
    seeds, counts = make(), Counter[str]()
    failures: list[str] = []

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    signal.signal(signal.SIGALRM, too_slow)
    for index in range(first, first + count):
        chance = random.Random(f"{seed}-{index}")
        path = Path(f"{index}{chance.choice(('.ckpt', '.safetensors') if kind == 'checkpoints' else ('.png', '.jpg'))}")
        path.write_bytes(mutated(chance.choice(seeds), chance))
        signal.alarm(SLOWEST)
        try:
            read(path)
            counts["read"] += 1
        except UserError as error:
            counts["refused"] += 1
            if path.name not in str(error):
                failures.append(f"{path}: the error does not name the file: {error}")
        except Exception as error:  # whatever else comes is what is looked for
            failures.append(f"{path}: {type(error).__name__}: {error} {traceback.format_tb(error.__traceback__)[-1]}")
        finally:
            signal.alarm(0)
        if Path("marker").exists():
            failures.append(f"{path}: its code was run")
            Path("marker").unlink()
        if not failures or not failures[-1].startswith(str(path)):
            path.unlink()
    return counts, failures
