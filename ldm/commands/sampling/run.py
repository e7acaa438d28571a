"""txt2img, img2img and evaluate: draws with one checkpoint or compares many, each column from the same noise."""

import argparse
import logging
from pathlib import Path

from ldm.commands.app import logged, mistakes_to_continue_after
from ldm.commands.sampling.planning import Call, plan_call
from ldm.commands.sampling.results import comparison_of, write_results
from ldm.commands.sampling.rows_sampling import sample_rows
from ldm.commands.sampling.scoring import scored
from ldm.evaluation.encoders import Encoder
from ldm.files import counted
from ldm.interruption import Stopped
from ldm.report.summary import summary
from ldm.runtime.devices import explain_out_of_memory

log = logging.getLogger(__name__)


@logged
def txt2img(options: argparse.Namespace) -> Path:
    """Draws from prompts; returns the directory."""
    return _draw(options, "txt2img")


@logged
def img2img(options: argparse.Namespace) -> Path:
    """Draws from prompts and an image; returns the directory."""
    return _draw(options, "img2img")


@logged
def evaluate(options: argparse.Namespace) -> Path:
    """Draws what scores need, scores the checkpoints and recommends one; returns the directory."""
    return _draw(options, "evaluate")


def _draw(options: argparse.Namespace, command: str) -> Path:
    call = plan_call(options, command)
    try:
        with mistakes_to_continue_after(), explain_out_of_memory("a smaller --batch-size or --hw needs less"):
            sample_rows(call.plan.rows, call.job, call.compute, call.directory)
            done = _finish(call, call.encoder)
    except (Stopped, KeyboardInterrupt):
        if written := _finish(call):
            log.warning("interrupted; what is there: %s", written)
        raise
    log.info("%s", done)
    return call.directory


def _finish(call: Call, encoder: Encoder | None = None) -> str:
    """Scores and writes the results; says what was written and where, or nothing if there is no image."""
    comparison = comparison_of(call)
    count = sum(cell is not None for row in comparison.rows for cell in row.cells)
    if not count:
        return ""
    if encoder:
        size = call.job.sampling.height, call.job.sampling.width
        photos = [[photo.path for photo in group] for group in call.photos]
        comparison = scored(comparison, call.directory, photos, size, encoder)
        log.info("%s", summary(comparison))
    *others, last = write_results(call.directory, comparison, is_sweep=call.root is not None)
    what = ", ".join([counted(count, "image"), *others])
    return f"{what} and {last} in {call.directory}"
