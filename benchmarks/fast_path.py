"""How much do the fast ways of sampling change the image?

    python benchmarks/fast_path.py --sheet fast-path.jpg
    python benchmarks/fast_path.py --ckpt-path weights/sd-v1/sd-v1-4.ckpt --device cuda --sheet fast-path.jpg

Samples the same prompts from the same seeds in the plain way, float32 and layer by layer, one image at a time, and in
each faster way that exists on the device: all in one batch, with weights of 16 bits, by CUDA graphs
(`--compile graphs`), by torch.compile (`--compile full`), with TF32. Beside the images one call of the UNet is
compared, which shows a way's rounding before 50 steps have carried it on.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.measuring import digits  # noqa: E402
from benchmarks.tools.reporting import say, table, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.sheets import save_sheet  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.commands.options.common import SIDE, STEPS, seed  # noqa: E402
from ldm.data.images import to_image  # noqa: E402
from ldm.diffusion.guidance import Conditioning, classifier_free  # noqa: E402
from ldm.diffusion.noise import draw_noise, image_generators  # noqa: E402
from ldm.diffusion.sampling import SamplingConfig, sample_images  # noqa: E402
from ldm.report.grid import labelled_grid  # noqa: E402
from ldm.runtime.compiling import compile_unet  # noqa: E402
from ldm.runtime.devices import Compute, parse_device  # noqa: E402
from ldm.runtime.models import EMBEDDED, ModelSlot, Settings, settings_of  # noqa: E402
from ldm.training.autoencoder import psnr  # noqa: E402

PROMPTS = (
    "a photo of a red and white striped ball on the beach",
    "a photo of a blue vase in the snow",
    "a photo of a yellow duck on the water",
    "a photo of a green bottle in front of a brick wall",
    "a photo of a white teddy bear on the grass",
    "a photo of a purple hat on a wooden floor",
)
LEVELS = 127.5
"""8-bit levels of [-1, 1]."""
MIDDLE = 500
"""The timestep of the single call."""


@dataclass(frozen=True)
class Way:
    """A way of sampling."""

    name: str
    dtype: torch.dtype = torch.float32
    compile: str = "off"
    """The commands' flag."""
    together: bool = True
    """All images in one batch."""
    tf32: bool = False
    on_cuda_only: bool = False


PLAIN = Way("float32, one at a time", together=False)
FAST = (
    Way("float32, in one batch"),
    Way("TF32", tf32=True, on_cuda_only=True),
    Way("float32, --compile graphs", compile="graphs", on_cuda_only=True),
    Way("float32, --compile full", compile="full"),
    Way("bfloat16 weights", torch.bfloat16),
    Way("bfloat16 weights, --compile graphs", torch.bfloat16, "graphs", on_cuda_only=True),
    Way("bfloat16 weights, --compile full", torch.bfloat16, "full"),
    Way("float16 weights", torch.float16, on_cuda_only=True),
)


@dataclass(frozen=True)
class Task:
    """The images that every way samples."""

    weights: Path
    settings: Settings
    sampling: SamplingConfig
    prompts: list[str]
    seeds: list[int]
    device: torch.device


@dataclass(frozen=True)
class Sampled:
    """The results of one way, on the CPU in float32."""

    images: Tensor
    """(n 3 h w) in [-1, 1]"""
    eps: Tensor
    """(n 4 h/8 w/8), of a single call."""


@dataclass(frozen=True)
class Difference:
    """The difference of a way's images from those of the plain way."""

    mean: float
    """Of all images and colours, in levels of 8 bits; so is `most`."""
    most: float
    psnr: float
    """In dB, of the worst image; infinite if all bits are equal."""
    call: float
    """The largest difference of a single call's numbers, relative to the largest number."""


