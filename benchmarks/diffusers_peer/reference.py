"""The reference's whole recipe on diffusers' modules, as a process, with which `recipe.py` compares ours.

    python benchmarks/diffusers_peer/reference.py --model diffusers-sd-v1 --photos photos --output out

Class images by the pipeline in half precision (JPEG, batches of 4, 50 steps, guidance), then the training loop of
`benchmarks/diffusers_peer/training.py`; every so many updates the full training state is written, at the end the
pipeline. `--tuned` tunes both, the pipeline as `benchmarks/sampling.py` does.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

from benchmarks.diffusers_peer.networks import Networks  # noqa: E402
from benchmarks.diffusers_peer.sampling import COMPILE_MODES, sample_class_images, tune_pipeline  # noqa: E402
from benchmarks.diffusers_peer.training import Reference, ReferenceOptions, build_accelerator  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.training.dreambooth_config import Subject  # noqa: E402

SAMPLE_BATCH = 4
DTYPES = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def draw_class_images(options: argparse.Namespace, prompt: str, directory: Path) -> None:
    """Samples those that are missing."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        options.model, torch_dtype=DTYPES[options.precision], safety_checker=None, local_files_only=True
    ).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    if options.tuned:
        tune_pipeline(pipeline, options.compile)
    for first in range(0, options.class_images, SAMPLE_BATCH):
        count = min(SAMPLE_BATCH, options.class_images - first)
        sample_class_images(pipeline, prompt, count, options.steps, options.pixels, directory, first)


def load_networks(model: Path, device: str) -> Networks:
    """In float32."""
    return Networks(
        unet=UNet2DConditionModel.from_pretrained(model, subfolder="unet").to(device),
        vae=AutoencoderKL.from_pretrained(model, subfolder="vae"),
        text_encoder=CLIPTextModel.from_pretrained(model, subfolder="text_encoder").to(device),
        tokenizer=CLIPTokenizer.from_pretrained(model, subfolder="tokenizer"),
    )


def train(options: argparse.Namespace, subject: Subject, class_images: Path) -> None:
    """Updates, checkpoints, and the pipeline at the end."""
    networks = load_networks(options.model, options.device)
    dtype = None if options.precision == "full" else DTYPES[options.precision]
    accelerator = build_accelerator(torch.device(options.device), dtype)
    chosen = ReferenceOptions(
        train_text_encoder=options.train_text_encoder, precomputed_text=options.tuned, tf32=options.tuned
    )
    scheduler = DDPMScheduler.from_pretrained(options.model, subfolder="scheduler")
    reference = Reference(networks, scheduler, chosen, accelerator, (subject.instance_prompt, subject.class_prompt))
    reference.begin(options.photos, class_images, options.pixels)
    for step in range(1, options.iterations + 1):
        reference.step()
        if step % options.save_every == 0:
            accelerator.save_state(str(options.output / f"checkpoint-{step}"))
    unwrapped: dict[str, Any] = {"unet": accelerator.unwrap_model(reference.trained[0], keep_fp32_wrapper=False)}
    if options.train_text_encoder:
        unwrapped["text_encoder"] = accelerator.unwrap_model(reference.trained[1], keep_fp32_wrapper=False)
    pipeline = StableDiffusionPipeline.from_pretrained(
        options.model, safety_checker=None, local_files_only=True, **unwrapped
    )
    pipeline.save_pretrained(options.output / "pipeline")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a directory that diffusers' save_pretrained wrote")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--class-name", default="can")
    parser.add_argument("--class-images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50, help="of each class image")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--train-text-encoder", action="store_true")
    parser.add_argument("--tuned", action="store_true", help="pipeline tuned, text embeddings ahead, TF32")
    parser.add_argument(
        "--compile", choices=COMPILE_MODES, default="off", help="torch.compile's mode of --tuned sampling"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=DTYPES, default="full")
    options = parser.parse_args(arguments)

    subject = Subject(options.class_name)
    class_images = options.output / "class"
    with tf32(products=options.tuned):
        draw_class_images(options, subject.class_prompt, class_images)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        train(options, subject, class_images)


if __name__ == "__main__":
    main()
