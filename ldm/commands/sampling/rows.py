"""What is to be drawn: rows of checkpoints, columns of prompts and seeds, and a file for each image."""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.grouping import CheckpointGroup
from ldm.commands.sampling.job import Job
from ldm.commands.sampling.runs import run_names
from ldm.commands.sampling.validity import ImageKeys
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.errors import UserError
from ldm.files import slug
from ldm.prompts import TOKEN
from ldm.report.comparison import CLASS, OTHER, SUBJECT, Column
from ldm.runtime.devices import Compute
from ldm.training.config import Subject

log = logging.getLogger(__name__)

PLACEHOLDER = "{class}"
BASE_LABEL = "base model"


@dataclass(frozen=True)
class PlannedImage:
    """One image: what is drawn, into which file, and the digest of all it depends on."""

    file: str
    prompt: str
    prompt_index: int
    seed: int
    key: str


@dataclass(frozen=True)
class PlannedRow:
    """What one checkpoint is to draw."""

    checkpoint: Checkpoint
    group: int
    label: str
    run: str
    """Empty for a base model."""
    is_base: bool
    images: list[PlannedImage | None]
    """One per column; None where a prompt asks for a class and the checkpoint was taught none."""


@dataclass(frozen=True)
class Plan:
    """The whole table."""

    columns: list[Column]
    rows: list[PlannedRow]
    groups: list[CheckpointGroup]


@dataclass(frozen=True)
class _Named:
    """A checkpoint and what it is called."""

    checkpoint: Checkpoint
    group: int
    is_base: bool
    run: str
    label: str
    prefix: str


def plan_rows(groups: list[CheckpointGroup], root: Path | None, job: Job, compute: Compute) -> Plan:
    """Names everything. `root` is the directory that is compared; None for a single checkpoint."""
    named = _named(groups, root)
    keys = ImageKeys(job, compute)
    templates: Sequence[str | None] = job.prompts or [None]
    noises = {seed: _noise_digest(seed, job, named[0].checkpoint) for seed in job.seeds}
    columns = [
        Column(_shown(template, groups), index, seed, _kind(template, groups), noises[seed])
        for index, template in enumerate(templates)
        for seed in job.seeds
    ]
    rows = []
    for one in named:
        prompts = [prompt_for(template, one.checkpoint) for template in templates]
        for template in {template for template, prompt in zip(templates, prompts, strict=True) if prompt is None}:
            message = f"the prompt '{template}' asks for a class, and {one.checkpoint.path} was taught none"
            if root is None:
                raise UserError(message)
            log.warning("%s: its cells stay empty", message)
        rows.append(
            PlannedRow(
                checkpoint=one.checkpoint,
                group=one.group,
                label=one.label,
                run=one.run,
                is_base=one.is_base,
                images=[
                    None
                    if (prompt := prompts[column.prompt_index]) is None
                    else PlannedImage(
                        f"{one.prefix}{column.prompt_index:02d}-{slug(prompt, 40)}_{column.seed}.png",
                        prompt,
                        column.prompt_index,
                        column.seed,
                        keys.of(one.checkpoint, prompt, column.seed),
                    )
                    for column in columns
                ],
            )
        )
    return Plan(columns, rows, groups)


def prompt_for(template: str | None, checkpoint: Checkpoint) -> str | None:
    """A prompt with the checkpoint's class in it, or None if it has none; without a template its own subject."""
    info = checkpoint.info
    if template is None:
        own = info.instance_prompt or (Subject(info.class_name).instance_prompt if info.class_name else "")
        return own or checkpoint.settings.sampling.prompt
    if PLACEHOLDER in template and not info.class_name:
        return None
    return template.replace(PLACEHOLDER, info.class_name)


def _shown(template: str | None, groups: Sequence[CheckpointGroup]) -> str:
    """A column's prompt as it was asked for."""
    if template is not None:
        return template
    if any(group.subject for group in groups):
        return Subject(PLACEHOLDER).instance_prompt
    return groups[0].tuned[0].settings.sampling.prompt


def _kind(template: str | None, groups: Sequence[CheckpointGroup]) -> str:
    """What a column's prompt asks for, in every row; models that were taught no subject have no say if others were."""
    asking = [group for group in groups if group.subject] or groups
    prompts = [(group.subject, prompt_for(template, group.tuned[0])) for group in asking]
    if all(prompt is not None and re.search(rf"\b{TOKEN}\b", prompt) for _, prompt in prompts):
        return SUBJECT
    if all(subject and prompt == Subject(subject).class_prompt for subject, prompt in prompts):
        return CLASS
    return OTHER


def _named(groups: Sequence[CheckpointGroup], root: Path | None) -> list[_Named]:
    """Labels for people and beginnings of file names; a single checkpoint's files need none."""
    tuned = [one.path for group in groups for one in group.tuned]
    runs = run_names(tuned, root or tuned[0].parent)
    several = len(runs) > 1
    subjects = [group.subject for group in groups]
    named = []
    for index, group in enumerate(groups):
        first_run = runs[group.tuned[0].path.parent]
        if group.base:
            whose = group.subject if subjects.count(group.subject) == 1 else first_run
            label = f"{BASE_LABEL}, {whose}" if len(groups) > 1 else BASE_LABEL
            prefix = slug(f"base {group.subject}")
            named.append((_Named(group.base, index, True, "", label, prefix), group.tuned[0].path))
        for one in group.tuned:
            run, step = runs[one.path.parent], one.info.step
            label = (f"{run} step {step}" if several else f"step {step}") if step else one.path.stem
            prefix = slug(f"{run} step {step}" if step else one.path.stem)
            named.append((_Named(one, index, False, run, label, prefix), one.path))
    labels, prefixes = [one.label for one, _ in named], [one.prefix for one, _ in named]
    return [
        replace(
            one,
            label=one.label if labels.count(one.label) == 1 else str(one.checkpoint.path),
            prefix=""
            if root is None
            else f"{one.prefix}_"
            if prefixes.count(one.prefix) == 1
            else f"{one.prefix}-{_digest(path)}_",
        )
        for one, path in named
    ]


def _digest(path: Path) -> str:
    """Tells files of like names apart; it stays when others come."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]


def _noise_digest(seed: int, job: Job, checkpoint: Checkpoint) -> str:
    """SHA-256 of the noise that a seed begins with."""
    shape = checkpoint.settings.model.latent_shape(job.sampling.height, job.sampling.width)
    return hashlib.sha256(draw_noise((1, *shape), image_generators([seed])).numpy().tobytes()).hexdigest()
