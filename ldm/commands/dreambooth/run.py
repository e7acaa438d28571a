"""DreamBooth from photos to checkpoints: class images, encoding, training, previews, report."""

import argparse
import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ldm.background import BackgroundWriter
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer
from ldm.commands.app import begin_run, logged, mistakes_to_continue_after
from ldm.commands.cluster import refuse_copies
from ldm.commands.dreambooth.class_images import (
    ClassImageJob,
    class_image_cache,
    drawing_precision,
    sample_class_images,
)
from ldm.commands.dreambooth.encoding import encode_files, encode_photos
from ldm.commands.dreambooth.opening import Run, open_run
from ldm.commands.dreambooth.plan import found_again, plan_run, resumed_run_options
from ldm.commands.dreambooth.previews import Previews
from ldm.commands.record import plain, versions
from ldm.commands.resume_state import end_resume_state
from ldm.commands.resuming import is_finished_without_state
from ldm.config import to_yaml
from ldm.files import write_text
from ldm.interruption import finish_first
from ldm.leftovers import remove_leftovers
from ldm.processes import is_helper_process, own_rank
from ldm.runtime.compiling import step_capture
from ldm.runtime.models import ModelSlot
from ldm.runtime.out_of_memory import explain_out_of_memory
from ldm.shell import command_line
from ldm.terminal import Lines
from ldm.training.dreambooth import DreamBooth
from ldm.training.movement import weight_movement
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)


@logged
def dreambooth(options: argparse.Namespace) -> Path:
    """Runs or continues a training; returns the run's directory."""
    refuse_copies()
    if options.resume_dir:
        options = resumed_run_options(options)
        begin_run(options.resume_dir, command_line("dreambooth.py", "-r", options.resume_dir))
        anew = ["dreambooth.py", "-c", options.class_name, "-i", options.instance_img_dir]
        if is_finished_without_state(options.resume_dir, options.iterations, anew):
            return Path(options.resume_dir)
        options = found_again(options)
    plan = plan_run(options)
    with finish_first():  # a run that is begun can be continued
        run = open_run(plan, options.output_dir)
        begin_run(run.directory, command_line("dreambooth.py", "-r", run.directory))
    log.info("run: %s", run.directory)
    with mistakes_to_continue_after():
        _train(run)
    return run.directory


def _train(run: Run) -> None:
    """Class images, encoding, previews, training, report."""
    class_images = _class_images(run)
    with explain_out_of_memory(_needs_less(run)):
        module = _build_module(run, class_images)
        previews = Previews(
            run.directory, run.subject, run.config.preview_prompts, run.sampling, run.options.seed, run.compute
        )
        if not is_helper_process():
            previews.sample_untrained(module)
        dtype, record = run.training_autocast_dtype, step_capture(run.devices, run.options.compile)
        where = FitOptions(run.directory, run.devices, dtype, run.options.logger, record)
        fit(module, where, _saver(run, previews, where.writer))
    if not is_helper_process():
        _report(run, module)


def _needs_less(run: Run) -> str:
    """What may be done about memory that is too small: a run that goes on keeps its numbers."""
    if not run.options.resume_dir:
        return "a smaller --vram, --hw or --batch-size needs less"
    if run.config.gradient_checkpointing == "all":
        return "continue the run on a device that has more (--devices)"
    return "--gradient-checkpointing needs less and changes no number"


def _class_images(run: Run) -> list[Path]:
    """The class images; those not there yet are drawn, on all devices."""
    count = run.config.class_img_count
    if count == 0:
        return []
    cache = class_image_cache(run, run.directory.parent, run.options.output_dir)
    if not is_helper_process():
        remove_leftovers(cache.root)
    missing = cache.missing(count)
    if missing and not is_helper_process():
        batch_size = run.options.generation_batch_size
        log.info("drawing %d of %d class images '%s' into %s", len(missing), count, cache.prompt, cache.directory)
        how = run.devices, drawing_precision(run), run.options.compile
        sample_class_images(ClassImageJob(cache, missing, batch_size, run.base, run.tokenizer, run.settings, *how))
    else:
        log.info("%d class images '%s' from %s", count, cache.prompt, cache.directory)
    return cache.paths(count)


def _build_module(run: Run, class_images: list[Path]) -> DreamBooth:
    """Loads the base weights and encodes all images."""
    compute = replace(run.compute, device=run.devices[own_rank() % len(run.devices)])
    ldm = ModelSlot(compute).use(read_checkpoint(run.base), run.settings, run.tokenizer)
    size, flip = (run.sampling.height, run.sampling.width), run.config.flip
    instance_moments = encode_photos(ldm.autoencoder, run.instance_images, flip, compute)
    class_moments = encode_files(ldm.autoencoder, class_images, size, flip, compute) if class_images else None
    gc.collect()
    return DreamBooth(ldm, run.subject, instance_moments, class_moments, run.config, run.options.seed)


def _saver(run: Run, previews: Previews, writer: BackgroundWriter) -> Callable[[DreamBooth, int], None]:
    """Writes a checkpoint, and draws its previews meanwhile."""
    info = CheckpointInfo(
        config=run.yaml,
        class_name=run.subject.class_name,
        instance_prompt=run.subject.instance_prompt,
        class_prompt=run.subject.class_prompt,
        seed=run.options.seed,
        base=run.base.name,
        base_sha256=run.base_sha256,
        tokenizer=run.tokenizer_digest,
        options=plain({name: _shareable(value) for name, value in vars(run.options).items()}),
        versions=versions(),
    )

    def save(module: DreamBooth, step: int) -> None:
        path = run.directory / f"step-{step:05d}.safetensors"
        writer.put(checkpoint_writer(path, module.ldm, replace(info, step=step), SAVE_DTYPES[run.options.save_dtype]))
        previews.draw(module, step)

    return save


def _shareable(value: object) -> object:
    """A path's last name: whoever is given the checkpoint needn't know whose directory it came from."""
    return value.name if isinstance(value, Path) else value


def _report(run: Run, module: DreamBooth) -> None:
    """Says how far each part moved, and how to compare the checkpoints."""
    moved, updates = weight_movement(module.ldm, run.base), run.config.iterations
    write_text(run.directory / "report.yaml", to_yaml({"updates": updates, "relative_movement": moved}))
    lines = Lines(f"  {group:24s} {100 * share:8.4f} %" for group, share in moved.items())
    log.info("%d updates made. The weights moved by\n%s", updates, lines)
    end_resume_state(run.directory, drop=run.options.drop_resume_state)
    log.info("compare the checkpoints with\n  %s", command_line("txt2img.py", "--ckpt-path", run.directory))