@torch.inference_mode()
def sample(way: Way, task: Task) -> Sampled:
    """All images, as the commands sample them, then a single call on noise."""
    slot = ModelSlot(Compute(task.device, way.dtype))
    ldm = slot.use(read_checkpoint(task.weights), task.settings)
    parts = [task.seeds] if way.together else [[seed] for seed in task.seeds]
    compile_unet(ldm, way.compile, len(parts) * task.sampling.num_steps)
    images, eps = [], []
    with tf32(products=way.tf32, convolutions=way.tf32):
        for seeds in parts:
            prompts = [task.prompts[task.seeds.index(seed)] for seed in seeds]
            context = torch.cat([slot.context(prompt) for prompt in prompts])
            nothing = slot.context("").expand(len(seeds), -1, -1)
            guidance = classifier_free(context, nothing, task.sampling.guidance_scale)
            images.append(sample_images(ldm, guidance, seeds, task.sampling))
            # The same call as a step's with guidance, types included, so that it is the captured one.
            shape = (len(seeds), *ldm.config.latent_shape(task.sampling.height, task.sampling.width))
            noise = draw_noise(shape, image_generators(seeds), ldm.device).repeat(2, 1, 1, 1)
            kind = torch.float32 if task.sampling.sampler == "dpm-solver" else torch.int64
            timesteps = torch.full((len(noise),), MIDDLE, dtype=kind, device=ldm.device)
            eps.append(ldm.predictor(Conditioning(torch.cat([nothing, context])))(noise, timesteps)[len(seeds) :].cpu())
    return Sampled(torch.cat(images), torch.cat(eps))


def difference(sampled: Sampled, plain: Sampled) -> Difference:
    """See `Difference`."""
    apart = sampled.images - plain.images
    call = (sampled.eps - plain.eps).abs().max() / plain.eps.abs().max()
    levels = LEVELS * apart.abs()
    return Difference(float(levels.mean()), float(levels.max()), float(psnr(apart).min()), float(call))


def parse(arguments: Sequence[str] | None) -> tuple[Task, list[Way], Path | None, Path | None]:
    """The flags: prompts, ways, and the files of the sheet and the figures."""
    parser = script_parser(__doc__, targets=False)
    parser.add_argument("--ckpt-path", type=Path, default=EMBEDDED, help="default: the embedded tiny model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", nargs="+", default=[*PROMPTS], metavar="PROMPT")
    parser.add_argument("--seed", type=seed, default=42, help="of the first image; the next has the next (default: 42)")
    parser.add_argument("--sampler", choices=("ddim", "plms", "dpm-solver"), help="default: the model's")
    parser.add_argument("--steps", type=STEPS, help="default: the model's")
    parser.add_argument("--hw", type=SIDE, metavar="PX", help="height and width; default: the model's")
    parser.add_argument("--without-compile", action="store_true", help="skip --compile full, which takes minutes")
    parser.add_argument("--sheet", type=Path, help="write the images to this file, .png or .jpg")
    options = parser.parse_args(arguments)
    device = parse_device(options.device)
    settings = settings_of(read_checkpoint(options.ckpt_path), None)[1]
    model = settings.sampling
    sampling = SamplingConfig(
        options.hw or model.height,
        options.hw or model.width,
        options.sampler or model.sampler,
        options.steps or model.num_steps,
        model.guidance_scale,
    )
    seeds = [options.seed + index for index in range(len(options.prompts))]
    task = Task(options.ckpt_path, settings, sampling, options.prompts, seeds, device)
    ways = [
        way
        for way in FAST
        if (device.type == "cuda" or not way.on_cuda_only) and not (options.without_compile and way.compile == "full")
    ]
    return task, ways, options.sheet, options.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Samples, compares and prints."""
    task, ways, sheet, json = parse(arguments)
    sampling = task.sampling
    say(f"{machine()}\n{sampling.sampler}, {sampling.num_steps} steps, {sampling.width} x {sampling.height} pixels, "
        f"{len(task.prompts)} images\n")  # fmt: skip
    sampled = {way.name: sample(way, task) for way in tqdm([PLAIN, *ways], desc="sampling", unit="way")}
    plain = sampled.pop(PLAIN.name)
    found = {name: difference(one, plain) for name, one in sampled.items()}
    header = [f"against {PLAIN.name}", "mean, levels of 255", "most", "PSNR of the worst image, dB", "one UNet call"]
    rows = [[name, digits(one.mean), digits(one.most), f"{one.psnr:.1f}", f"{one.call:.1e}"]
            for name, one in found.items()]  # fmt: skip
    say(table(header, rows))
    if sheet:
        cells = [[to_image(image) for image in one.images] for one in (plain, *sampled.values())]
        labels = [PLAIN.name, *(f"{name}\n{one.psnr:.0f} dB" for name, one in found.items())]
        save_sheet(sheet, labelled_grid(cells, labels, task.prompts))
    figures = {"machine": machine(), "sampling": sampling, "prompts": task.prompts, "seeds": task.seeds}
    write_json(json, {**figures, "differences": found})
    return 0


if __name__ == "__main__":
    run_script(main)
