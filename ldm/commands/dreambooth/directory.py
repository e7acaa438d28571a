"""The directory of a DreamBooth run: a new one with its record, or that of a resumed run."""

import os
from collections.abc import Iterable
from pathlib import Path

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.learned_words import as_text
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, hash_file
from ldm.choices import OPTIMIZERS
from ldm.commands.disk_space import AVERAGE_BYTES, image_bytes, refuse_unwritable, refuse_without_space
from ldm.commands.dreambooth.plan import RunPlan
from ldm.commands.record import plain, section, write_record
from ldm.commands.resuming import RECORD, make_run_dir, mark_unsaved, refuse_fewer_updates
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.files import slug, write_text
from ldm.nn.tokenizer import copy_tokenizer
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.runtime.tokenizers import NAME
from ldm.training.class_images import DIRECTORY as CLASS_IMAGES
from ldm.training.layers import count_unet_weights
from ldm.training.lora import count_adapter_weights
from ldm.user_files import resolved


def open_run(plan: RunPlan) -> Path:
    """The run's directory with its record. The first process writes it; others take its path from the environment."""
    if is_helper_process():
        return Path(os.environ[RUN_DIR_VARIABLE])
    if plan.options.resume_dir:
        directory: Path = plan.options.resume_dir
        _resume(plan, directory)
    else:
        directory = _create(plan)
    mark_unsaved(directory)
    return directory


def _create(plan: RunPlan) -> Path:
    """A new directory. Raises `UserError` if it can't be written, or the run would fill the disk."""
    refuse_without_room(plan)
    directory = make_run_dir(plan.output_dir, slug(plan.subject.class_name))
    copy_tokenizer(plan.tokenizer, directory / NAME)  # before the record: where that is, the run is complete
    write_record(directory / RECORD, vars(plan.options), **_identity(plan, directory), config=plan.yaml)
    return directory


def refuse_without_room(plan: RunPlan) -> None:
    """Raises `UserError` if the run's directory can't be written, or would fill the disk."""
    places = [plan.output_dir]
    class_images = [] if plan.own_class_images else plan.class_images.paths(plan.config.class_img_count)
    if not all(path.is_file() for path in class_images):  # if all are there they may be another user's
        places.append(plan.output_dir / CLASS_IMAGES)
    refuse_unwritable(*places)
    refuse_without_space(plan.output_dir, plan.config, **sizes_on_disk(plan), extra_name="class images")


def _identity(plan: RunPlan, directory: Path) -> dict[str, object]:
    """For the record: the SHA-256 of what the run began with, which its files keep when they move."""
    return {
        "directory": str(resolved(directory)),
        "base_sha256": plan.base_sha256,
        "photos": plan.photos,
        "tokenizer": plan.tokenizer_digest,
        **({"class_photos": _digests(plan.own_class_images)} if plan.own_class_images else {}),
        **({"captions": [*map(list, plan.captions)]} if any(plan.captions) else {}),
        **({"origins": plan.origins} if plan.origins else {}),
        **({"words": as_text(plan.embeddings)} if plan.embeddings else {}),
    }


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its name."""
    return {path.name: hash_file(path) for path in paths}


def _resume(plan: RunPlan, directory: Path) -> None:
    """Updates the record. Raises `UserError` unless weights and photos are those that the run began with."""
    record = read_yaml(directory / RECORD)
    if (expected := record.get("base_sha256")) != plan.base_sha256:
        raise UserError(
            f"{plan.base} is not the file that this run began with: its SHA-256 is {plan.base_sha256}, not {expected}. "
            "Name the file itself with --ckpt-path"
        )
    photos = {name: str(sha256) for name, sha256 in section(record, "photos").items()}
    if [*photos.values()] != [*plan.photos.values()]:  # they are trained on in this order; their names don't matter
        changed = sorted(dict(photos.items() ^ plan.photos.items()))
        raise UserError(
            f"the photos in {plan.options.instance_img_dir} are not those that this run began with: look at "
            f"{', '.join(changed)}. Name their folder with --instance-img-dir"
        )
    class_images = [str(sha256) for sha256 in section(record, "class_photos").values()]
    if class_images != [*_digests(plan.own_class_images).values()]:
        raise UserError(
            f"the class images in {plan.options.class_img_dir} are not those that this run began with. Name their "
            "folder with --class-img-dir"
        )
    if (captions := record.get("captions")) and captions != [*map(list, plan.captions)]:
        raise UserError(
            f"the captions of the photos in {plan.options.instance_img_dir} have changed since the run began"
        )
    refuse_fewer_updates(directory, plan.config.iterations)
    options = plain(vars(plan.options))
    identity = _identity(plan, directory)
    if origins := {**section(record, "origins"), **plan.origins}:
        identity["origins"] = origins
    write_text(directory / RECORD, to_yaml({**record, **identity, "options": options}))


def sizes_on_disk(plan: RunPlan) -> dict[str, int]:
    """Bytes of a checkpoint, of a resume state and of all class images."""
    sizes = dict.fromkeys(PARTS, 0)
    for key, tensor in read_checkpoint(plan.base).index.items():
        for part, prefix in PARTS.items():
            sizes[part] += tensor.numel() if key.startswith(prefix) else 0
    config, sampling = plan.config, plan.class_images.sampling
    unet = sizes["unet"] if config.train_layers == "all" else count_unet_weights(plan.settings.model, config)
    saved, trained = sum(sizes.values()), unet + sizes["text_encoder"] * config.train_text_encoder
    if config.lora:
        saved = trained = count_adapter_weights(plan.settings.model, config)
    if config.train == "embedding":
        saved = trained = config.vectors * plan.settings.model.text_encoder.hidden_size
    state = OPTIMIZERS[config.optimizer].load().state_bytes_per_weight[config.train_dtype]
    state += AVERAGE_BYTES if config.ema_decay else 0
    sampled = 0 if plan.own_class_images else config.class_img_count
    return {
        "checkpoint": SAVE_DTYPES[plan.options.save_dtype].itemsize * saved,
        "state": state * trained,
        "extra_bytes": image_bytes(sampled, sampling.height, sampling.width),
    }
