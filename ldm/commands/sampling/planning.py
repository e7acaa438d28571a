"""Everything about a call that is decided and checked before its first image is sampled."""

import argparse
import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.app import begin_run
from ldm.commands.disk_space import refuse_without_space_for_images
from ldm.commands.elsewhere import sha256_of
from ldm.commands.options.common import MOST_IMAGES
from ldm.commands.options.resumable import SAMPLING, flag_of
from ldm.commands.record import plain, versions, write_record
from ldm.commands.resuming import RECORD, make_run_dir, refuse_another_size
from ldm.commands.sampling.adapters import (
    Changes,
    LoraFile,
    changes_of,
    embeddings_of,
    needs_base,
    recorded_embeddings,
    recorded_loras,
)
from ldm.commands.sampling.checkpoints import Checkpoint, checkpoints_to_sample
from ldm.commands.sampling.from_image import warn_of_another_model, with_image_options
from ldm.commands.sampling.groups import (
    CheckpointGroup,
    group_checkpoints,
    run_names,
    tuned_in,
    with_base_models,
)
from ldm.commands.sampling.job import Job, job_from, prompts_to_score, sampling_flags
from ldm.commands.sampling.masks import photo_size, with_inpainting_strength
from ldm.commands.sampling.photos import INIT_IMAGE, Photo, photos_of_groups, read_and_copy_photos
from ldm.commands.sampling.prompts import with_all_prompts
from ldm.commands.sampling.records import RunRecords
from ldm.commands.sampling.resume import FILES, PATHS, identities, resumed_call_options
from ldm.commands.sampling.rows import TablePlan, plan_rows
from ldm.commands.unfamiliar import warn_of_photos, warn_of_unknown_words
from ldm.config import read_yaml, to_yaml
from ldm.data.images import save_png, to_image, to_tensor
from ldm.errors import UserError
from ldm.evaluation.encoders import ImageEncoder, load_encoder
from ldm.files import counted, slug, write_text
from ldm.interruption import finish_first
from ldm.prompt_syntax import plain_text
from ldm.report.comparison import ComparisonData
from ldm.report.files import current_results
from ldm.runtime.compiling import refuse_graphs_without_cuda
from ldm.runtime.devices import Compute, parse_device, sampling_compute
from ldm.runtime.models import base_weights, tokenizer_knowing
from ldm.terminal import command_line
from ldm.user_files import is_diffusers_directory, resolved

log = logging.getLogger(__name__)

COMPARING = ("base", "no_base", "instance_img_dir")
"""Flags that need a directory of checkpoints."""


@dataclass(frozen=True)
class Call:
    """One call of txt2img, img2img or evaluate."""

    command: str
    directory: Path
    root: Path | None
    """The directory that is compared; None for a single checkpoint that is neither compared nor scored."""
    weights: Path
    plan: TablePlan
    job: Job
    compute: Compute
    photos: list[list[Photo]]
    """The photos of each group."""
    encoder: ImageEncoder | None
    """Scores the images; None if they aren't to be scored, or are already."""
    record: dict[str, Any]
    digest: str
    """SHA-256 of all that the results are made from."""
    results: ComparisonData | None
    """The results of a resumed call that lacks nothing; else None."""

    @property
    def resume_command(self) -> str:
        """What a user types to continue."""
        return command_line(f"{self.command}.py", "-r", self.directory)


