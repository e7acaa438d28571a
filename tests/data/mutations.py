"""Images damaged in every way that a disk, a network or an enemy finds; any number of them, each by its number.

`python -m tests.data.mutations 20000` is the campaign: every one is read or refused by name, within bounds.
"""

import io
import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, features

from ldm.data.images import read_image
from ldm.errors import UserError
from tests.data.odd_images import GOOD, chunk, turned
from tests.data.profiles import DISPLAY_P3_D50, cmyk_profile, rgb_profile

SECONDS = 20.0
"""No image may take longer, on a busy machine."""

Mutation = Callable[[bytearray, random.Random], bytearray]


def _flips(content: bytearray, rng: random.Random) -> bytearray:
    """A few bits, most of them near the beginning."""
    for _ in range(rng.randint(1, 6)):
        at = int(rng.random() ** 2 * len(content))
        content[at] ^= 1 << rng.randrange(8)
    return content


def _bytes(content: bytearray, rng: random.Random) -> bytearray:
    """Numbers that programs trip over, anywhere."""
    value = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\1", b"\xff", b"\0"])
    at = rng.randrange(len(content))
    content[at : at + len(value)] = value
    return content


def _truncation(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def _removal(content: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(content))
    del content[at : at + rng.choice([1, 2, 4, 16, 200])]
    return content


def _repetition(content: bytearray, rng: random.Random) -> bytearray:
    at, length = rng.randrange(len(content)), rng.choice([1, 4, 30, 1000])
    return content[: at + length] + content[at:]


def _insertion(content: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice([1, 2, 8, 100])) + content[at:]


def _zeros(content: bytearray, rng: random.Random) -> bytearray:
    """A block that was never written."""
    at = rng.randrange(len(content))
    end = min(len(content), at + rng.choice([16, 64, 512]))
    content[at:end] = bytes(end - at)
    return content


def _swap(content: bytearray, rng: random.Random) -> bytearray:
    """Two pieces in each other's places."""
    size = rng.choice([2, 4, 32])
    if len(content) < 2 * size:
        return content
    one, other = (rng.randrange(len(content) - size) for _ in range(2))
    content[one : one + size], content[other : other + size] = (
        content[other : other + size],
        content[one : one + size],
    )
    return content


def _chunk(content: bytearray, rng: random.Random) -> bytearray:
    """A PNG's chunk with other content and a right checksum; in other formats a length field."""
    if not content.startswith(b"\x89PNG"):
        at = rng.randrange(max(1, len(content) - 4))
        struct.pack_into(rng.choice("<>") + "I", content, min(at, len(content) - 4), rng.choice([0, 1, 2**31, 10**5]))
        return content
    chunks = list(_chunks(bytes(content)))
    index = rng.randrange(len(chunks))
    name, data = chunks[index]
    edited = rng.choice(
        [
            b"",
            data[:-1],
            data + data,
            rng.randbytes(len(data)),
            bytes(len(data)),
            bytes(_flips(bytearray(data or b"x"), rng)),
        ]
    )
    bomb = (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))
    chunks[index : index + 1] = rng.choice([[(name, edited)], [], [(name, data)] * 2, [bomb, (name, data)]])
    return bytearray(content[:8] + b"".join(chunk(*one) for one in chunks))


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length


MUTATIONS: dict[str, Mutation] = {
    "flips": _flips,
    "bytes": _bytes,
    "truncation": _truncation,
    "removal": _removal,
    "repetition": _repetition,
    "insertion": _insertion,
    "zeros": _zeros,
    "swap": _swap,
    "chunk": _chunk,
}


def originals() -> dict[str, bytes]:
    """Whole images of all formats, small ones with an orientation and a colour profile where they can have them."""
    stored, exif = turned(6)
    more = {"exif": exif.tobytes(), "icc_profile": rgb_profile(DISPLAY_P3_D50)}
    found = {}
    kinds = ["JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "BMP", "GIF", "TGA", "PPM", "DDS", "PCX", "SGI"]
    for kind in [*kinds, *(["AVIF"] if features.check("avif") else [])]:
        found[kind] = _encoded(stored, kind, more if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {})
    found["progressive JPEG"] = _encoded(stored, "JPEG", {"progressive": True, **more})
    found["CMYK JPEG"] = _encoded(stored.convert("CMYK"), "JPEG", {"icc_profile": cmyk_profile()})
    found["LZW TIFF"] = _encoded(stored, "TIFF", {"compression": "tiff_lzw"})
    found["group 4 TIFF"] = _encoded(stored.convert("1"), "TIFF", {"compression": "group4"})
    found["16-bit PNG"] = _encoded(stored.convert("I;16"), "PNG", {})
    found["palette PNG"] = _encoded(stored.convert("P"), "PNG", {"transparency": 3})
    with tempfile.TemporaryDirectory() as directory:
        for name in ("several.mpo", "a.qoi", "float-unit.tif", "int32.tif", "animated.webp", "animated.gif"):
            GOOD[name](Path(directory) / name)
            found[name] = (Path(directory) / name).read_bytes()
        try:
            import pillow_heif
        except ImportError:
            return found
        pillow_heif.from_pillow(stored).save(Path(directory) / "a.heic", exif=exif.tobytes())
        return found | {"HEIC": (Path(directory) / "a.heic").read_bytes()}


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(number: int, whole: dict[str, bytes]) -> tuple[str, bytes]:
    """The image of a number and its name; all formats and mutations take turns."""
    kinds, ways = list(whole), list(MUTATIONS)
    kind, way = kinds[number % len(kinds)], ways[number // len(kinds) % len(ways)]
    rng = random.Random(number)
    return f"{number}: {kind}, {way}", bytes(MUTATIONS[way](bytearray(whole[kind]), rng))


@dataclass(frozen=True)
class Result:
    """What became of a mutated image: "read", "refused", or what it should not have been."""

    name: str
    outcome: str
    seconds: float


def read_mutated(numbers: range, directory: Path) -> Iterator[Result]:
    """Reads the images of these numbers, one after the other, each in its turn from a file in `directory`."""
    whole, path = originals(), directory / "mutated"
    for number in numbers:
        name, content = mutated(number, whole)
        path.write_bytes(content)
        began = time.perf_counter()
        try:
            image = read_image(path, cover=64)
            outcome = "read" if image.mode == "RGB" else f"of mode {image.mode}"
        except UserError as error:
            outcome = "refused" if str(path) in str(error) else f"not named: {error}"
        except Exception as error:
            outcome = repr(error)
        yield Result(name, outcome, time.perf_counter() - began)


def campaign(count: int, start: int = 0) -> int:
    """Reads so many; writes what was wrong, and how many were read and refused. The exit status."""
    began, counts, wrong, slowest = time.perf_counter(), Counter[str](), 0, Result("", "", 0.0)
    with tempfile.TemporaryDirectory() as directory:
        for result in read_mutated(range(start, start + count), Path(directory)):
            counts[result.outcome if result.outcome in ("read", "refused") else "wrong"] += 1
            slowest = max(slowest, result, key=lambda one: one.seconds)
            if result.outcome not in ("read", "refused") or result.seconds > SECONDS:
                wrong += 1
                sys.stdout.write(f"{result}\n")
    took = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"{count} images in {took:.0f} s: {dict(counts)}; slowest: {slowest}; {memory:.1f} GiB at most\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(campaign(*map(int, sys.argv[1:])))
