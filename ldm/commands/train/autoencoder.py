"""The first stage: trains the autoencoder."""

import logging

import torch

from ldm.checkpoint.loading import load_part
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, part_writer
from ldm.commands.train.run import TrainingRun
from ldm.data.images import fit_image, read_image, save_png, to_image, to_tensor
from ldm.nn.autoencoder import AutoencoderKL
from ldm.runtime.devices import explain_out_of_memory
from ldm.training.autoencoder import AutoencoderTraining, initialise, psnr
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)

SHOWN = 12
"""Images on a sheet: originals above, reconstructions below."""


def train_autoencoder(run: TrainingRun) -> None:
    """Trains it to the last update."""
    config = run.configured(run.settings.autoencoder_training)
    paths = [image.path for image in run.images]
    log.info("%d images in %s", len(paths), run.options.image_dir)
    torch.manual_seed(run.options.seed)
    autoencoder = AutoencoderKL(run.settings.model.autoencoder)
    initialise(autoencoder)
    if run.options.ckpt_path:
        load_part(autoencoder, "autoencoder", read_checkpoint(run.options.ckpt_path))
    module = AutoencoderTraining(autoencoder, paths, config, run.options.seed, run.options.workers)
    size = config.size
    shown = torch.stack([to_tensor(fit_image(read_image(p, size), size, size)) for p in paths[:SHOWN]])
    fit_options = FitOptions(run.directory, run.devices, run.compute.autocast_dtype, run.options.logger)

    def save(module: AutoencoderTraining, step: int) -> None:
        with module.average.swapped_in():
            info = run.info(step, run.yaml)
            dtype = SAVE_DTYPES[run.options.save_dtype]
            path = run.checkpoint_path(step)
            fit_options.writer.put(part_writer(path, module.autoencoder, "autoencoder", info, dtype))
            _show(run, module, shown, step)

    with explain_out_of_memory("a smaller --batch-size needs less"):
        fit(module, fit_options, save)


@torch.no_grad()
def _show(run: TrainingRun, module: AutoencoderTraining, shown: torch.Tensor, step: int) -> None:
    """Writes `samples/step-<n>.png` and logs the PSNR of the reconstructions in dB."""
    images = shown.to(module.device)
    with run.compute.autocast():
        decoded = module.autoencoder.decode(module.autoencoder.encode(images).mean).float()
    similarity = psnr(decoded.clamp(-1, 1) - images).mean()
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in (images, decoded)], dim=1)
    save_png(run.directory / "samples" / f"step-{step:06d}.png", to_image(sheet))
    module.run_log.log_image("originals and reconstructions", to_image(sheet), step)
    module.run_log.log_scalars({"psnr of the shown": similarity.item()}, step)
    log.info("step %d: the sheet's reconstructions have a PSNR of %.2f dB", step, similarity)