def plan_call(options: argparse.Namespace, command: str) -> Call:
    """Decides everything, makes the directory, reads the photos, and writes the record and small copies of photos."""
    options = _checked_options(with_inpainting_strength(options), command)
    compute = sampling_compute(parse_device(options.device), options.precision)
    refuse_graphs_without_cuda(options.compile, compute.device)
    weights, root, scores = _weights(options, command)
    changes = changes_of(options)
    checkpoints = checkpoints_to_sample(weights, options.config, changes, options.base, options.subject or "")
    if getattr(options, "from_image", None) and not options.resume_dir:
        warn_of_another_model(options, weights, None if weights.is_dir() else checkpoints[0].base_file)
    job = _job(options, checkpoints, compute, scores, changes.loras)
    records = RunRecords()
    groups = _groups(checkpoints, records, options, changes) if root else [checkpoints]
    plan = plan_rows(groups, root, job, compute)
    photo_paths = photos_of_groups(groups, records, options.instance_img_dir) if root else [[]]
    name = (getattr(options, "encoder", None) or checkpoints[0].settings.evaluation.encoder) if scores else ""
    digest = _digest(plan, photo_paths, name)
    results = current_results(options.resume_dir, digest, plan.is_there) if root and options.resume_dir else None
    encoder = load_encoder(name, compute.device) if scores and not results else None
    if not results:
        _warn_of_what_the_model_does_not_know(plan, job)
        _refuse_without_space(options, plan, job)
    with finish_first():
        directory = options.resume_dir or make_run_dir(options.output_dir, command)
        record = _write_record(directory, options, weights, plan, job, compute)
        begin_run(directory, command_line(f"{command}.py", "-r", directory))
    if root and not results:
        log.info(
            "comparing %s below %s in %s",
            counted(sum(not row.is_base for row in plan.rows), "checkpoint"),
            root,
            directory,
        )
    photos = _photos(groups, photo_paths, root, directory, job) if root and not results else [[] for _ in groups]
    if job.init and not results:
        save_png(directory / INIT_IMAGE, to_image(job.init.image))
    return Call(
        command=command,
        directory=directory,
        root=root,
        weights=weights,
        plan=plan,
        job=job,
        compute=compute,
        photos=photos,
        encoder=encoder,
        record=record,
        digest=digest,
        results=results,
    )


def _checked_options(options: argparse.Namespace, command: str) -> argparse.Namespace:
    """The options, of the call in `--resume-dir` if one is given. Raises `UserError` if they contradict each other."""
    if {"prompt", "protocol"} <= {*options.typed}:
        raise UserError("--protocol has prompts of its own: leave it out, or -p")
    if options.resume_dir:
        options = resumed_call_options(options, command)
        begin_run(options.resume_dir, command_line(f"{command}.py", "-r", options.resume_dir))
        return options
    if getattr(options, "from_image", None):
        options = with_image_options(options)
        if "prompt" not in options.typed:  # an image has one prompt, of which no part is a choice or a file's name
            return options
    elif command == "img2img" and not options.init_img:
        raise UserError("--init-img is needed: the image to start from")
    return with_all_prompts(options)


def _weights(options: argparse.Namespace, command: str) -> tuple[Path, Path | None, bool]:
    """The file or directory to sample with, the directory that is compared if one is, and whether images are scored."""
    weights = base_weights(options.ckpt_path)
    if command == "evaluate" and not weights.exists():
        raise UserError(f"there is no {weights}: --ckpt-path takes a run of dreambooth.py, or a directory of runs")
    scores = command == "evaluate" or getattr(options, "score", False)
    if scores and options.prompt_syntax != "plain":
        raise UserError("--prompt-syntax: scores read prompts as plain text; sample with it, without scoring")
    several = weights.is_dir() and not is_diffusers_directory(weights)
    root = weights if several else weights.parent if scores else None
    given = [name for name in COMPARING if getattr(options, name)] if root is None else []
    if given and (given != ["base"] or not needs_base(read_checkpoint(weights))):
        raise UserError(f"{flag_of(given[0])} is for comparing a directory, and {weights} is one checkpoint")
    return weights, root, scores


def _job(
    options: argparse.Namespace,
    checkpoints: list[Checkpoint],
    compute: Compute,
    scores: bool,
    loras: tuple[LoraFile, ...],
) -> Job:
    settings = checkpoints[0].settings
    if scores:
        options.prompt = prompts_to_score(options.prompt, getattr(options, "protocol", "default"), checkpoints)
    _refuse_too_many_images(len(checkpoints), options)
    job = job_from(options, settings, compute, loras=loras)
    refuse_another_size(options, *photo_size(job.sampling.height, job.sampling.width, job.margins), SAMPLING)
    return job


def _refuse_too_many_images(checkpoints: int, options: argparse.Namespace) -> None:
    """Each image is planned, with its file and its key, before the first is sampled."""
    prompts, seeds = max(1, len(options.prompt or [])), options.variations
    if (count := checkpoints * prompts * seeds) > MOST_IMAGES:
        each = f"{checkpoints:,} checkpoints x {prompts:,} prompts x {seeds:,} seeds"
        raise UserError(
            f"{count:,} images ({each}) are more than one call samples, {MOST_IMAGES:,}: a smaller --variations, "
            "then another call with another --seed"
        )


