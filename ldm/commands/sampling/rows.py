"""The table to sample: a row per checkpoint, a column per prompt, seed and image scale, a file and a key per image."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from ldm.commands.resuming import STEP_FILE
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.groups import CheckpointGroup, run_names, subject_of, tuned_in
from ldm.commands.sampling.job import Frame, Job
from ldm.data.formats import open_image
from ldm.data.images import own_text
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import InitImage, SamplingConfig
from ldm.errors import UserError
from ldm.evaluation.results import CLASS, OTHER, SUBJECT
from ldm.files import slug
from ldm.prompts import TOKEN
from ldm.report.comparison import CLASS_PLACEHOLDER, Cell, Column, Row
from ldm.runtime.devices import Compute
from ldm.training.dreambooth_config import Subject
from ldm.user_files import open_regular, resolved

log = logging.getLogger(__name__)

BASE_LABEL = "base model"
KEY = "key"
"""The name of an image's key in the text of its file."""
PNG_END = b"IEND\xae\x42\x60\x82"


@dataclass(frozen=True)
class TablePlan:
    """All images of a call."""

    columns: list[Column]
    rows: list[Row]
    """A cell is None where the prompt has "{class}" and the checkpoint has no subject."""
    groups: list[CheckpointGroup]
    keys: dict[str, str]
    """The key of each image, by its file."""

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """One per row."""
        return [one for group in self.groups for one in group]

    def is_there(self, directory: Path, cell: Cell | None) -> bool:
        """Whether an image's file is whole and has the current key."""
        return cell is not None and is_valid(directory / cell.file, self.keys[cell.file])


def plan_rows(groups: list[CheckpointGroup], root: Path | None, job: Job, compute: Compute) -> TablePlan:
    """The table of all images with labels, files and keys. `root`: the compared directory; None for one checkpoint."""
    templates: Sequence[str | None] = job.prompts or [None]
    columns = _columns(templates, groups, job)
    runs = run_names([one.path for group in groups for one in tuned_in(group)], root or groups[0][0].path.parent)
    shared = {frame.copy if frame else "": _shared_key(job, frame, compute) for frame in job.frames or [None]}
    rows, keys = [], {}
    names = _names(groups, runs, of_directory=root is not None)
    for (index, one), (label, prefix) in zip(_members(groups), names, strict=True):
        prompts = [prompt_for(template, one) for template in templates]
        _refuse_or_warn_without_subject(templates, prompts, one, of_directory=root is not None)
        cells: list[Cell | None] = []
        for column in columns:
            if (prompt := prompts[column.prompt_index]) is None:
                cells.append(None)
                continue
            scale = f"_image-scale-{column.image_scale:g}" if len(job.image_scales) > 1 else ""
            name = f"{column.prompt_index:02d}-{slug(prompt, 40)}_{column.seed}{scale}"
            file = _frame_file(prefix, name, column, job) if job.frames else f"{prefix}{name}.png"
            keys[file] = _key(shared[column.init_image], one, prompt, column)
            cells.append(Cell(file, prompt))
        run = "" if one.is_base else runs[one.path.parent]
        rows.append(Row(label, index, run, one.info.step, str(one.path), one.is_base, cells))
    return TablePlan(columns, rows, groups, keys)


def _columns(templates: Sequence[str | None], groups: Sequence[CheckpointGroup], job: Job) -> list[Column]:
    """A column per prompt, initial image of a folder, seed and image scale."""
    noises: dict[tuple[int, int, int], str] = {}

    def noise(seed: int, sampling: SamplingConfig) -> str:
        key = (seed, sampling.height, sampling.width)
        if key not in noises:
            noises[key] = _noise_digest(seed, sampling, groups[0][0])
        return noises[key]

    columns = []
    for index, template in enumerate(templates):
        prompt, kind = _column_prompt(template, groups), _kind(template, groups)
        for frame, seed, image_scale in _images_of_prompt(job):
            sampling = frame.sampling if frame else job.sampling
            column = Column(prompt, index, seed, kind, noise(seed, sampling), image_scale)
            if frame:
                column = replace(column, init_image=frame.copy, height=sampling.height, width=sampling.width)
            columns.append(column)
    return columns


def _images_of_prompt(job: Job) -> Iterator[tuple[Frame | None, int, float | None]]:
    """The initial image, the seed and the image scale of each image of a prompt."""
    frames: Sequence[Frame | None] = job.frames or [None]
    for frame in frames:
        yield from product([frame], frame.seeds if frame else job.seeds, job.image_scales or [None])


def _frame_file(prefix: str, name: str, column: Column, job: Job) -> str:
    """The file of an image that started from one of a folder: with that one's name, and more if it has several."""
    own = PurePosixPath(column.init_image).stem
    several = max(1, len(job.prompts)) * len(job.frames[0].seeds) * max(1, len(job.image_scales)) > 1
    folder = f"frames/{prefix.rstrip('_')}" if prefix else "frames"
    return f"{folder}/{own}{f'_{name}' if several else ''}.png"


def _members(groups: Sequence[CheckpointGroup]) -> Iterator[tuple[int, Checkpoint]]:
    """Every checkpoint with the index of its group."""
    return ((index, one) for index, group in enumerate(groups) for one in group)


# Prompts


def prompt_for(template: str | None, checkpoint: Checkpoint) -> str | None:
    """A prompt with the checkpoint's class; None if it has none. Without a template, the prompt of its subject."""
    info = checkpoint.info
    if template is None:
        own = info.instance_prompt or (Subject(info.class_name).instance_prompt if info.class_name else "")
        return own or checkpoint.settings.sampling.prompt
    if CLASS_PLACEHOLDER in template and not info.class_name:
        return None
    return template.replace(CLASS_PLACEHOLDER, info.class_name)


