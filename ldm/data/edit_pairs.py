"""Folders of pairs to train edits on: an image, instructions, and the image that follows from them.

Two layouts: a `metadata.jsonl` in any folder, with the columns of diffusers' trainer of InstructPix2Pix, or the layout
of the paper's data set (arXiv 2211.09800).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.data.captioned import METADATA, MOST_LIST_BYTES, MOST_TEXT_BYTES
from ldm.errors import UserError
from ldm.files import natural_key
from ldm.prompts import prompt_fault
from ldm.user_files import read_text

SEEDS, PROMPT = "seeds.json", "prompt.json"
ROW = '{"input_image": "1.png", "edit_prompt": "make it red", "edited_image": "2.png"}'


@dataclass(frozen=True)
class EditPair:
    """An image before and after an edit, and the instructions, of which each batch takes a random one."""

    before: Path
    after: Path
    instructions: tuple[str, ...]


def find_pairs(directory: Path) -> list[EditPair]:
    """All pairs below a directory.

    A `metadata.jsonl` has a line for each pair of its folder: `{"input_image": "1.png", "edit_prompt": "make it red",
    "edited_image": "2.png"}`, where `edit_prompt` may be a list. The paper's layout is a `seeds.json` with
    `[[folder, [seed, ...]], ...]`; in each folder are `prompt.json` with the instruction under "edit", and
    `<seed>_0.jpg` and `<seed>_1.jpg` before and after it. Raises `UserError` if there is no pair, an image is missing,
    or a list is malformed.
    """
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")
    if (seeds := directory / SEEDS).is_file():
        pairs = list(_of_paper(directory, seeds))
    else:
        lists = sorted((path for path in directory.rglob(METADATA) if not _is_hidden(path, directory)), key=natural_key)
        pairs = [pair for path in lists for pair in _of_list(path)]
    if not pairs:
        raise UserError(
            f"{directory} holds no pairs of images with instructions; it needs a {METADATA} with lines like {ROW}, or "
            f"the {SEEDS} of InstructPix2Pix's data set"
        )
    images = dict.fromkeys(path for pair in pairs for path in (pair.before, pair.after))
    if missing := [path for path in images if not path.is_file()]:
        raise UserError(f"{len(missing)} images of the pairs in {directory} are not there, such as {missing[0]}")
    return pairs


def digest(pairs: Sequence[EditPair], directory: Path) -> str:
    """SHA-256 of the images' names below `directory`, sizes and instructions: the same after the directory moved."""
    rows = [
        [
            *((os.path.relpath(path, directory), path.stat().st_size) for path in (one.before, one.after)),
            one.instructions,
        ]
        for one in pairs
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _of_list(path: Path) -> Iterator[EditPair]:
    for number, line in enumerate(read_text(path, MOST_LIST_BYTES).split("\n"), 1):
        if not line.strip():
            continue
        source = f"{path}, line {number}"
        try:
            row = json.loads(line)
            names = [str(row[name]) for name in ("input_image", "edited_image")]
            instructions = _instructions(row["edit_prompt"], source)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{source} should be {ROW}, not {line[:60]!r}") from error
        before, after = (Path(os.path.normpath(path.parent / name)) for name in names)
        yield EditPair(before, after, instructions)


def _of_paper(directory: Path, seeds: Path) -> Iterator[EditPair]:
    try:
        listed = [(str(name), [int(seed) for seed in some]) for name, some in _read_json(seeds, MOST_LIST_BYTES)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{seeds} should be [[folder, [seed, ...]], ...]") from error
    for name, numbers in listed:
        folder = Path(os.path.normpath(directory / name))
        path = folder / PROMPT
        try:
            instructions = _instructions(_read_json(path, MOST_TEXT_BYTES)["edit"], str(path))
        except FileNotFoundError:
            raise UserError(f"{seeds} names the folder {name}, which has no {PROMPT}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'{path} should hold the instruction: {{"edit": "make it red", ...}}') from error
        for number in numbers:
            yield EditPair(folder / f"{number}_0.jpg", folder / f"{number}_1.jpg", instructions)


def _read_json(path: Path, most_bytes: int) -> Any:
    return json.loads(read_text(path, most_bytes))


def _instructions(value: object, source: str) -> tuple[str, ...]:
    """One instruction or a list of them. Raises `ValueError` if there is none, `UserError` for one that is no text."""
    texts = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    found = tuple(str(text) for text in texts if str(text).strip())
    if not found:
        raise ValueError("there is no instruction")
    for text in found:
        if fault := prompt_fault(text):
            raise UserError(f"{source}: an instruction {fault}")
    return found


def _is_hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)
