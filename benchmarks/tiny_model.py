"""How good is the embedded tiny model: the autoencoder's reconstructions, and how often images fit their prompts?

    python benchmarks/tiny_model.py --sheet docs/images/tiny-model.png

The prompts are the canonical captions of scenes that are in no training set; a tenth of them are combinations of class,
colour and setting that were held out. Each is sampled once, with the model's sampling defaults and its own seed; none
is chosen. The judge's own mistakes are measured on the autoencoder's reconstructions of renders of the same scenes.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.image_sampler import ImageSampler  # noqa: E402
from benchmarks.tools.intervals import Count, Mean, mean  # noqa: E402
from benchmarks.tools.judging import ALL, QUESTIONS, counts, judged, mistakes, pair_similarity  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.sheets import save_sheet  # noqa: E402
from ldm.data.images import to_image  # noqa: E402
from ldm.runtime.models import EMBEDDED  # noqa: E402
from ldm.toyworld import Scene, canonical_caption, is_held_out, object_coverage, random_scene, render  # noqa: E402
from ldm.toyworld.judge.encoder import EMBEDDED_JUDGE, EMBEDDED_TOKENIZER, Evaluator, load_evaluator  # noqa: E402
from ldm.training.autoencoder import psnr  # noqa: E402

WORLD = 7
"""The scenes' seed; the training sets of the model and its judge have others."""
HELD_OUT_EVERY = 10
FIRST_SEED = 1000
"""Of the noise of the first prompt; the next has the next."""
TARGETS = {"class": 90.0, "setting": 95.0, "colour": 90.0, "pattern": 75.0}
WHOLE, BOX = "whole image", "object's box"
PSNR_GOALS = {WHOLE: 27.0, BOX: 23.0}
SAMPLED = "sampled"

SHEET_COLUMNS, SHEET_COUNT = 8, 64
ENLARGED = 3
"""Factor of enlargement in the sheet, pixel by pixel."""


