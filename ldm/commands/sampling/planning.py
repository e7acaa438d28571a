"""Everything about a drawing that is decided and checked before anything is drawn."""

import argparse
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ldm.commands.app import begin_run
from ldm.commands.disk_space import refuse_without_space_for_images
from ldm.commands.options.common import MOST_IMAGES
from ldm.commands.options.resumable import DRAWING, flag_of
from ldm.commands.record import plain, write_record
from ldm.commands.resuming import RECORD, make_run_dir, refuse_another_size
from ldm.commands.sampling.base import BaseFinder
from ldm.commands.sampling.checkpoints import Checkpoint, find_to_sample, usable
from ldm.commands.sampling.continuing import PATHS, resumed_call_options, what_is_known
from ldm.commands.sampling.grouping import CheckpointGroup, group_checkpoints, with_bases
from ldm.commands.sampling.job import Job, job_from, sampling_flags
from ldm.commands.sampling.photos import Photo, copy_photos, photos_of_each, readable_photos
from ldm.commands.sampling.protocols import prompts_to_score
from ldm.commands.sampling.rows import Plan, plan_rows
from ldm.commands.sampling.runs import RunRecords, run_names
from ldm.commands.unfamiliar import warn_of_photos, warn_of_unknown_words
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.evaluation.encoders import Encoder, load_encoder
from ldm.files import counted, slug, write_text
from ldm.interruption import finish_first
from ldm.runtime.batching import batch_that_fits
from ldm.runtime.compiling import refuse_graphs_without_cuda
from ldm.runtime.devices import Compute, parse_device, sampling_compute
from ldm.runtime.models import base_weights, read_tokenizer
from ldm.terminal import command_line

log = logging.getLogger(__name__)

COMPARING = ("base", "no_base", "instance_img_dir")
"""Flags that are about directories of checkpoints."""


@dataclass(frozen=True)
class Call:
    """One call of txt2img, img2img or evaluate."""

    command: str
    directory: Path
    root: Path | None
    """The directory that is compared; None for a single checkpoint that is neither compared nor scored."""
    weights: Path
    plan: Plan
    job: Job
    compute: Compute
    photos: list[list[Photo]]
    """Of each family."""
    encoder: Encoder | None
    """Who is to score the images; None if they aren't to be scored."""
    record: dict[str, Any]


def plan_call(options: argparse.Namespace, command: str) -> Call:
    """Decides everything, makes the directory, writes its record and the copies of the photos."""
    if {"prompt", "protocol"} <= {*options.typed}:
        raise UserError("--protocol has prompts of its own: leave it out, or -p")
    if options.resume_dir:
        options = resumed_call_options(options, command)
        begin_run(options.resume_dir, command_line(f"{command}.py", "-r", options.resume_dir))
    elif command == "img2img" and not options.init_img:
        raise UserError("--init-img is needed: the image to start from")
    compute = sampling_compute(parse_device(options.device), options.precision)
    refuse_graphs_without_cuda(options.compile, compute.device)
    weights = base_weights(options.ckpt_path)
    if command == "evaluate" and not weights.exists():
        raise UserError(f"there is no {weights}: --ckpt-path takes a run of dreambooth.py, or a directory of runs")
    scores = command == "evaluate" or getattr(options, "score", False)
    root = weights if weights.is_dir() else weights.parent if scores else None
    if root is None and (given := [name for name in COMPARING if getattr(options, name)]):
        raise UserError(f"{flag_of(given[0])} is for comparing a directory, and {weights} is a file")
    checkpoints = usable(find_to_sample(weights), options.config)
    if scores:
        protocol = getattr(options, "protocol", "default")
        options.prompt = prompts_to_score(options.prompt, protocol, checkpoints)
    job = job_from(options, checkpoints[0].settings, compute)
    _refuse_too_many_images(len(checkpoints), job)
    refuse_another_size(options, job.sampling.height, job.sampling.width, DRAWING)
    if options.batch_size is None:  # what is chosen is recorded, so that a continued call draws in the same company
        together = max(1, len(job.prompts)) * len(job.seeds)
        how = job.sampling, compute.dtype, compute.device
        fitting = batch_that_fits(checkpoints[0].settings, *how, together)
        job = replace(job, batch_size=fitting)
    records = RunRecords()
    groups = _groups(checkpoints, records, options) if root else [CheckpointGroup(checkpoints)]
    plan = plan_rows(groups, root, job, compute)
    photos = photos_of_each(groups, records, options.instance_img_dir) if root else [[]]
    name = getattr(options, "encoder", None) or checkpoints[0].settings.evaluation.encoder
    encoder = load_encoder(name, compute.device) if scores else None

    _warn_of_strangers(plan, job, photos)
    _refuse_without_space(options, plan, job)
    with finish_first():
        directory = options.resume_dir or make_run_dir(options.output_dir, command)
        record = _write_record(directory, options, weights, plan, job, compute)
        begin_run(directory, command_line(f"{command}.py", "-r", directory))
    if root:
        log.info(
            "comparing %s below %s in %s",
            counted(sum(not row.is_base for row in plan.rows), "checkpoint"),
            root,
            directory,
        )
    return Call(
        command=command,
        directory=directory,
        root=root,
        weights=weights,
        plan=plan,
        job=job,
        compute=compute,
        photos=_copies(groups, photos, root, directory),
        encoder=encoder,
        record=record,
    )


