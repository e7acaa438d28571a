"""The directory of a DreamBooth run: a new one with its record, or that of a run that goes on."""

import os
from dataclasses import dataclass
from pathlib import Path

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES
from ldm.commands.disk_space import STATE_BYTES, image_bytes, refuse_unwritable, refuse_without_space
from ldm.commands.dreambooth.class_images import class_image_cache
from ldm.commands.dreambooth.plan import Plan
from ldm.commands.record import plain, section, write_record
from ldm.commands.resuming import (
    RECORD,
    make_run_dir,
    mark_unsaved,
    refuse_fewer_updates,
)
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.files import slug, write_text
from ldm.nn.tokenizer import copy_tokenizer
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.runtime.tokenizers import NAME
from ldm.training.class_images import DIRECTORY as CLASS_IMAGES


@dataclass(frozen=True)
class Run(Plan):
    """A plan that has a place."""

    directory: Path


def open_run(plan: Plan, output_dir: Path) -> Run:
    """The run's directory with its record; `output_dir` is for a new one. The first process writes, others find it."""
    if is_helper_process():
        directory = Path(os.environ[RUN_DIR_VARIABLE])
    elif plan.options.resume_dir:
        directory = plan.options.resume_dir
        _continue(plan, directory)
    else:
        refuse_unwritable(output_dir, *([output_dir / CLASS_IMAGES] if _lacks_class_images(plan, output_dir) else []))
        _refuse_without_space(plan, output_dir)
        directory = make_run_dir(output_dir, slug(plan.subject.class_name))
        copy_tokenizer(plan.tokenizer, directory / NAME)  # before the record: with it, everything is there
        write_record(directory / RECORD, vars(plan.options), **_began_with(plan, directory), config=plan.yaml)
    if not is_helper_process():
        mark_unsaved(directory)
    return Run(**vars(plan), directory=directory)


def _lacks_class_images(plan: Plan, output_dir: Path) -> bool:
    """Whether some are to be drawn. Those that are all there may be another user's."""
    paths = class_image_cache(plan, output_dir).paths(plan.config.class_img_count)
    return not all(path.is_file() for path in paths)


def _began_with(plan: Plan, directory: Path) -> dict[str, object]:
    """What the run is known by, wherever its files are."""
    return {
        "directory": str(directory.resolve()),
        "base_sha256": plan.base_sha256,
        "photos": plan.photos,
        "tokenizer": plan.tokenizer_digest,
    }


def _continue(plan: Plan, directory: Path) -> None:
    """Adds to the record what has changed. Raises `UserError` unless there is what the run began with."""
    record = read_yaml(directory / RECORD)
    if (was := record.get("base_sha256")) != plan.base_sha256:
        raise UserError(
            f"{plan.base} is not the file that this run began with: its SHA-256 is {plan.base_sha256}, not {was}. "
            "Name the file itself with --ckpt-path"
        )
    photos = {name: str(sha256) for name, sha256 in section(record, "photos").items()}
    if [*photos.values()] != [*plan.photos.values()]:  # in this order they are trained on; their names don't matter
        changed = sorted(dict(photos.items() ^ plan.photos.items()))
        raise UserError(
            f"the photos in {plan.options.instance_img_dir} are not those that this run began with: look at "
            f"{', '.join(changed)}. Name their folder with --instance-img-dir"
        )
    refuse_fewer_updates(directory, plan.config.iterations)
    options = plain(vars(plan.options))
    write_text(directory / RECORD, to_yaml({**record, **_began_with(plan, directory), "options": options}))


def _refuse_without_space(plan: Plan, output_dir: Path) -> None:
    """A run that would fill the disk fails before it begins."""
    sizes = dict.fromkeys(PARTS, 0)
    for key, tensor in read_checkpoint(plan.base).index.items():
        for part, prefix in PARTS.items():
            sizes[part] += tensor.numel() if key.startswith(prefix) else 0
    config, sampling = plan.config, plan.class_sampling
    trained = sizes["unet"] + sizes["text_encoder"] * config.train_text_encoder
    refuse_without_space(
        output_dir,
        config,
        checkpoint=SAVE_DTYPES[plan.options.save_dtype].itemsize * sum(sizes.values()),
        state=STATE_BYTES[config.optimizer, config.train_dtype] * trained,
        more=image_bytes(config.class_img_count, sampling.height, sampling.width),
        what="class images",
    )
