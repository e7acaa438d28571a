"""Everything about a drawing that is decided and checked before anything is drawn."""

import argparse
import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm.commands.app import begin_run
from ldm.commands.batching import batch_that_fits
from ldm.commands.compiling import refuse_graphs_without_cuda
from ldm.commands.devices import parse_device
from ldm.commands.drawing.base import BaseFinder
from ldm.commands.drawing.checkpoints import Usable, find_to_draw, usable
from ldm.commands.drawing.grouping import Family, families_of, with_bases
from ldm.commands.drawing.job import Job, job_from, sampling_flags
from ldm.commands.drawing.photos import Photo, copy_photos, photos_of_each
from ldm.commands.drawing.protocols import CLASS_PROMPT, prompts_to_score
from ldm.commands.drawing.rows import Plan, plan_rows
from ldm.commands.drawing.runs import RunRecords, run_names
from ldm.commands.models import base_weights
from ldm.commands.placement import Compute, drawing_compute
from ldm.commands.record import plain, write_record
from ldm.commands.resuming import RECORD, make_run_dir, refuse_another_size, resumed_options
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.evaluation.encoders import Encoder, load_encoder
from ldm.files import counted, slug, write_text
from ldm.interruption import finish_first

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "resume_dir",
    "device",
    "batch_size",
    "compile",
    "base",
    "no_base",
    "instance_img_dir",
    "score",
    "encoder",
)
"""Flags that a continued call takes from the command line; the others are its own."""

COMPARING = ("base", "no_base", "instance_img_dir")
"""Flags that are about directories of checkpoints."""

OWN_FLAGS = {"img2img": "init_img", "evaluate": "protocol"}
"""By which a call's record tells whose it is."""

PATHS = ("ckpt_path", "config", "output_dir", "base", "instance_img_dir", "init_img")


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
    """Who is to score the pictures; None if they aren't to be scored."""
    record: dict[str, Any]


def plan_call(options: argparse.Namespace, command: str) -> Call:
    """Decides everything, makes the directory, writes its record and the copies of the photos."""
    if {"prompt", "protocol"} <= {*options.typed}:
        raise UserError("--protocol has prompts of its own: leave it out, or -p")
    if options.resume_dir:
        options = _resumed(options, command)
        begin_run(options.resume_dir, _again(command, options.resume_dir))
    elif command == "img2img" and not options.init_img:
        raise UserError("--init-img is needed: the picture to start from")
    compute = drawing_compute(parse_device(options.device), options.precision)
    refuse_graphs_without_cuda(options.compile, compute.device)
    weights = base_weights(options.ckpt_path)
    if command == "evaluate" and not weights.exists():
        raise UserError(f"there is no {weights}: --ckpt-path takes a run of dreambooth.py, or a directory of runs")
    scores = command == "evaluate" or getattr(options, "score", False)
    root = weights if weights.is_dir() else weights.parent if scores else None
    if root is None and (given := [name for name in COMPARING if getattr(options, name)]):
        raise UserError(f"--{given[0].replace('_', '-')} is for comparing a directory, and {weights} is a file")
    checkpoints = usable(find_to_draw(weights), options.config)
    if scores:
        protocol = getattr(options, "protocol", "default")
        options.prompt = prompts_to_score(options.prompt, protocol, checkpoints)
    job = job_from(options, checkpoints[0].settings)
    refuse_another_size(options, job.sampling.height, job.sampling.width)
    if options.batch_size is None:  # what is chosen is recorded, so that a continued call draws in the same company
        together = max(1, len(job.prompts)) * len(job.seeds)
        how = job.sampling, compute.dtype, compute.device
        fitting = batch_that_fits(checkpoints[0].settings, *how, together)
        job = replace(job, batch_size=fitting)
    records = RunRecords()
    families = _families(checkpoints, records, options) if root else [Family(checkpoints)]
    plan = plan_rows(families, root, job, compute)
    photos = photos_of_each(families, records, options.instance_img_dir) if root else [[]]
    name = getattr(options, "encoder", None) or checkpoints[0].settings.evaluation.encoder
    encoder = load_encoder(name, compute.device) if scores else None

    with finish_first():
        directory = options.resume_dir or make_run_dir(options.output_dir, command)
        record = _write_record(directory, options, weights, plan, job, compute)
        begin_run(directory, _again(command, directory))
    if root:
        log.info("comparing %s below %s in %s", counted(len(plan.rows), "checkpoint"), root, directory)
    return Call(
        command=command,
        directory=directory,
        root=root,
        weights=weights,
        plan=plan,
        job=job,
        compute=compute,
        photos=_copies(families, photos, root, directory),
        encoder=encoder,
        record=record,
    )


