"""How many steps does each sampler need? A sheet of images, and errors against 1000 steps.

    python benchmarks/samplers.py --sheets docs/images

Eight prompts and seeds are sampled with 5, 10, 20 and 50 steps of every sampler. Samplers without noise solve the same
differential equation: their latents of two of the prompts are compared with those of 1000 steps of DPM-Solver++, which
begin with the same noise. Samplers with noise go elsewhere with each number of steps, so they have no such error.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import say, table, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.api import Model, load  # noqa: E402
from ldm.choices import SPACINGS  # noqa: E402
from ldm.diffusion.guidance import classifier_free  # noqa: E402
from ldm.diffusion.samplers import SAMPLERS  # noqa: E402
from ldm.diffusion.sampling import SamplingConfig, sample_latents  # noqa: E402
from ldm.report.fonts import font_for  # noqa: E402

STEPS = (5, 10, 20, 50)
EXACT, EXACT_STEPS, COMPARED = "dpm-solver", 1000, 2
"""How the solution is computed, and of how many prompts."""
WITHOUT_NOISE = ("ddim", "plms", "euler", "heun", "lms", "dpm-solver", "unipc")
CALLS = {"heun": 2}
"""Calls of the network in a step, where it is not one."""
TILE, LABEL, GAP = 64, 130, 6
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#333333")


def sampled(model: Model, sampler: str, steps: int, spacing: str = "original", count: int = 8) -> Tensor:
    """Latents (b 4 h/8 w/8) of the first prompts, prompt i with seed i, in one batch."""
    own = model.settings.sampling
    prompts = model.settings.diffusion_training.sample_prompts[:count]
    config = SamplingConfig(
        own.height, own.width, sampler, steps, own.guidance_scale, SAMPLERS[sampler].default_eta or 0.0, spacing
    )
    with torch.inference_mode():
        guidance = classifier_free(model.encode_prompts(prompts), model.encode_prompts(""), config.guidance_scale)
        return sample_latents(model.latent_diffusion, guidance, range(len(prompts)), config)


def error(latents: Tensor, exact: Tensor) -> float:
    """Root of the mean squared difference, as a share of the exact latents' standard deviation."""
    return ((latents - exact).pow(2).mean().sqrt() / exact.std()).item()


def sheet(images: Mapping[str, Mapping[int, list[Image.Image]]]) -> Image.Image:
    """Rows of samplers; groups of columns by the number of steps."""
    count = len(next(iter(next(iter(images.values())).values())))
    width = LABEL + len(STEPS) * (count * TILE + GAP)
    canvas = Image.new("RGB", (width, 24 + len(images) * TILE), "white")
    draw, font = ImageDraw.Draw(canvas), font_for("steps", 13)
    for row, (name, by_steps) in enumerate(images.items()):
        draw.text((4, 24 + row * TILE + TILE // 2 - 8), name, fill="black", font=font)
        left = LABEL
        for steps, row_images in by_steps.items():
            if row == 0:
                draw.text((left, 4), f"{steps} steps", fill="black", font=font)
            for index, image in enumerate(row_images):
                canvas.paste(image, (left + index * TILE, 24 + row * TILE))
            left += len(row_images) * TILE + GAP
    return canvas


def curve(errors: Mapping[str, Mapping[int, float]]) -> Image.Image:
    """Error over calls of the network, both logarithmic."""
    width, height, left, bottom = 720, 420, 70, 50
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), font_for("error", 13)

    def place(calls: float, value: float) -> tuple[float, float]:
        x = torch.log10(torch.tensor(calls / 4.0)).item() / 1.5
        y = (torch.log10(torch.tensor(value)).item() + 3.0) / 3.5
        return left + x * (width - left - 170), height - bottom - y * (height - bottom - 20)

    for calls in (5, 10, 20, 50, 100):
        x, y = place(calls, 1e-3)
        draw.line([(x, 20), (x, y)], fill="#dddddd")
        draw.text((x - 8, y + 4), str(calls), fill="black", font=font)
    for value in (1e-3, 1e-2, 1e-1, 1.0):
        x, y = place(4, value)
        draw.line([(x, y), (width - 170, y)], fill="#dddddd")
        draw.text((8, y - 8), f"{value:g}", fill="black", font=font)
    draw.text((left + 120, height - 22), "calls of the network", fill="black", font=font)
    for number, (name, by_steps) in enumerate(errors.items()):
        points = [place(steps * CALLS.get(name, 1), value) for steps, value in by_steps.items()]
        draw.line(points, fill=COLOURS[number], width=2)
        draw.text((width - 155, 30 + 20 * number), name, fill=COLOURS[number], font=font)
    return canvas


def main(arguments: Sequence[str] | None = None) -> int:
    """Samples, and prints the tables."""
    parser = script_parser(__doc__, targets=False)
    parser.add_argument("--ckpt-path", type=Path, help="default: the embedded tiny model")
    parser.add_argument("--sheets", type=Path, help="write samplers.jpg and sampler-errors.png into this directory")
    options: argparse.Namespace = parser.parse_args(arguments)
    model = load(options.ckpt_path) if options.ckpt_path else load()

    say(machine() + "\n")
    latents = {name: {steps: sampled(model, name, steps) for steps in STEPS} for name in SAMPLERS}
    if options.sheets:
        images = {name: {steps: model.decode(one) for steps, one in row.items()} for name, row in latents.items()}
        sheet(images).save(options.sheets / "samplers.jpg", quality=80)
    exact = sampled(model, EXACT, EXACT_STEPS, count=COMPARED)
    errors = {
        name: {steps: error(one[:COMPARED], exact) for steps, one in latents[name].items()} for name in WITHOUT_NOISE
    }
    say(table(["error", *(f"{steps} steps" for steps in STEPS)], _rows(errors)))
    spaced = {
        name: {spacing: error(sampled(model, name, 10, spacing, COMPARED), exact) for spacing in SPACINGS}
        for name in WITHOUT_NOISE
    }
    say(table(["error of 10 steps", *SPACINGS], _rows(spaced)))
    if options.sheets:
        curve(errors).save(options.sheets / "sampler-errors.png", optimize=True)
    write_json(options.json, {"machine": machine(), "errors": errors, "spacings": spaced})
    return 0


def _rows(figures: Mapping[str, Mapping[Any, float]]) -> list[list[object]]:
    return [[name, *(f"{value:.3f}" for value in row.values())] for name, row in figures.items()]


if __name__ == "__main__":
    run_script(main)
