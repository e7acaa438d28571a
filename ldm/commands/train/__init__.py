"""Training, stage by stage: tokenizer, autoencoder, text encoder and UNet, judge; edits; and publishing."""

import argparse
import logging
from pathlib import Path

from ldm.commands.app import logged, resume_hint_on_error
from ldm.commands.cluster import refuse_copies
from ldm.commands.options.train import refuse_flags_without_effect
from ldm.commands.resuming import end_resume_state, step_files
from ldm.commands.train.autoencoder import train_autoencoder
from ldm.commands.train.diffusion import train_diffusion
from ldm.commands.train.edit import train_edit
from ldm.commands.train.judge import train_judge
from ldm.commands.train.publish import publish
from ldm.commands.train.run import is_done, open_run, resumed_training_options
from ldm.commands.train.tokenizer import write_tokenizer
from ldm.processes import is_helper_process
from ldm.terminal import command_line

log = logging.getLogger(__name__)

WITHOUT_RUN = {"tokenizer": write_tokenizer, "publish": publish}
"""The stages that take seconds and have no run directory."""
STAGES = {
    "autoencoder": train_autoencoder,
    "diffusion": train_diffusion,
    "edit": train_edit,
    "judge": train_judge,
}


@logged
def train(options: argparse.Namespace) -> None:
    """Runs or resumes a stage."""
    refuse_copies()
    refuse_flags_without_effect(options)
    if options.stage in WITHOUT_RUN:
        WITHOUT_RUN[options.stage](options)
        return
    if options.resume_dir:
        options = resumed_training_options(options)
        if is_done(options):
            _log_next_command(options, options.resume_dir)
            return
    run = open_run(options)
    log.info("run: %s", run.directory)
    with resume_hint_on_error():
        STAGES[options.stage](run)
    if not is_helper_process():
        end_resume_state(run.directory, drop=options.drop_resume_state)
        _log_next_command(options, run.directory)


def _log_next_command(options: argparse.Namespace, run_dir: Path) -> None:
    """Logs what to do with the last checkpoint of a finished run."""
    for last in [*step_files(run_dir).values()][-1:]:  # the user may have deleted them all
        title, *words = {
            "autoencoder": ("the next stage", "train.py", "diffusion", "--autoencoder", last, "-i", options.image_dir),
            "diffusion": ("try it", "txt2img.py", "--ckpt-path", last),
            "edit": ("try it", "img2img.py", "-i", "photo.png", "-p", "make it red", "--ckpt-path", last),
            "judge": ("measure how good it is", "benchmarks/judge.py", "--judge", last),
        }[options.stage]
        log.info("%s:\n  %s", title, command_line(*map(str, words)))
