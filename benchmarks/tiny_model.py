"""What the embedded tiny model can do: how well its autoencoder sees, and how often it draws what was asked.

    python benchmarks/tiny_model.py --sheet docs/images/tiny-model.png

The prompts are the canonical captions of scenes that no training has seen; a tenth of them are combinations of class,
colour and setting that were kept out of training. Each is drawn once, with the model's own sampling defaults and a seed
of its own; none is chosen. The judge's own mistakes are measured on the autoencoder's reconstructions of renders of the
very same scenes.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.common import (  # noqa: E402
    ALL,
    QUESTIONS,
    Drawer,
    Goal,
    Mean,
    counts,
    judged,
    machine,
    mean,
    mistakes,
    pair_similarity,
    say,
    table,
    verdict,
    write_json,
)
from ldm.commands.models import EMBEDDED  # noqa: E402
from ldm.data.images import save_png, to_image  # noqa: E402
from ldm.data.toyworld import Scene, canonical_caption, is_held_out, object_coverage, random_scene, render  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.evaluation.judge import SHIPPED, SHIPPED_TOKENIZER, Evaluator, load_evaluator  # noqa: E402
from ldm.files import atomic_path  # noqa: E402
from ldm.training.autoencoder import psnr  # noqa: E402

WORLD = 7
"""The scenes' seed; the datasets that a model and its judge learn from have others."""
HELD_OUT_EVERY = 10
FIRST_SEED = 1000
"""Of the noise of the first prompt; the next has the next."""
GOALS = {"class": 90.0, "setting": 95.0, "colour": 90.0, "pattern": 75.0}
WHOLE_GOAL, CROP_GOAL = 27.0, 23.0

SHEET_COLUMNS, SHEET_COUNT = 8, 64
ENLARGED = 3
"""Times, in the sheet, pixel by pixel."""


