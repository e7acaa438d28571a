"""DreamBooth from photos to checkpoints: class images, encoding, training, previews, report."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ldm.background import BackgroundWriter
from ldm.checkpoint.embedding_saving import embedding_writer
from ldm.checkpoint.learned_words import as_text
from ldm.checkpoint.lora_saving import lora_writer
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer
from ldm.commands.app import begin_run, logged, resume_hint_on_error
from ldm.commands.cluster import refuse_copies
from ldm.commands.dreambooth.building import build_module
from ldm.commands.dreambooth.directory import open_run
from ldm.commands.dreambooth.images import sample_class_images
from ldm.commands.dreambooth.lora import lora_notes
from ldm.commands.dreambooth.plan import RunPlan, find_moved, plan_run, refuse_before_photos, resumed_run_options
from ldm.commands.dreambooth.preflight import SHEET, check, report_photos, write_sheet
from ldm.commands.dreambooth.previews import Previews
from ldm.commands.photo_sources import with_folders
from ldm.commands.record import plain, versions
from ldm.commands.resuming import end_resume_state, is_finished
from ldm.config import read_yaml, to_yaml
from ldm.files import write_text
from ldm.interruption import finish_first
from ldm.processes import is_helper_process
from ldm.prompts import TOKEN
from ldm.runtime.compiling import step_capture
from ldm.runtime.devices import explain_out_of_memory
from ldm.terminal import Lines, command_line
from ldm.training.dreambooth import DreamBooth
from ldm.training.embedding import learned_vectors, vector_movement
from ldm.training.movement import weight_movement
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)

REPORT = "report.yaml"
"""Written after the last update: how many there were, and how far each part's weights moved."""


@logged
def dreambooth(options: argparse.Namespace) -> Path:
    """Runs or resumes a training; returns the run directory. With --check only looks, and returns a contact sheet."""
    refuse_copies()
    refuse_before_photos(options)
    options, origins = with_folders(options)
    if options.resume_dir:
        options = resumed_run_options(options)
        begin_run(options.resume_dir, command_line("dreambooth.py", "-r", options.resume_dir))
        if _is_finished(options):
            return Path(options.resume_dir)
        options = find_moved(options)
    plan = plan_run(options, origins)
    if options.check:
        return check(plan)
    if not options.resume_dir and not is_helper_process():
        report_photos(plan)
    with finish_first():  # a run that has begun can be resumed
        run_dir = open_run(plan)
        begin_run(run_dir, command_line("dreambooth.py", "-r", run_dir))
    log.info("run: %s", run_dir)
    with resume_hint_on_error():
        if not is_helper_process() and not (run_dir / SHEET).exists():
            write_sheet(plan.photo_verdicts, run_dir / SHEET)
        class_images = sample_class_images(plan)
        with explain_out_of_memory(_needs_less(plan)):
            module = build_module(plan, class_images)
            previews = Previews(plan, run_dir)
            if not is_helper_process():
                previews.sample_untrained(module)
            dtype, capture = plan.training_autocast_dtype, step_capture(plan.devices, plan.options.compile)
            fit_options = FitOptions(run_dir, plan.devices, dtype, plan.options.logger, capture)
            fit(module, fit_options, _saver(plan, run_dir, previews, fit_options.writer))
        if not is_helper_process():
            _report(plan, run_dir, module)
    return run_dir


def _is_finished(options: argparse.Namespace) -> bool:
    """Whether a run to resume is finished, which is logged. Raises `UserError` if its resume state was lost."""
    directory: Path = options.resume_dir
    new_run = ["dreambooth.py", "-c", options.class_name, "-i", options.instance_img_dir]
    if options.lora or options.train == "embedding":  # none can begin with adapters or vectors
        new_run = []
    again = ["dreambooth.py", "-r", directory]
    report = directory / REPORT
    is_reported = report.is_file() and read_yaml(report).get("updates") == options.iterations
    is_done = is_finished(
        directory, options.iterations, again, new_run, drop=options.drop_resume_state, is_complete=is_reported
    )
    if is_done:
        _log_next_command(directory)
    return is_done


def _needs_less(plan: RunPlan) -> str:
    """Advice if the memory is too small; for a resumed run only what changes no number."""
    if not plan.options.resume_dir:
        return "a smaller --vram, --hw or --batch-size needs less"
    if plan.config.gradient_checkpointing == "all":
        return "resume the run on a device that has more (--devices)"
    return "--gradient-checkpointing needs less and changes no number"


def _saver(
    plan: RunPlan, run_dir: Path, previews: Previews, writer: BackgroundWriter
) -> Callable[[DreamBooth, int], None]:
    """A function that has a step's checkpoint written in the background, and samples the previews."""
    options = {name: value.name if isinstance(value, Path) else value for name, value in vars(plan.options).items()}
    options["embedding"] = [str(one) for one in plan.embeddings] or None
    info = CheckpointInfo(
        config=plan.yaml,
        class_name=plan.subject.class_name,
        instance_prompt=plan.subject.instance_prompt,
        class_prompt=plan.subject.class_prompt,
        seed=plan.options.seed,
        base=plan.base.name,
        base_sha256=plan.base_sha256,
        tokenizer=plan.tokenizer_digest,
        words=as_text(plan.embeddings),
        options=plain(options),  # a checkpoint that is shared shows no directory of this machine
        versions=versions(),
    )
    notes = lora_notes(plan, info, run_dir.name) if plan.config.lora else {}
    if plan.config.train == "embedding":
        notes = modelspec(info, plan.settings.model, run_dir.name, "textual-inversion")

    def save(module: DreamBooth, step: int) -> None:
        path, now = run_dir / f"step-{step:05d}.safetensors", replace(info, step=step)
        dtype = SAVE_DTYPES[plan.options.save_dtype]
        with module.saved_weights():
            if plan.config.lora:
                writer.put(lora_writer(path, module.ldm, now, dtype, notes))
            elif plan.config.train == "embedding":
                writer.put(embedding_writer(path, learned_vectors(module.ldm), TOKEN, now, dtype, notes))
            else:
                writer.put(checkpoint_writer(path, module.ldm, now, dtype))
            previews.sample(module, step)

    return save


def _report(plan: RunPlan, run_dir: Path, module: DreamBooth) -> None:
    """Reports how far each part moved, and how to compare the checkpoints."""
    updates = plan.config.iterations
    start = module.first_vectors
    with module.saved_weights():
        moved = weight_movement(module.ldm, plan.base) if start is None else vector_movement(module.ldm, start)
    write_text(run_dir / REPORT, to_yaml({"updates": updates, "relative_movement": moved}))
    lines = Lines(f"  {group:24s} {100 * share:8.4f} %" for group, share in moved.items())
    log.info("%d updates made. The weights moved by\n%s", updates, lines)
    end_resume_state(run_dir, drop=plan.options.drop_resume_state)
    _log_next_command(run_dir)


def _log_next_command(run_dir: Path) -> None:
    log.info("compare the checkpoints with\n  %s", command_line("txt2img.py", "--ckpt-path", run_dir))