def _refuse_or_warn_without_subject(
    templates: Sequence[str | None], prompts: Sequence[str | None], checkpoint: Checkpoint, of_directory: bool
) -> None:
    for template in {template for template, prompt in zip(templates, prompts, strict=True) if prompt is None}:
        message = f"the prompt '{template}' needs a class, and {checkpoint.path} has no subject"
        if not of_directory:
            raise UserError(f"{message}: --subject WORDS names it")
        log.warning("%s: its cells stay empty; --subject WORDS names it", message)


def _column_prompt(template: str | None, groups: Sequence[CheckpointGroup]) -> str:
    """A column's prompt as given."""
    if template is not None:
        return template
    if any(subject_of(group) for group in groups):
        return Subject(CLASS_PLACEHOLDER).instance_prompt
    return groups[0][0].settings.sampling.prompt


def _kind(template: str | None, groups: Sequence[CheckpointGroup]) -> str:
    """What a column's prompt names in every row: the subject, its class or something else.

    Models without a subject don't count if others have one.
    """
    counted = [group for group in groups if subject_of(group)] or groups
    prompts = [(subject_of(group), prompt_for(template, tuned_in(group)[0])) for group in counted]
    if all(prompt is not None and re.search(rf"\b{TOKEN}\b", prompt) for _, prompt in prompts):
        return SUBJECT
    if all(subject and prompt == Subject(subject).class_prompt for subject, prompt in prompts):
        return CLASS
    return OTHER


# Names


def _names(groups: Sequence[CheckpointGroup], runs: dict[Path, str], of_directory: bool) -> Iterator[tuple[str, str]]:
    """Each checkpoint's label for people, and how its files' names begin; a single checkpoint's need no beginning."""
    subjects = [subject_of(group) for group in groups]
    labels, prefixes, paths = [], [], []
    for index, one in _members(groups):
        first = tuned_in(groups[index])[0]
        run, step = runs[first.path.parent if one.is_base else one.path.parent], one.info.step
        if one.is_base:
            whose = subjects[index] if subjects.count(subjects[index]) == 1 else run
            labels.append(f"{BASE_LABEL}, {whose}" if len(groups) > 1 else BASE_LABEL)
            prefixes.append(slug(f"base {subjects[index]}"))
        else:
            if one.base_file and not STEP_FILE.fullmatch(one.path.name):  # a LoRA file that has been given a name
                step = 0
            in_run = f"{run} step {step}" if step else one.path.stem
            labels.append(f"step {step}" if step and len(runs) == 1 else in_run)
            prefixes.append(slug(in_run))
        paths.append((one.path, first.path if one.is_base else one.path))
    for label, prefix, (path, named_by) in zip(labels, prefixes, paths, strict=True):
        unique = prefix if prefixes.count(prefix) == 1 else f"{prefix}-{_path_digest(named_by)}"
        yield (label if labels.count(label) == 1 else str(path), f"{unique}_" if of_directory else "")


def _path_digest(path: Path) -> str:
    """Tells files of the same name apart; it stays when others come."""
    return hashlib.sha256(str(resolved(path)).encode()).hexdigest()[:6]


# Keys


def _shared_key(job: Job, frame: Frame | None, compute: Compute) -> dict[str, Any]:
    """What all images of a call depend on, or of a folder those that started from one of its images."""
    masked = frame.mask_digest if frame else mask_digest(job.init) if job.init and job.init.mask is not None else ""
    return {
        "negative_prompt": job.negative_prompt,
        "sampling": (frame.sampling if frame else job.sampling).key(),
        "init": frame.digest if frame else job.init and image_digest(job.init),
        "strength": job.init and job.init.strength,
        "device": compute.device.type,
        "precision": [str(compute.dtype), str(compute.autocast_dtype)],
        **({"mask": masked} if masked else {}),
        **job.reading.key(),
        **({"compile": "full"} if job.compile == "full" else {}),  # rounds differently; CUDA graphs don't
    }


def image_digest(init: InitImage) -> str:
    """SHA-256 of an initial image at the size of the samples."""
    return hashlib.sha256(init.image.numpy().tobytes()).hexdigest()


def mask_digest(init: InitImage) -> str:
    """SHA-256 of its mask."""
    parts = [part.numpy().tobytes() for part in (init.mask, init.feather) if part is not None]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _key(shared: dict[str, Any], checkpoint: Checkpoint, prompt: str, column: Column) -> str:
    """SHA-256 of all that determines an image: while it is the same, the image isn't sampled again."""
    content = {
        **shared,
        "parts": dict(checkpoint.digests),
        "tokenizer": checkpoint.tokenizer_digest,
        "model": asdict(checkpoint.settings.model),
        "prompt": prompt,
        "seed": column.seed,
        **({} if column.image_scale is None else {"image_scale": column.image_scale}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_valid(path: Path, key: str) -> bool:
    """Whether an image is there, whole, and has this key."""
    try:
        with open_regular(path) as file:
            with open_image(file, path) as image:
                found = own_text(image, KEY)
            file.seek(-len(PNG_END), 2)
            return bool(found == key and file.read() == PNG_END)
    except (OSError, UserError):  # not there, or no image
        return False


def _noise_digest(seed: int, sampling: SamplingConfig, checkpoint: Checkpoint) -> str:
    """SHA-256 of a seed's initial noise."""
    shape = checkpoint.settings.model.latent_shape(sampling.height, sampling.width)
    return hashlib.sha256(draw_noise((1, *shape), image_generators([seed])).numpy().tobytes()).hexdigest()