def _refuse_without_space(options: argparse.Namespace, plan: Plan, job: Job) -> None:
    """Images that would fill the disk aren't begun; those of a call that goes on may be there."""
    files = [image.file for row in plan.rows for image in row.images if image]
    there = options.resume_dir
    missing = sum(not (there / file).exists() for file in files) if there else len(files)
    refuse_without_space_for_images(there or options.output_dir, missing, job.sampling.height, job.sampling.width)


def _refuse_too_many_images(checkpoints: int, job: Job) -> None:
    """Each is planned, with its file and its key, before the first is drawn."""
    prompts, seeds = max(1, len(job.prompts)), len(job.seeds)
    if (count := checkpoints * prompts * seeds) > MOST_IMAGES:
        each = f"{checkpoints:,} checkpoints x {prompts:,} prompts x {seeds:,} seeds"
        raise UserError(
            f"{count:,} images ({each}) are more than one call draws, {MOST_IMAGES:,}: a smaller --variations, "
            "then another call with another --seed"
        )


def _warn_of_strangers(plan: Plan, job: Job, photos: list[list[Path]]) -> None:
    """A model of a small world draws nothing else."""
    first = plan.rows[0].checkpoint
    prompts = dict.fromkeys(image.prompt for row in plan.rows for image in row.images if image)
    warn_of_unknown_words(first.settings, read_tokenizer(first.tokenizer, first.settings), prompts)
    size = job.sampling.height, job.sampling.width
    for paths in filter(None, photos):
        what = f"the photos in {paths[0].parent}"
        warn_of_photos(first.settings, what, partial(readable_photos, paths, *size))
    if init := job.init:
        warn_of_photos(first.settings, f"the image {job.init_path}", lambda: init.image[None])


def _groups(checkpoints: list[Checkpoint], records: RunRecords, options: argparse.Namespace) -> list[CheckpointGroup]:
    groups = group_checkpoints(checkpoints, records)
    if options.no_base:
        return groups
    return with_bases(groups, BaseFinder(checkpoints, records, options.base))


def _write_record(
    directory: Path, options: argparse.Namespace, weights: Path, plan: Plan, job: Job, compute: Compute
) -> dict[str, Any]:
    """Every flag with the value that is used: the call continues from any directory, also after defaults changed."""
    resolved = {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}
    resolved |= sampling_flags(job.sampling)
    resolved |= {"batch_size": job.batch_size, "device": str(compute.device), "ckpt_path": weights}
    resolved |= {name: resolved[name].resolve() for name in PATHS if resolved.get(name)}
    tuned = [row.checkpoint for row in plan.rows if not row.is_base]
    more = {
        "directory": str(directory.resolve()),
        "checkpoints": [str(row.checkpoint.path) for row in plan.rows],
        **what_is_known(weights, tuned, job.init_path),
    }
    path = directory / RECORD
    if options.resume_dir:
        write_text(path, to_yaml({**read_yaml(path), "options": plain(resolved), **more}))
    else:
        write_record(path, resolved, seeds=job.seeds, **more)
    return read_yaml(path)


def _copies(
    groups: list[CheckpointGroup], photos: list[list[Path]], root: Path | None, directory: Path
) -> list[list[Photo]]:
    """The small copies of each family's photos, in a folder named by its first run."""
    if root is None:
        return [[]]
    runs = run_names([one.path for group in groups for one in group.tuned], root)
    names = [slug(runs[group.tuned[0].path.parent]) for group in groups]
    return [
        copy_photos(paths, name if names.count(name) == 1 else f"{name}-{number}", directory)
        for number, (name, paths) in enumerate(zip(names, photos, strict=True), start=1)
    ]
