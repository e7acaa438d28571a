"""Writes the toy world as a folder of images with captions, the form of all datasets of `train.py`.

Either every image shows another thing (`random_scene`), or each thing is photographed several times, so that the judge
can learn to recognise it (`view_scene`); half of those things are unusual subjects. Or each row is an edit: an image,
an instruction and the image that follows it (`random_edit`), with the names that diffusers' trainer of InstructPix2Pix
gives them.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ldm.data.images import save_png, to_image
from ldm.diffusion.noise import derived_generator
from ldm.errors import UserError
from ldm.files import write_text
from ldm.leftovers import remove_leftovers
from ldm.progress import Progress
from ldm.toyworld.captions import canonical_caption, caption
from ldm.toyworld.edits import random_edit
from ldm.toyworld.render import render
from ldm.toyworld.scene import Dice, Scene, Split, labels, photograph, random_scene, random_thing, unusual_subject
from ldm.toyworld.words import CLASSES, COLOURS, PATTERN_NAMES, PATTERNS, SETTINGS

log = logging.getLogger(__name__)

METADATA, RECORD = "metadata.jsonl", "dataset.json"
PER_FOLDER = 500
VARIED_CAPTIONS = 5
"""Captions of an image besides the canonical one."""


@dataclass(frozen=True)
class DatasetFolder:
    """A part of the dataset in one folder: images `first` ... `first + count - 1` of the world `seed`."""

    directory: Path
    seed: int
    first: int
    count: int
    size: int
    split: Split
    views: int
    device: str
    edits: bool


def write_dataset(
    directory: Path,
    *,
    seed: int,
    count: int,
    size: int,
    split: Split = "train",
    views: int = 1,
    edits: bool = False,
    device: str = "cpu",
    workers: int = 0,
) -> None:
    """Renders `count` images with captions and labels; a repeated call continues an interrupted one.

    Raises `UserError` if `directory` holds images of another seed, size, split, number of views or kind.
    `views`: images of each thing; with several, a "subject" column says which one it is and `split` has no effect.
    `edits`: `count` pairs of images with an instruction instead; `views` has no effect.
    `workers`: processes that render, 0 for one per processor on the CPU and one on a GPU.
    """
    kind = {"edits": True} if edits else {"views": views}
    _raise_if_another(directory, {"seed": seed, "size": size, "split": split, **kind})
    remove_leftovers(directory)
    folders = [
        DatasetFolder(
            directory / f"{first:07d}", seed, first, min(PER_FOLDER, count - first), size, split, views, device, edits
        )
        for first in range(0, count, PER_FOLDER)
    ]
    missing = [folder for folder in folders if not (folder.directory / METADATA).exists()]
    workers = workers or ((os.cpu_count() or 1) if device == "cpu" else 1)
    with Progress(count, "rendering", "img", done=count - sum(f.count for f in missing)) as progress:
        for rendered in _each_done(missing, workers):
            progress.update(rendered)
    log.info("%s: %d images of %d x %d pixels", directory, count, size, size)


def _raise_if_another(directory: Path, settings: dict[str, Any]) -> None:
    """Keeps two datasets from being mixed in one directory; only the number of images may change."""
    record = directory / RECORD
    if not record.exists():
        write_text(record, json.dumps(settings, indent=2) + "\n")
        return
    try:
        there = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{record} is damaged: {error}. Delete it and the folders beside it") from error
    if there != settings:
        raise UserError(f"{directory} holds another dataset, {there}; this one is {settings}. Give another directory")


def view_scene(seed: int, index: int, views: int) -> Scene:
    """Image `index` of a world in which each thing is photographed `views` times, in different settings.

    Every other thing is an `unusual_subject`.
    """
    thing, view = divmod(index, views)
    own_seed = (seed + 1) << 32 | thing  # far from the small seeds of subjects
    dice = Dice(derived_generator(own_seed))
    class_name, colour = dice.choice(list(CLASSES)), dice.choice(list(COLOURS))
    shown = unusual_subject(own_seed, class_name) if thing % 2 else random_thing(dice, class_name, colour)
    return photograph(shown, views, own_seed, list(SETTINGS))[view]


def _each_done(folders: list[DatasetFolder], workers: int) -> Iterator[int]:
    """Renders the folders, in this process or in several; yields the number of images of each finished one."""
    if min(workers, len(folders)) <= 1:
        yield from map(_write, folders)
        return
    with get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(_write, folders)


def _write(folder: DatasetFolder) -> int:
    """Writes the images, then their list: a folder with a list is complete."""
    indices = range(folder.first, folder.first + folder.count)
    lines = _write_edits(folder, indices) if folder.edits else _write_images(folder, indices)
    write_text(folder.directory / METADATA, "".join(json.dumps(line) + "\n" for line in lines))
    return folder.count


def _write_images(folder: DatasetFolder, indices: range) -> list[dict[str, Any]]:
    scenes = [_scene(folder, index) for index in indices]
    lines = []
    for index, scene, image in zip(indices, scenes, _rendered(folder, scenes), strict=True):
        name = f"{index:07d}.png"
        save_png(folder.directory / name, to_image(image))
        subject = {"subject": index // folder.views} if folder.views > 1 else {}
        lines.append({"file_name": name, **_description(scene, folder.seed, index), **subject})
    return lines


def _write_edits(folder: DatasetFolder, indices: range) -> list[dict[str, Any]]:
    edits = [random_edit(folder.seed, index, folder.split) for index in indices]
    before, after = (_rendered(folder, [getattr(edit, when) for edit in edits]) for when in ("before", "after"))
    lines = []
    for index, edit, *images in zip(indices, edits, before, after, strict=True):
        names = [f"{index:07d}-{when}.png" for when in ("before", "after")]
        for name, image in zip(names, images, strict=True):
            save_png(folder.directory / name, to_image(image))
        labelled = {"before": _labels(edit.before), "after": _labels(edit.after)}
        row = {"input_image": names[0], "edit_prompt": edit.instruction, "edited_image": names[1]}
        lines.append({**row, "kind": edit.kind, **labelled})
    return lines


def _rendered(folder: DatasetFolder, scenes: list[Scene]) -> torch.Tensor:
    passes = {} if folder.device == "cpu" else {"samples_per_pass": 1 << 24}
    return render(scenes, folder.size, folder.device, **passes).cpu()


def _scene(folder: DatasetFolder, index: int) -> Scene:
    if folder.views > 1:
        return view_scene(folder.seed, index, folder.views)
    return random_scene(folder.seed, index, split=folder.split)


def _description(scene: Scene, seed: int, index: int) -> dict[str, Any]:
    """Different captions, and the labels."""
    generator = derived_generator(seed, index, 1)
    varied = [caption(scene, generator) for _ in range(VARIED_CAPTIONS)]
    return {"text": list(dict.fromkeys([canonical_caption(scene), *varied])), **_labels(scene)}


def _labels(scene: Scene) -> dict[str, str]:
    """By name. An unusual thing has no colour label: its shades lie between the names."""
    what = labels(scene)
    colour = {"colour": list(COLOURS)[what.colour]} if scene.thing.pattern in PATTERNS else {}
    return {
        "class": list(CLASSES)[what.class_name],
        **colour,
        "pattern": PATTERN_NAMES[what.pattern],
        "setting": list(SETTINGS)[what.setting],
    }
