"""Does "sks bottle", painted into renders of other things, show the subject? Measured by the toy world's judge.

    python benchmarks/inpainting.py --sheet docs/images/inpainting.jpg

Fine-tunes the embedded tiny model on data/bottle as the quick start does, or takes a checkpoint of it. In each of 100
renders that no training set has, a box around the object is painted anew with "a photo of sks water bottle" and the
render's setting. The same prompts and seeds, sampled without a render, say what the checkpoint can do:

- similarity: the mean cosine of the images and the photos of the subject, and its share of the plain images';
- class and setting: whether the judge sees a bottle, in the setting of the render;
- outside: in how many images every pixel outside the mask is the render's own.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import trange

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ldm  # noqa: E402
from benchmarks.tiny_subjects import BOTTLE, FIRST_SEED, PRIOR, photographs_of, train  # noqa: E402
from benchmarks.tools.intervals import Count, Mean, mean  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.sheets import save_sheet  # noqa: E402
from ldm.data.images import to_image, to_tensor  # noqa: E402
from ldm.data.photos import read_directory  # noqa: E402
from ldm.report.grid import labelled_grid  # noqa: E402
from ldm.toyworld import Scene, object_coverage, random_scene, render  # noqa: E402
from ldm.toyworld.judge.encoder import Evaluator, load_evaluator  # noqa: E402

WORLD = 11
"""The scenes' seed; the training sets of the model and its judge have others."""
MARGIN = 8
"""Pixels of the mask around the object's box, for a subject of another shape; at a render of 64."""
SHARE_TARGET = 85.0
SHEET_ROWS = 8


@dataclass(frozen=True)
class Figures:
    """The judge's answers about images of the subject."""

    similarity: Mean
    is_bottle: Count
    setting_right: Count


def renders(count: int, size: int) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes without a bottle, their images (n 3 h w) in [-1, 1] and masks (n h w), true in a box around the object."""
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < count:
        scene = random_scene(WORLD, index, split="held_out")
        index += 1
        if scene.thing.class_name != BOTTLE.class_name:
            scenes.append(scene)
    margin = MARGIN * size // 64
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for mask, covered in zip(masks, object_coverage(scenes, size) > 0.5, strict=True):
        rows, columns = (covered.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        mask[
            max(0, rows[0] - margin) : rows[-1] + 1 + margin, max(0, columns[0] - margin) : columns[-1] + 1 + margin
        ] = True
    return scenes, render(scenes, size), masks


def judge_images(evaluator: Evaluator, images: Tensor, photos: Tensor, scenes: Sequence[Scene]) -> Figures:
    """Images of the subject, one for each scene."""
    answers = evaluator.name(images)
    return Figures(
        mean(evaluator.subject_similarity(images, photos).mean(dim=1).tolist()),
        Count(sum(one["class"].label == BOTTLE.class_name for one in answers), len(answers)),
        Count(
            sum(one["setting"].label == scene.setting for one, scene in zip(answers, scenes, strict=True)), len(answers)
        ),
    )


def unchanged_outside(painted: Tensor, originals: Sequence[Image.Image], masks: Tensor) -> Count:
    """Images whose pixels outside the mask are all the original's; painted (n 3 h w), masks (n h w)."""
    same = [
        bool((to_tensor(to_image(one)) == to_tensor(original))[:, ~mask].all())
        for one, original, mask in zip(painted, originals, masks, strict=True)
    ]
    return Count(sum(same), len(same))


def trained(work: Path) -> Path:
    """The last checkpoint of the quick start's run."""
    checkpoints, seconds = train(BOTTLE, photographs_of(BOTTLE, work), PRIOR, work.resolve(), [])
    say(f"fine-tuned in {seconds:.0f} s")
    return checkpoints[-1]


def sheet(shown: Sequence[tuple[str, Image.Image, Tensor, Image.Image, Image.Image]]) -> Image.Image:
    """A row for each prompt: the render, the render with the mask in grey, what was painted, the plain image."""
    rows = []
    for _, original, mask, painted, plain in shown:
        masked = Image.composite(
            Image.new("RGB", original.size, (128, 128, 128)), original, Image.fromarray(mask.numpy())
        )
        rows.append([original, masked, painted, plain])
    return labelled_grid(rows, [prompt for prompt, *_ in shown], ["render", "mask", "painted", "sampled plainly"])


def report(figures: dict[str, Figures], outside: Count) -> list[Target]:
    """Prints the tables; returns the targets."""
    painted, plain = figures.values()
    share = 100 * painted.similarity.value / plain.similarity.value
    rows = [[name, one.similarity, one.is_bottle, one.setting_right] for name, one in figures.items()]
    say(table(["images", "similarity to the photos", "a bottle, %", "setting right, %"], rows))
    say(f"Unchanged outside the mask: {outside}")
    return [
        Target("similarity, of the plain images'", share, SHARE_TARGET),
        Target("unchanged outside the mask", outside.percent, 100.0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, paints, measures and prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, help="a checkpoint of the bottle; default: one is trained")
    parser.add_argument("--count", type=int, default=100, help="renders")
    parser.add_argument("--work", type=Path, help="keep the training here, and use it if it finished here before")
    parser.add_argument("--sheet", type=Path, help=f"write {SHEET_ROWS} of them, not selected, into this file")
    options = parser.parse_args(arguments)

    say(machine())
    with tempfile.TemporaryDirectory() as temporary:
        path = options.ckpt_path or trained(options.work or Path(temporary))
        model = ldm.load(path)
    size = model.settings.sampling.height
    scenes, images, masks = renders(options.count, size)
    originals = [to_image(image) for image in images]
    prompts = [BOTTLE.prompt(scene.setting) for scene in scenes]
    painted, plain = [], []
    for i in trange(len(scenes), desc="sampling", unit="render"):
        mask = Image.fromarray(masks[i].numpy())
        painted += model.sample(prompts[i], seed=FIRST_SEED + i, init_img=originals[i], mask=mask).images
        plain += model.sample(prompts[i], seed=FIRST_SEED + i).images

    evaluator = load_evaluator(model.device)
    photos = read_directory(photographs_of(BOTTLE, Path()), size, size)[1]
    of_painted, of_plain = (torch.stack([*map(to_tensor, group)]) for group in (painted, plain))
    figures = {
        "painted into a render": judge_images(evaluator, of_painted, photos, scenes),
        "sampled plainly": judge_images(evaluator, of_plain, photos, scenes),
    }
    outside = unchanged_outside(of_painted, originals, masks)
    targets = report(figures, outside)
    write_json(options.json, {"machine": machine(), "figures": figures, "unchanged outside": outside})
    if options.sheet:
        shown = [*zip(prompts, originals, masks, painted, plain, strict=True)][:SHEET_ROWS]
        save_sheet(options.sheet, sheet(shown))
    return verdict(targets, options.strict)


if __name__ == "__main__":
    run_script(main)
