"""txt2img, img2img and evaluate: samples with one checkpoint, or compares many, each column from the same noise."""

import argparse
import logging
from dataclasses import asdict, replace
from pathlib import Path

from ldm.commands.app import logged, resume_hint_on_error
from ldm.commands.record import section
from ldm.commands.sampling.loop import sample_rows
from ldm.commands.sampling.photos import INIT_IMAGE
from ldm.commands.sampling.planning import Call, plan_call
from ldm.commands.sampling.scoring import scored
from ldm.files import counted
from ldm.interruption import Stopped
from ldm.report.comparison import ComparisonData, Group, RunOptions
from ldm.report.files import write_results
from ldm.report.summary import summary
from ldm.runtime.devices import explain_out_of_memory
from ldm.terminal import command_line
from ldm.training.dreambooth_config import Subject
from ldm.user_files import resolved

log = logging.getLogger(__name__)


@logged
def txt2img(options: argparse.Namespace) -> Path:
    """Samples images from prompts; returns the output directory."""
    return _run(options, "txt2img")


@logged
def img2img(options: argparse.Namespace) -> Path:
    """Samples images from prompts and an initial image; returns the output directory."""
    return _run(options, "img2img")


@logged
def evaluate(options: argparse.Namespace) -> Path:
    """Samples what scores need, scores the checkpoints and recommends one; returns the output directory."""
    return _run(options, "evaluate")


def _run(options: argparse.Namespace, command: str) -> Path:
    call = plan_call(options, command)
    if call.results:
        if call.results.scores:
            _log_scores(call.results)
        log.info("nothing is missing: %s and index.html are up to date in %s", _count(call.results), call.directory)
        return call.directory
    try:
        with resume_hint_on_error(), explain_out_of_memory("a smaller --batch-size or --hw needs less"):
            sample_rows(call.plan, call.job, call.compute, call.directory)
            results = _finish(call, score=call.encoder is not None)
    except (Stopped, KeyboardInterrupt):
        if results := _finish(call, score=False):
            log.warning("interrupted; what is there: %s", results)
        raise
    log.info("%s", results)
    return call.directory


def _finish(call: Call, *, score: bool) -> str:
    """Scores and writes the results; returns what was written and where, empty if there is no image."""
    comparison = comparison_of(call, score=score)
    if not comparison.rows:
        return ""
    if score:
        assert call.encoder is not None
        photos = [[photo.image for photo in group] for group in call.photos]
        comparison = scored(comparison, call.directory, photos, call.encoder)
        _log_scores(comparison)
    *others, last = write_results(call.directory, comparison, of_directory=call.root is not None)
    return f"{', '.join([_count(comparison), *others])} and {last} in {call.directory}"


def _log_scores(comparison: ComparisonData) -> None:
    """Logs the scores, the recommendations, and the commands that sample with the recommended checkpoints."""
    log.info("%s", summary(comparison))
    for group in comparison.groups:
        if group.recommendation and group.recommendation.row is not None:
            chosen = comparison.rows[group.recommendation.row].checkpoint
            prompt = f"{Subject(group.subject).instance_prompt} in the snow"
            log.info(
                "sample with it, any prompt:\n  %s", command_line("txt2img.py", "--ckpt-path", chosen, "-p", prompt)
            )


def comparison_of(call: Call, *, score: bool) -> ComparisonData:
    """The images that are there, without scores; rows without any are left out. `score`: they are scored next."""
    plan = call.plan
    cells = [[cell if plan.is_there(call.directory, cell) else None for cell in row.cells] for row in plan.rows]
    rows = [replace(row, cells=line) for row, line in zip(plan.rows, cells, strict=True) if any(line)]
    there, planned = sum(cell is not None for line in cells for cell in line), len(plan.keys)
    unfinished = ""
    if there < planned:
        checkpoints = counted(len(plan.rows), "checkpoint")
        unfinished = f"{there} of {counted(planned, 'image')} are there, from {len(rows)} of {checkpoints}."
    elif call.encoder and not score:
        unfinished = "The images are not scored yet."
    words = dict.fromkeys(str(word) for one in plan.checkpoints for word in one.embeddings if word.path != one.path)
    runs = {row.run: one.info.options for row, one in zip(plan.rows, plan.checkpoints, strict=True) if row.run}
    return ComparisonData(
        title=resolved(call.root or call.weights).name,
        command=str(call.record.get("command", "")),
        created=str(call.record.get("started", "")),
        columns=plan.columns,
        rows=rows,
        groups=[
            Group(group[-1].info.class_name, [photo.copy for photo in photos])
            for group, photos in zip(plan.groups, call.photos, strict=True)
        ],
        runs=[RunOptions(name, options) for name, options in runs.items()],
        sampling={
            **asdict(call.job.sampling),
            **call.job.reading.key(),
            "negative_prompt": call.job.negative_prompt,
            **({"lora": ", ".join(map(str, call.job.loras))} if call.job.loras else {}),
            **({"embedding": ", ".join(words)} if words else {}),
        },
        versions={name: str(version) for name, version in section(call.record, "versions").items()},
        init_image=INIT_IMAGE if call.job.init else "",
        unfinished=unfinished,
        resume_command=call.resume_command if unfinished else "",
        digest="" if unfinished else call.digest,
    )


def _count(comparison: ComparisonData) -> str:
    return counted(sum(cell is not None for row in comparison.rows for cell in row.cells), "image")
