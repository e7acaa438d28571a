"""Trains a model to edit images by instruction, from one that samples images from prompts."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ldm.checkpoint.loading import load_part
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer
from ldm.commands.train.checks import with_inputs_of
from ldm.commands.train.encoded import encoded
from ldm.commands.train.run import TrainingRun
from ldm.data.images import fit_image, read_image, save_png, to_image, to_tensor
from ldm.diffusion.editing import edit_guidance
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import sample_images
from ldm.nn.tokenizer import load_tokenizer
from ldm.report.grid import labelled_grid
from ldm.runtime.compiling import step_capture
from ldm.runtime.devices import explain_out_of_memory
from ldm.runtime.tokenizers import NAME
from ldm.training.edits import EditTraining, widen_input
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)

SEEDS = 3
"""Edits of each pair on a sheet."""


def train_edit(run: TrainingRun) -> None:
    """Trains it to the last update."""
    config = run.configured(run.settings.edit_training)
    log.info("%d pairs of images in %s", len(run.pairs), run.options.image_dir)
    file = read_checkpoint(run.options.ckpt_path)
    paths = [*(pair.after for pair in run.pairs), *(pair.before for pair in run.pairs)]
    moments = encoded(run, file, paths, config.size, config.flip)
    ldm = _build_model(run, file)
    instructions = [pair.instructions for pair in run.pairs]
    module = EditTraining(ldm, moments, instructions, config, run.options.seed, run.options.workers)
    shown = run.pairs[: config.sample_pairs]
    before, after = (
        [to_tensor(fit_image(read_image(path, config.size), config.size, config.size)) for path in some]
        for some in ([pair.before for pair in shown], [pair.after for pair in shown])
    )

    dtype, capture = run.compute.autocast_dtype, step_capture(run.devices, run.options.compile)
    fit_options = FitOptions(run.directory, run.devices, dtype, run.options.logger, capture)

    def save(module: EditTraining, step: int) -> None:
        with module.average.swapped_in():
            info, dtype = run.info(step, run.yaml), SAVE_DTYPES[run.options.save_dtype]
            fit_options.writer.put(checkpoint_writer(run.checkpoint_path(step), module.ldm, info, dtype))
            if shown:
                _show(run, module, before, after, [pair.instructions[0] for pair in shown], step)

    with explain_out_of_memory("a smaller --batch-size needs less"):
        fit(module, fit_options, save)


def _build_model(run: TrainingRun, file: CheckpointFile) -> LatentDiffusion:
    """The model of `--ckpt-path` with its tokenizer, and input channels for the image to edit."""
    config = run.settings.model
    torch.manual_seed(run.options.seed)
    tokenizer = load_tokenizer(run.directory / NAME, config.text_encoder.max_position_embeddings)
    ldm = LatentDiffusion(with_inputs_of(config, file), tokenizer)
    for part in ("unet", "text_encoder", "autoencoder"):
        load_part(getattr(ldm, part), part, file)
    widen_input(ldm, config)
    return ldm


@torch.no_grad()
def _show(
    run: TrainingRun,
    module: EditTraining,
    before: list[Tensor],
    after: list[Tensor],
    instructions: list[str],
    step: int,
) -> None:
    """Writes `samples/step-<n>.png`: a row per pair, its two images and then edits, of the same seeds at every step."""
    ldm, defaults, seeds = module.ldm, run.settings.sampling, list(range(SEEDS))
    sampling = replace(defaults, height=module.config.size, width=module.config.size)
    rows = []
    with run.compute.autocast():
        uncond_context = ldm.encode_prompts([""])
        for image, instruction in zip(before, instructions, strict=True):
            latents = ldm.encode_posterior(image[None]).mean.float()
            context = ldm.encode_prompts([instruction] * SEEDS)
            guidance = edit_guidance(context, uncond_context, latents, sampling.guidance_scale, defaults.image_scale)
            rows.append(sample_images(ldm, guidance, seeds, sampling))
    cells = [[to_image(one) for one in (*pair, *row)] for *pair, row in zip(before, after, rows, strict=True)]
    sheet = labelled_grid(cells, instructions, ["image", "of the data set", *(f"seed {seed}" for seed in seeds)])
    save_png(run.directory / "samples" / f"step-{step:06d}.png", sheet)
    module.run_log.log_image("samples", sheet, step)