def _groups(
    checkpoints: list[Checkpoint], records: RunRecords, options: argparse.Namespace, changes: Changes
) -> list[CheckpointGroup]:
    groups = group_checkpoints(checkpoints, records)
    return groups if options.no_base else with_base_models(groups, records, options.base, changes)


def _digest(plan: TablePlan, photo_paths: list[list[Path]], encoder: str) -> str:
    """SHA-256 of all that the results of a whole call are made from: images, labels, photos, encoder and this code."""
    content = {
        "columns": [asdict(column) for column in plan.columns],
        "rows": [asdict(row) for row in plan.rows],
        "keys": plan.keys,
        "photos": [[_photo_digest(path) for path in paths] for paths in photo_paths],
        "encoder": encoder,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _photo_digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except (OSError, UserError):  # it is left out with a warning when it is copied
        return "unreadable"


def _warn_of_what_the_model_does_not_know(plan: TablePlan, job: Job) -> None:
    """Warns of unknown words, and of an initial image of other things: a model of a small world makes no others."""
    first = plan.checkpoints[0]
    found = dict.fromkeys(cell.prompt for row in plan.rows for cell in row.cells if cell)
    prompts = map(plain_text, found) if job.reading.with_syntax else found
    tokenizer = tokenizer_knowing(first.tokenizer, first.settings, first.embeddings)
    warn_of_unknown_words(first.settings, tokenizer, prompts)
    if init := job.init:
        warn_of_photos(first.settings, f"the image {job.init_path}", lambda: init.image[None])


def _refuse_without_space(options: argparse.Namespace, plan: TablePlan, job: Job) -> None:
    """Raises `UserError` if the images that aren't there yet would fill the disk."""
    directory = options.resume_dir
    missing = sum(not (directory / file).exists() for file in plan.keys) if directory else len(plan.keys)
    refuse_without_space_for_images(directory or options.output_dir, missing, job.sampling.height, job.sampling.width)


def _write_record(
    directory: Path, options: argparse.Namespace, weights: Path, plan: TablePlan, job: Job, compute: Compute
) -> dict[str, Any]:
    """Every flag with the value that is used: the call resumes from any directory, and after defaults changed."""
    recorded = {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}
    recorded |= sampling_flags(job.sampling)
    recorded["hw"] = [*photo_size(job.sampling.height, job.sampling.width, job.margins)]
    recorded |= {"batch_size": job.batch_size, "device": str(compute.device), "ckpt_path": weights}
    recorded |= {name: resolved(recorded[name]) for name in PATHS if recorded.get(name)}
    recorded["lora"] = recorded_loras(job.loras)
    recorded["embedding"] = recorded_embeddings(embeddings_of(options))
    tuned = [one for one in plan.checkpoints if not one.is_base]
    more = {
        "directory": str(resolved(directory)),
        "checkpoints": [str(one.path) for one in plan.checkpoints],
        **identities(weights, tuned, {name: recorded.get(name) for name in FILES}),
    }
    path = directory / RECORD
    if options.resume_dir:
        write_text(path, to_yaml({**read_yaml(path), "options": plain(recorded), **more}))
    else:
        write_record(path, recorded, seeds=job.seeds, **more)
    return read_yaml(path)


def _photos(
    groups: list[CheckpointGroup], photo_paths: list[list[Path]], root: Path, directory: Path, job: Job
) -> list[list[Photo]]:
    """Each group's photos, with small copies in a folder named by its first run; warns of photos of other worlds."""
    runs = run_names([one.path for group in groups for one in tuned_in(group)], root)
    names = [slug(runs[tuned_in(group)[0].path.parent]) for group in groups]
    found = []
    for number, (name, paths) in enumerate(zip(names, photo_paths, strict=True), start=1):
        folder = name if names.count(name) == 1 else f"{name}-{number}"
        photos = read_and_copy_photos(paths, folder, directory, job.sampling.height, job.sampling.width)
        if photos:
            warn_of_photos(groups[0][0].settings, f"the photos in {paths[0].parent}", partial(_stacked, photos))
        found.append(photos)
    return found


def _stacked(photos: list[Photo]) -> Tensor:
    """(n 3 h w) in [-1, 1]."""
    return torch.stack([to_tensor(photo.image) for photo in photos])
