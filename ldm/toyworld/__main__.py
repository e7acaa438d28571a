"""Writes images of the toy world: photos of a subject, a sheet of all classes and settings, or a dataset.

python -m ldm.toyworld --subject bottle --out data/bottle
python -m ldm.toyworld --sheet sheet.png --size 128
python -m ldm.toyworld --dataset data/toyworld/images --count 64000 --size 64 --seed 0
python -m ldm.toyworld --dataset data/toyworld/views --count 24000 --size 64 --seed 2 --views 3
python -m ldm.toyworld --dataset data/toyworld/edits --count 20000 --size 128 --seed 3 --edits
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ldm.data.images import save_png, to_image
from ldm.toyworld import CLASSES, SETTINGS, canonical_caption, photograph, random_scene, render, unusual_subject
from ldm.toyworld.dataset import write_dataset

log = logging.getLogger("ldm.toyworld")

BOTTLE_SEED = 15
"""The seed of the bottle in `data/bottle`."""
SUPERSAMPLE = 3


def write_photographs(class_name: str, directory: Path, seed: int, count: int, size: int) -> None:
    """Writes `count` images of the subject `seed` of a class: <class>-1.png ..."""
    for number, scene in enumerate(photograph(unusual_subject(seed, class_name), count, seed), 1):
        path = directory / f"{class_name.replace(' ', '-')}-{number}.png"
        (image,) = render([scene], size, supersample=SUPERSAMPLE)
        save_png(path, to_image(image), {"caption": canonical_caption(scene)})
        log.info("%s: %s", path, canonical_caption(scene))


def write_sheet(path: Path, seed: int, size: int) -> None:
    """Writes one image of random scenes: a row for each class, a column for each setting."""
    scenes = [
        random_scene(seed, index, class_name=class_name, setting=setting, split="all")
        for index, (class_name, setting) in enumerate((c, s) for c in CLASSES for s in SETTINGS)
    ]
    from torchvision.utils import make_grid  # only here: its import takes a second

    save_png(path, to_image(make_grid(render(scenes, size), nrow=len(SETTINGS), padding=0)))
    log.info("%s: rows %s; columns %s", path, ", ".join(CLASSES), ", ".join(SETTINGS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags and writes."""
    parser = argparse.ArgumentParser(prog="python -m ldm.toyworld", description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--subject", choices=list(CLASSES), help="photograph an unusual object of this class")
    what.add_argument("--sheet", type=Path, help="write a sheet of all classes in all settings to this file")
    what.add_argument("--dataset", type=Path, help="write captioned images to this directory, or finish writing them")
    parser.add_argument("--out", type=Path, help="the photographs' directory; default: data/CLASS")
    parser.add_argument("--seed", type=int, default=BOTTLE_SEED, help="another subject, or other scenes")
    parser.add_argument("--count", type=int, default=6, help="number of photographs or of the dataset's images")
    parser.add_argument("--size", type=int, default=256, help="pixels on a side of each image")
    parser.add_argument("--split", choices=("train", "held_out", "all"), default="train", help="of a dataset")
    parser.add_argument("--views", type=int, default=1, help="a dataset's images of each thing; with several, of all")
    parser.add_argument("--edits", action="store_true", help="a dataset of pairs: an image, an instruction, the result")
    parser.add_argument("--device", default="cpu", help="where a dataset is rendered: cpu, cuda")
    options = parser.parse_args(arguments)
    if options.subject:
        directory = options.out or Path("data") / options.subject.replace(" ", "-")
        write_photographs(options.subject, directory, options.seed, options.count, options.size)
    elif options.dataset:
        write_dataset(
            options.dataset,
            seed=options.seed,
            count=options.count,
            size=options.size,
            split=options.split,
            views=options.views,
            edits=options.edits,
            device=options.device,
        )
    else:
        write_sheet(options.sheet, options.seed, options.size)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