def prompt_scenes(count: int, world: int = WORLD) -> list[Scene]:
    """The scenes of the prompts; every tenth has a held-out combination."""
    return [
        random_scene(world, index, split="held_out" if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train")
        for index in range(count)
    ]


def held_out(scene: Scene) -> bool:
    """Whether its combination was held out of training."""
    return is_held_out(scene.thing.class_name, scene.thing.colours[0], scene.setting)


def reconstruction_psnr(decoded: Tensor, images: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR in dB of each whole image, and of the smallest upright box around the pixels more than half covered.

    decoded, images (n 3 h w) in [-1, 1]; coverage (n h w) in [0, 1].
    """
    error = decoded - images
    crops = []
    for one, covered in zip(error, coverage > 0.5, strict=True):
        rows, columns = (covered.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        crops.append(psnr(one[None, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    return psnr(error), torch.cat(crops)


def measure_autoencoder(sampler: ImageSampler, count: int) -> dict[str, Mean]:
    """PSNR of renders outside the training set, at the model's size."""
    scenes = [random_scene(WORLD, 1_000_000 + index, split="all") for index in range(count)]
    size = sampler.sampling.height
    images = render(scenes, size)
    whole, crop = reconstruction_psnr(sampler.reconstruct(images), images, object_coverage(scenes, size))
    return {WHOLE: mean(whole), BOX: mean(crop)}


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
    """The mean distance, one minus cosine, of the things in all pairs of images."""
    return 1 - pair_similarity(evaluator.subject_similarity(images, images))


def measure_variety(sampler: ImageSampler, evaluator: Evaluator, scenes: list[Scene], each: int) -> dict[str, Mean]:
    """How different the things of one prompt are: sampled, and rendered and reconstructed."""
    sampled, real = [], []
    for scene in scenes:
        images = sampler.sample([canonical_caption(scene)] * each, range(each), "variety")
        sampled.append(variety(evaluator, images))
        renders = render(look_alikes(scene, each), sampler.sampling.height)
        real.append(variety(evaluator, sampler.reconstruct(renders)))
    return {"sampled": mean(sampled), "reconstructed renders": mean(real)}


def caption_fit(evaluator: Evaluator, sampled: Tensor, reconstructed: Tensor, captions: list[str]) -> dict[str, Mean]:
    """Cosines of images with their own captions, and of sampled ones with all captions of other words."""
    own = evaluator.caption_similarity(sampled, captions)
    other = torch.tensor([[a != b for b in captions] for a in captions])
    per_image = [float(row[mask].mean()) for row, mask in zip(own, other, strict=True) if mask.any()]
    return {
        "sampled": mean(own.diagonal()),
        "reconstructed renders": mean(evaluator.caption_similarity(reconstructed, captions).diagonal()),
        "sampled, others' captions": mean(per_image),
    }


def captioned_sheet(images: list[Image.Image], captions: list[str], columns: int = SHEET_COLUMNS) -> Image.Image:
    """The images in rows, each enlarged pixel by pixel, with its caption beneath."""
    margin, font = 8, ImageFont.load_default(size=14)
    side = images[0].width * ENLARGED
    wrapped = [_wrapped(caption, font, side) for caption in captions]
    beneath = 17 * max(text.count("\n") + 1 for text in wrapped) + margin
    rows = -(-len(images) // columns)
    across = min(columns, len(images))
    sheet = Image.new("RGB", (margin + (side + margin) * across, margin + (side + beneath) * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(zip(images, wrapped, strict=True)):
        x, y = margin + (side + margin) * (index % columns), margin + (side + beneath) * (index // columns)
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        draw.multiline_text((x, y + side + 1), text, "black", font, spacing=1)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return "\n".join(lines)


def prompts_sheet(sampled: Tensor, scenes: list[Scene]) -> Image.Image:
    """The first 64 images, unselected; a star marks held-out combinations."""
    chosen = scenes[:SHEET_COUNT]
    captions = ["* " * held_out(one) + canonical_caption(one).removeprefix("a photo of ") for one in chosen]
    return captioned_sheet([to_image(image) for image in sampled[:SHEET_COUNT]], captions)


@dataclass(frozen=True)
class Answers:
    """The judge's answers about the prompts' images."""

    right: dict[str, dict[str, Count]]
    """By kind of image, and by head."""
    mistakes: list[str]
    caption_similarity: dict[str, Mean]
    seconds: float
    """Of sampling."""


def judge_samples(sampler: ImageSampler, evaluator: Evaluator, scenes: list[Scene], sheet: Path | None) -> Answers:
    """Samples every scene's caption, and judges these images and renders of the same scenes."""
    captions = [canonical_caption(scene) for scene in scenes]
    start = time.perf_counter()
    sampled = sampler.sample(captions, range(FIRST_SEED, FIRST_SEED + len(captions)))
    seconds = time.perf_counter() - start
    if sheet:
        save_sheet(sheet, prompts_sheet(sampled, scenes))
    renders = render(scenes, sampler.sampling.height)
    reconstructed = sampler.reconstruct(renders)
    answers = judged(evaluator, sampled, scenes)
    new = [answer for answer, scene in zip(answers, scenes, strict=True) if held_out(scene)]
    right = {
        SAMPLED: counts(answers),
        f"sampled, held-out combinations ({len(new)})": counts(new),
        "the judge on reconstructed renders": counts(judged(evaluator, reconstructed, scenes)),
        "the judge on renders": counts(judged(evaluator, renders, scenes)),
    }
    return Answers(right, mistakes(answers, scenes), caption_fit(evaluator, sampled, reconstructed, captions), seconds)


def say_quality(quality: dict[str, Mean], count: int) -> None:
    """The autoencoder's table."""
    say(f"PSNR in dB of {count} reconstructed renders, mean and 95 % interval; the object's box is\n"
        "the smallest around the pixels that it covers by more than half:\n")  # fmt: skip
    rows = [[name, f"{one.value:.2f} ± {one.half:.2f}", f"≥ {PSNR_GOALS[name]:g}"] for name, one in quality.items()]
    say(table(["", "PSNR", "target"], rows))


def say_answers(answers: Answers, count: int) -> None:
    """The judge's tables."""
    say(f"Right answers of {count} prompts, in percent (95 % Wilson interval); of stripes and checks, either\n"
        "colour is right:\n")  # fmt: skip
    rows = [[name, *one.values()] for name, one in answers.right.items()]
    say(table(["", *QUESTIONS, ALL], [*rows, ["target", *(f"≥ {TARGETS[head]:g}" for head in QUESTIONS), ""]]))
    say("Cosines of images and captions, mean and 95 % interval:\n")
    say(table([*answers.caption_similarity], [[*answers.caption_similarity.values()]]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, default=EMBEDDED, help="default: the embedded tiny model")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--reconstructions", type=int, default=400, help="renders for the autoencoder's PSNR")
    parser.add_argument("--variety", type=int, default=12, help="prompts that are sampled eight times each; 0: none")
    parser.add_argument("--sheet", type=Path, help="write the first 64 images to this file, .png or .jpg")
    parser.add_argument("--judge", type=Path, default=EMBEDDED_JUDGE)
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED_TOKENIZER, help="the judge's")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    options = parse(arguments)
    device = torch.device(options.device)
    evaluator = load_evaluator(device, options.judge, options.tokenizer)
    sampler = ImageSampler(options.ckpt_path, device)
    sampling = sampler.sampling
    how = f"{sampling.sampler}, {sampling.num_steps} steps, guidance {sampling.guidance_scale:g}"
    say(f"{machine()}\n\n{how}, {sampling.width} x {sampling.height} pixels.\n")

    quality = measure_autoencoder(sampler, options.reconstructions)
    say_quality(quality, options.reconstructions)
    scenes = prompt_scenes(options.prompts)
    answers = judge_samples(sampler, evaluator, scenes, options.sheet)
    say_answers(answers, len(scenes))
    spread = {}
    if options.variety:
        spread = measure_variety(sampler, evaluator, scenes[: options.variety], 8)
        say(f"Distance of the things in eight images of one prompt, mean of {options.variety} prompts:\n")
        say(table([*spread], [[*spread.values()]]))
    say("Most frequent mistakes:\n\n" + "\n".join(answers.mistakes))
    say(f"\n{len(scenes)} images sampled in {answers.seconds:.0f} s.")

    figures = {"psnr": quality, **vars(answers), "variety": spread}
    write_json(options.json, figures | {"machine": machine(), "prompts": len(scenes)})
    targets = [Target(f"PSNR of the {name}", value.value, PSNR_GOALS[name], "dB") for name, value in quality.items()]
    targets += [Target(head, answers.right[SAMPLED][head].percent, limit) for head, limit in TARGETS.items()]
    return verdict(targets, options.strict)


if __name__ == "__main__":
    run_script(main)
