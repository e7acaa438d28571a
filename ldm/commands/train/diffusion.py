"""The second stage: trains text encoder and UNet on the latents of a trained autoencoder."""

import copy
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ldm.checkpoint.loading import checkpoint_info, load_part
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer
from ldm.commands.train.encoded import encoded
from ldm.commands.train.run import TrainingRun
from ldm.config import build_config
from ldm.data.images import save_png, to_image
from ldm.data.latents import measure_scale_factor
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.nn.tokenizer import load_tokenizer
from ldm.report.grid import labelled_grid
from ldm.runtime.compiling import step_capture
from ldm.runtime.devices import explain_out_of_memory
from ldm.runtime.models import Settings, snapped_size
from ldm.runtime.tokenizers import NAME
from ldm.training.latent_diffusion import LatentDiffusionTraining, initialise
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)

SEEDS = 6
"""Images of each prompt on a sheet."""


def train_diffusion(run: TrainingRun) -> None:
    """Trains them to the last update."""
    config = run.configured(run.settings.diffusion_training)
    log.info("%d images with captions in %s", len(run.images), run.options.image_dir)
    file = read_checkpoint(run.options.autoencoder or run.options.ckpt_path)
    paths = [image.path for image in run.images]
    moments = encoded(run, file, paths, config.size, config.flip)
    yaml = _with_scale_factor(run, moments)
    ldm = _build_model(run, file, build_config(LatentDiffusionConfig, yaml["model"], "model"))
    captions = [image.captions for image in run.images]
    sampling = run.settings.sampling
    height, width = snapped_size(ldm.config, None, (sampling.height, sampling.width))
    sampling = replace(sampling, height=height, width=width)
    module = LatentDiffusionTraining(ldm, moments, captions, config, run.options.seed, run.options.workers)

    dtype, capture = run.compute.autocast_dtype, step_capture(run.devices, run.options.compile)
    fit_options = FitOptions(run.directory, run.devices, dtype, run.options.logger, capture)

    def save(module: LatentDiffusionTraining, step: int) -> None:
        with module.average.swapped_in():
            dtype = SAVE_DTYPES[run.options.save_dtype]
            path = run.checkpoint_path(step)
            fit_options.writer.put(checkpoint_writer(path, module.ldm, run.info(step, yaml), dtype))
            _show(run, module, sampling, step)

    with explain_out_of_memory("a smaller --batch-size needs less"):
        fit(module, fit_options, save)


def _with_scale_factor(run: TrainingRun, moments: np.ndarray) -> dict[str, Any]:
    """The model's YAML with the scale factor of these latents, or that of the `--ckpt-path` model."""
    yaml = copy.deepcopy(run.yaml)
    if run.options.ckpt_path is None:
        yaml["model"]["scale_factor"] = round(measure_scale_factor(moments), 5)
    elif own := checkpoint_info(read_checkpoint(run.options.ckpt_path)).config:
        yaml["model"]["scale_factor"] = build_config(
            Settings, own, f"{run.options.ckpt_path}: metadata"
        ).model.scale_factor
    log.info("scale factor: %g", build_config(Settings, yaml, "YAML").model.scale_factor)
    return yaml


def _build_model(run: TrainingRun, file: CheckpointFile, config: LatentDiffusionConfig) -> LatentDiffusion:
    """The model to train with its tokenizer, of random weights or those of `--ckpt-path`."""
    torch.manual_seed(run.options.seed)
    ldm = LatentDiffusion(config, load_tokenizer(run.directory / NAME, config.text_encoder.max_position_embeddings))
    initialise(ldm)
    load_part(ldm.autoencoder, "autoencoder", file)
    if run.options.ckpt_path:
        start = read_checkpoint(run.options.ckpt_path)
        load_part(ldm.unet, "unet", start)
        load_part(ldm.text_encoder, "text_encoder", start)
    return ldm


@torch.no_grad()
def _show(run: TrainingRun, module: LatentDiffusionTraining, sampling: SamplingConfig, step: int) -> None:
    """Writes `samples/step-<n>.png`: a row per prompt, a column per seed, the same at every step."""
    prompts = module.config.sample_prompts
    if not prompts:
        return
    ldm, seeds = module.ldm, list(range(SEEDS))
    with run.compute.autocast():
        uncond_context, *contexts = (ldm.encode_prompts([prompt] * len(seeds)) for prompt in ("", *prompts))
        rows = [
            sample_images(ldm, classifier_free(context, uncond_context, sampling.guidance_scale), seeds, sampling)
            for context in contexts
        ]
    cells = [[to_image(image) for image in row] for row in rows]
    sheet = labelled_grid(cells, prompts, [f"seed {seed}" for seed in seeds])
    save_png(run.directory / "samples" / f"step-{step:06d}.png", sheet)
    module.run_log.log_image("samples", sheet, step)