def _again(command: str, directory: Path) -> str:
    return f"python {command}.py -r {shlex.quote(str(directory))}"


def _resumed(given: argparse.Namespace, command: str) -> argparse.Namespace:
    """The options of the call in `--resume-dir`."""
    given = _with_class_prompt(given)
    options = resumed_options(
        given,
        script=f"{command}.py",
        has="variations",
        may_change=MAY_CHANGE,
        paths=[name for name in PATHS if hasattr(given, name)],
    )
    if "base" in given.typed:
        options.no_base = False
    if "no_base" in given.typed:
        options.base = None
    recorded = read_yaml(given.resume_dir / RECORD)["options"]
    other = next((name for name, flag in OWN_FLAGS.items() if flag in recorded), "txt2img")
    if other != command:
        raise UserError(
            f"{given.resume_dir} is {other}.py's; continue it with: python {other}.py -r {given.resume_dir}"
        )
    return options


def _with_class_prompt(given: argparse.Namespace) -> argparse.Namespace:
    """The same words as the first time mean the same: scores had added the prompt of the class."""
    record = given.resume_dir / RECORD
    options = read_yaml(record).get("options") if record.is_file() else None
    if given.prompt and isinstance(options, dict) and options.get("prompt") == [*given.prompt, CLASS_PROMPT]:
        return argparse.Namespace(**{**vars(given), "prompt": options["prompt"]})
    return given


def _families(checkpoints: list[Usable], records: RunRecords, options: argparse.Namespace) -> list[Family]:
    families = families_of(checkpoints, records)
    if options.no_base:
        return families
    return with_bases(families, BaseFinder(checkpoints, records, options.base))


def _write_record(
    directory: Path, options: argparse.Namespace, weights: Path, plan: Plan, job: Job, compute: Compute
) -> dict[str, Any]:
    """Every flag with the value that is used: the call continues from any directory, also after defaults changed."""
    resolved = {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}
    resolved |= sampling_flags(job.sampling)
    resolved |= {"batch_size": job.batch_size, "device": str(compute.device), "ckpt_path": weights}
    resolved |= {name: resolved[name].resolve() for name in PATHS if resolved.get(name)}
    checkpoints = [str(row.checkpoint.path) for row in plan.rows]
    path = directory / RECORD
    if options.resume_dir:
        write_text(path, to_yaml({**read_yaml(path), "options": plain(resolved), "checkpoints": checkpoints}))
    else:
        write_record(path, resolved, seeds=job.seeds, checkpoints=checkpoints)
    return read_yaml(path)


def _copies(families: list[Family], photos: list[list[Path]], root: Path | None, directory: Path) -> list[list[Photo]]:
    """The small copies of each family's photos, in a folder named by its first run."""
    if root is None:
        return [[]]
    runs = run_names([one.path for family in families for one in family.tuned], root)
    names = [slug(runs[family.tuned[0].path.parent]) for family in families]
    return [
        copy_photos(paths, name if names.count(name) == 1 else f"{name}-{number}", directory)
        for number, (name, paths) in enumerate(zip(names, photos, strict=True), start=1)
    ]