def prompt_scenes(count: int, world: int = WORLD) -> list[Scene]:
    """What the prompts describe; every tenth is of a combination that was never trained on."""
    return [
        random_scene(world, index, split="held_out" if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train")
        for index in range(count)
    ]


def held_out(scene: Scene) -> bool:
    """Whether training never saw its combination."""
    return is_held_out(scene.thing.class_name, scene.thing.colours[0], scene.setting)


def reconstruction_psnr(decoded: Tensor, images: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR in dB of each whole picture, and of the smallest upright box around the pixels more than half covered.

    decoded, images (n 3 h w) in [-1, 1]; coverage (n h w) in [0, 1].
    """
    error = decoded - images
    crops = []
    for one, covered in zip(error, coverage > 0.5, strict=True):
        rows, columns = (covered.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        crops.append(psnr(one[None, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    return psnr(error), torch.cat(crops)


def measure_autoencoder(drawer: Drawer, count: int) -> dict[str, Mean]:
    """PSNR of renders that no training has seen, at the model's size."""
    scenes = [random_scene(WORLD, 1_000_000 + index, split="all") for index in range(count)]
    size = drawer.sampling.height
    images = render(scenes, size)
    whole, crop = reconstruction_psnr(drawer.reconstruct(images), images, object_coverage(scenes, size))
    return {"whole picture": mean(whole), "object's box": mean(crop)}


def look_alikes(scene: Scene, count: int) -> list[Scene]:
    """Other scenes with the same canonical caption."""
    found: list[Scene] = []
    index, thing, caption = 0, scene.thing, canonical_caption(scene)
    while len(found) < count:
        other = random_scene(
            WORLD + 1, index, class_name=thing.class_name, colour=thing.colours[0], setting=scene.setting, split="all"
        )
        if canonical_caption(other) == caption:
            found.append(other)
        index += 1
    return found


def variety(evaluator: Evaluator, images: Tensor) -> float:
    """The mean distance, one minus cosine, of the things in all pairs of pictures."""
    return 1 - pair_similarity(evaluator.subject_similarity(images, images))


def measure_variety(drawer: Drawer, evaluator: Evaluator, scenes: list[Scene], each: int) -> dict[str, Mean]:
    """How different the things of one prompt are: as drawn, and as rendered and reconstructed."""
    drawn, real = [], []
    for scene in scenes:
        pictures = drawer.draw([canonical_caption(scene)] * each, range(each), "variety")
        drawn.append(variety(evaluator, pictures))
        renders = render(look_alikes(scene, each), drawer.sampling.height)
        real.append(variety(evaluator, drawer.reconstruct(renders)))
    return {"drawn": mean(drawn), "reconstructed renders": mean(real)}


def caption_fit(evaluator: Evaluator, drawn: Tensor, reconstructed: Tensor, captions: list[str]) -> dict[str, Mean]:
    """Cosines of pictures with their own captions, and of drawn ones with all the other captions of other words."""
    own = evaluator.caption_similarity(drawn, captions)
    other = torch.tensor([[a != b for b in captions] for a in captions])
    per_picture = [float(row[mask].mean()) for row, mask in zip(own, other, strict=True) if mask.any()]
    return {
        "drawn": mean(own.diagonal()),
        "reconstructed renders": mean(evaluator.caption_similarity(reconstructed, captions).diagonal()),
        "drawn, others' captions": mean(per_picture),
    }


def captioned_sheet(pictures: list[Image.Image], captions: list[str], columns: int = SHEET_COLUMNS) -> Image.Image:
    """The pictures in rows, each enlarged pixel by pixel, with its caption beneath."""
    margin, font = 8, ImageFont.load_default(size=14)
    side = pictures[0].width * ENLARGED
    wrapped = [_wrapped(caption, font, side) for caption in captions]
    beneath = 17 * max(text.count("\n") + 1 for text in wrapped) + margin
    rows = -(-len(pictures) // columns)
    across = min(columns, len(pictures))
    sheet = Image.new("RGB", (margin + (side + margin) * across, margin + (side + beneath) * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, text) in enumerate(zip(pictures, wrapped, strict=True)):
        x, y = margin + (side + margin) * (index % columns), margin + (side + beneath) * (index // columns)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
        draw.multiline_text((x, y + side + 1), text, "black", font, spacing=1)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return "\n".join(lines)


def save_sheet(path: Path, drawn: Tensor, scenes: list[Scene]) -> None:
    """The first 64, whatever they are; a star marks combinations that training never saw."""
    chosen = scenes[:SHEET_COUNT]
    captions = ["* " * held_out(one) + canonical_caption(one).removeprefix("a photo of ") for one in chosen]
    sheet = captioned_sheet([to_image(image) for image in drawn[:SHEET_COUNT]], captions)
    if path.suffix == ".png":
        save_png(path, sheet)
    else:
        with atomic_path(path) as partial:
            sheet.save(partial, format="JPEG", quality=88)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt-path", type=Path, default=EMBEDDED, help="default: the embedded tiny model")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--reconstructions", type=int, default=400, help="renders for the autoencoder's PSNR")
    parser.add_argument("--variety", type=int, default=12, help="prompts that are drawn eight times each; 0: none")
    parser.add_argument("--sheet", type=Path, help="write the first 64 pictures to this file, .png or .jpg")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--judge", type=Path, default=SHIPPED)
    parser.add_argument("--tokenizer", type=Path, default=SHIPPED_TOKENIZER, help="the judge's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a goal is missed")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    evaluator = load_evaluator(device, options.judge, options.tokenizer)
    drawer = Drawer(options.ckpt_path, device)
    sampling = drawer.sampling
    how = f"{sampling.sampler}, {sampling.num_steps} steps, guidance {sampling.guidance_scale:g}"
    say(f"{machine()}\n\n{how}, {sampling.width} x {sampling.height} pixels.\n")

    quality = measure_autoencoder(drawer, options.reconstructions)
    say(
        f"PSNR in dB of {options.reconstructions} reconstructed renders, mean and 95 % interval; the object's box is\n"
        "the smallest around the pixels that it covers by more than half:\n"
    )
    limits = dict(zip(quality, (WHOLE_GOAL, CROP_GOAL), strict=True))
    say(
        table(
            ["", "PSNR", "goal"], [[n, f"{m.value:.2f} ± {m.half:.2f}", f"≥ {limits[n]:g}"] for n, m in quality.items()]
        )
    )

    scenes = prompt_scenes(options.prompts)
    captions = [canonical_caption(scene) for scene in scenes]
    start = time.perf_counter()
    drawn = drawer.draw(captions, range(FIRST_SEED, FIRST_SEED + len(captions)))
    seconds = time.perf_counter() - start
    if options.sheet:
        save_sheet(options.sheet, drawn, scenes)
    renders = render(scenes, sampling.height)
    reconstructed = drawer.reconstruct(renders)

    answers = judged(evaluator, drawn, scenes)
    new = [answer for answer, scene in zip(answers, scenes, strict=True) if held_out(scene)]
    found = {
        "drawn": counts(answers),
        f"drawn, combinations never trained on ({len(new)})": counts(new),
        "the judge on reconstructed renders": counts(judged(evaluator, reconstructed, scenes)),
        "the judge on renders": counts(judged(evaluator, renders, scenes)),
    }
    say(
        f"Right answers of {len(scenes)} prompts, in percent (95 % Wilson interval); of stripes and checks, either\n"
        "colour is right:\n"
    )
    rows = [[name, *one.values()] for name, one in found.items()]
    say(table(["", *QUESTIONS, ALL], [*rows, ["goal", *(f"≥ {GOALS[head]:g}" for head in QUESTIONS), ""]]))

    fit = caption_fit(evaluator, drawn, reconstructed, captions)
    say("Cosines of pictures and captions, mean and 95 % interval:\n")
    say(table([*fit], [[*fit.values()]]))
    spread = {}
    if options.variety:
        spread = measure_variety(drawer, evaluator, scenes[: options.variety], 8)
        say(f"Distance of the things in eight pictures of one prompt, mean of {options.variety} prompts:\n")
        say(table([*spread], [[*spread.values()]]))
    wrong = mistakes(answers, scenes)
    say("Most frequent mistakes:\n\n" + "\n".join(wrong))
    say(f"\n{len(scenes)} pictures drawn in {seconds:.0f} s.")

    goals = [Goal(f"PSNR of the {name}", value.value, limits[name], "dB") for name, value in quality.items()]
    goals += [Goal(head, found["drawn"][head].percent, limit) for head, limit in GOALS.items()]
    figures = {"psnr": quality, "right": found, "caption_similarity": fit, "variety": spread, "mistakes": wrong}
    write_json(options.json, figures | {"machine": machine(), "seconds": seconds, "prompts": len(scenes)})
    return verdict(goals, options.strict)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
