"""Writes the toy world as a folder of images with captions, the form of all datasets of `train.py`.

Either every image shows another thing (`random_scene`), or each thing is photographed several times, so that the judge
can learn to recognise it (`view_scene`); half of those things are unusual subjects.
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


def write_dataset(
    directory: Path,
    *,
    seed: int,
    count: int,
    size: int,
    split: Split = "train",
    views: int = 1,
    device: str = "cpu",
    workers: int = 0,
) -> None:
    """Renders `count` images with captions and labels; a repeated call continues an interrupted one.

    Raises `UserError` if `directory` holds images of another seed, size, split or number of views.
    `views`: images of each thing; with several, a "subject" column says which one it is and `split` has no effect.
    `workers`: processes that render, 0 for one per processor on the CPU and one on a GPU.
    """
    _raise_if_another(directory, {"seed": seed, "size": size, "split": split, "views": views})
    remove_leftovers(directory)
    folders = [
        DatasetFolder(
            directory / f"{first:07d}", seed, first, min(PER_FOLDER, count - first), size, split, views, device
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
        yield from map(_write_folder, folders)
        return
    with get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(_write_folder, folders)


def _write_folder(folder: DatasetFolder) -> int:
    """Writes the images, then their list: a folder with a list is complete."""
    indices = range(folder.first, folder.first + folder.count)
    scenes = [_scene(folder, index) for index in indices]
    passes = {} if folder.device == "cpu" else {"samples_per_pass": 1 << 24}
    images = render(scenes, folder.size, folder.device, **passes).cpu()
    lines = []
    for index, scene, image in zip(indices, scenes, images, strict=True):
        name = f"{index:07d}.png"
        save_png(folder.directory / name, to_image(image))
        subject = {"subject": index // folder.views} if folder.views > 1 else {}
        lines.append(json.dumps({"file_name": name, **_description(scene, folder.seed, index), **subject}) + "\n")
    write_text(folder.directory / METADATA, "".join(lines))
    return folder.count


def _scene(folder: DatasetFolder, index: int) -> Scene:
    if folder.views > 1:
        return view_scene(folder.seed, index, folder.views)
    return random_scene(folder.seed, index, split=folder.split)


def _description(scene: Scene, seed: int, index: int) -> dict[str, Any]:
    """Different captions, and the labels. An unusual thing has no colour label: its shades lie between the names."""
    generator = derived_generator(seed, index, 1)
    varied = [caption(scene, generator) for _ in range(VARIED_CAPTIONS)]
    what = labels(scene)
    colour = {"colour": list(COLOURS)[what.colour]} if scene.thing.pattern in PATTERNS else {}
    return {
        "text": list(dict.fromkeys([canonical_caption(scene), *varied])),
        "class": list(CLASSES)[what.class_name],
        **colour,
        "pattern": PATTERN_NAMES[what.pattern],
        "setting": list(SETTINGS)[what.setting],
    }
