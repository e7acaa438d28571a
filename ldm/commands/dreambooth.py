"""DreamBooth from photos to checkpoints: class pictures, encoding, training, previews, report."""

import argparse
import gc
import logging
import os
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, hash_file, save_checkpoint
from ldm.commands.app import log_to_file
from ldm.commands.class_images import draw_class_images
from ldm.commands.drawing import sampling_from
from ldm.commands.models import ModelSlot, Settings, base_weights, settings_of, snapped_size, tokenizer_dir
from ldm.commands.options import dreambooth_parser
from ldm.commands.placement import Compute, drawing_compute, explain_out_of_memory, parse_devices, training_compute
from ldm.commands.previews import Previews
from ldm.commands.record import versions, write_record
from ldm.config import read_yaml, to_yaml
from ldm.data.dreambooth import encode_moments
from ldm.data.images import fit as fit_image
from ldm.data.images import read_directory, read_image, to_tensor
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.files import make_numbered_dir, slug, write_text
from ldm.nn.tokenizer import copy_tokenizer
from ldm.training.class_images import ClassImages
from ldm.training.dreambooth import DreamBooth, DreamBoothConfig, Subject
from ldm.training.movement import weight_movement
from ldm.training.trainer import FitOptions, fit

log = logging.getLogger(__name__)

RECORD = "run.yaml"
RUN_DIR_VARIABLE = "LDM_RUN_DIR"
"""Tells the processes of further devices which run they belong to."""
MAY_CHANGE = ("resume_dir", "devices", "logger", "iterations", "no_previews", "save_every")
"""Flags that a resumed run takes from the command line; the others are the run's own."""


@dataclass(frozen=True)
class Run:
    """Everything that is decided before anything is computed."""

    directory: Path
    options: argparse.Namespace
    base: Path
    base_sha256: str
    yaml: dict[str, Any]
    settings: Settings
    subject: Subject
    config: DreamBoothConfig
    sampling: SamplingConfig
    devices: list[torch.device]
    compute: Compute


def dreambooth(options: argparse.Namespace) -> None:
    """Runs or continues a training."""
    if options.resume_dir:
        options = _resumed_options(options)
    run = _prepare(options)
    log.info("run: %s", run.directory)
    with explain_out_of_memory("--gradient-checkpointing, a smaller --hw or --batch-size 1 need less"):
        photos, instance_images = read_directory(options.instance_img_dir, run.sampling.height, run.sampling.width)
        log.info("%d photos of '%s' from %s", len(photos), run.subject.class_name, options.instance_img_dir)
        class_images = _class_images(run)
        module = _build_module(run, instance_images, class_images)
        os.environ[RUN_DIR_VARIABLE] = str(run.directory)
        stopped_at = fit(
            module,
            FitOptions(run.directory, run.devices, run.compute.autocast_dtype, options.logger),
            _saver(run),
        )
    if stopped_at is not None:
        log.info("stopped after update %d; continue with\n  python dreambooth.py -r %s", stopped_at, run.directory)
    elif module.global_rank == 0:
        _report(run, module)


def _resumed_options(given: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`, with what `MAY_CHANGE` from the command line."""
    record = given.resume_dir / RECORD
    if not record.is_file():
        raise UserError(f"{given.resume_dir} is no run of dreambooth.py: it has no {RECORD}")
    saved = read_yaml(record).get("options", {})
    defaults = vars(dreambooth_parser().parse_args([]))
    options = {name: saved.get(name, default) for name, default in defaults.items()}
    for name, value in vars(given).items():
        if value == defaults[name]:
            continue
        if name not in MAY_CHANGE and str(value) != str(options[name]):
            raise UserError(
                f"--{name.replace('_', '-')} can't change in a resumed run: it is {options[name]} there. "
                "Leave it out, or start a new run"
            )
        options[name] = value
    for name in ("ckpt_path", "config", "instance_img_dir", "output_dir"):
        options[name] = Path(options[name]) if options[name] else None
    return argparse.Namespace(**options)


def _prepare(options: argparse.Namespace) -> Run:
    """Decides everything, checks what can be checked, makes the run's directory and writes its record."""
    if not options.class_name or not options.instance_img_dir:
        raise UserError('--class-name and --instance-img-dir are needed: -c "water bottle" -i data/bottle')
    devices = parse_devices(options.devices)
    compute = training_compute(devices[0], options.precision)
    base = base_weights(options.ckpt_path)
    if base.is_dir():
        raise UserError(f"--ckpt-path takes one checkpoint to start from, and {base} is a directory")
    file = read_checkpoint(base)
    yaml, settings = settings_of(file, options.config)
    height, width = snapped_size(settings.model, options.hw, (settings.sampling.height, settings.sampling.width))
    sampling = sampling_from(options, settings.sampling, height, width)
    config = _config_from(options, settings.dreambooth)
    read_directory(options.instance_img_dir, settings.model.size_multiple, settings.model.size_multiple)

    resolved = {
        **vars(options),
        **{name: value for name, value in asdict(config).items() if name in vars(options)},
        "hw": [height, width],
        "sampler": sampling.sampler,
        "ddim_steps": sampling.num_steps,
        "scale": sampling.guidance_scale,
        "ddim_eta": sampling.eta,
        "lamb": config.prior_loss_weight,
        "ckpt_path": base.resolve(),
        "config": options.config and options.config.resolve(),
        "instance_img_dir": options.instance_img_dir.resolve(),
        "output_dir": options.output_dir.resolve(),
    }
    log.info("reading %s for its SHA-256", base)
    base_sha256 = hash_file(base)
    if options.resume_dir:
        directory = options.resume_dir
        if (was := read_yaml(directory / RECORD).get("base_sha256")) != base_sha256:
            raise UserError(f"{base} is not the file that this run began with: its SHA-256 is {base_sha256}, not {was}")
    elif _is_helper_process():
        directory = Path(os.environ[RUN_DIR_VARIABLE])
    else:
        _check_disk_space(options.output_dir, file.tensors, config)
        directory = make_numbered_dir(options.output_dir, slug(options.class_name))
        write_record(directory / RECORD, resolved, base_sha256=base_sha256, config=yaml)
        copy_tokenizer(tokenizer_dir(base, settings), directory / "tokenizer")
    if not _is_helper_process():
        log_to_file(directory / "run.log")
    return Run(
        directory=directory,
        options=argparse.Namespace(**resolved),
        base=base,
        base_sha256=base_sha256,
        yaml=yaml,
        settings=settings,
        subject=Subject(options.class_name),
        config=config,
        sampling=sampling,
        devices=devices,
        compute=compute,
    )


def _config_from(options: argparse.Namespace, defaults: DreamBoothConfig) -> DreamBoothConfig:
    """The flags where they were given, the model's defaults elsewhere."""
    given = {field.name: getattr(options, field.name, None) for field in fields(DreamBoothConfig)}
    given["prior_loss_weight"] = options.lamb
    given["preview_prompts"] = () if options.no_previews else options.preview_prompts and tuple(options.preview_prompts)
    config = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    return replace(config, class_img_count=0) if config.prior_loss_weight == 0 else config


def _check_disk_space(output_dir: Path, tensors: dict[str, Tensor], config: DreamBoothConfig) -> None:
    """A run that would fill the disk fails before it begins."""
    weights = sum(tensor.numel() for tensor in tensors.values())
    checkpoints = -(-config.iterations // config.save_every)
    needed = checkpoints * 2 * weights + 2 * 12 * weights  # half precision; two resume states while one is replaced
    existing = next(parent for parent in [output_dir.resolve(), *output_dir.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{checkpoints} checkpoints and the resume state need up to {needed / 1e9:.0f} GB, but {existing} has "
            f"{free / 1e9:.0f} GB free. Save less often (--save-every) or elsewhere (--output-dir)"
        )


def _class_images(run: Run) -> list[Path]:
    """The class pictures; those not there yet are drawn, on all devices."""
    count = run.config.class_img_count
    if count == 0:
        return []
    compute = drawing_compute(run.devices[0], "auto")
    cache = ClassImages(
        root=run.options.output_dir / "class-images",
        prompt=run.subject.class_prompt,
        base_sha256=run.base_sha256,
        sampling=run.sampling,
        seed=run.options.seed,
        precision=str(compute.dtype).removeprefix("torch."),
    )
    missing = cache.missing(count)
    if missing and not _is_helper_process():
        batch_size = run.options.generation_batch_size or run.settings.sampling.batch_size
        log.info("drawing %d of %d class pictures '%s' into %s", len(missing), count, cache.prompt, cache.directory)
        draw_class_images(cache, missing, batch_size, run.base, run.settings, run.devices)
    else:
        log.info("%d class pictures '%s' from %s", count, cache.prompt, cache.directory)
    return cache.paths(count)


def _build_module(run: Run, instance_images: Tensor, class_images: list[Path]) -> DreamBooth:
    """Loads the base weights and encodes all pictures."""
    device = run.devices[int(os.environ.get("LOCAL_RANK", 0)) % len(run.devices)]
    ldm = ModelSlot(Compute(device)).use(read_checkpoint(run.base), run.settings)
    height, width = run.sampling.height, run.sampling.width
    instance_moments = encode_moments(ldm.autoencoder, instance_images, run.config.flip)
    class_moments = None
    if class_images:
        encoded = [
            encode_moments(
                ldm.autoencoder, to_tensor(fit_image(read_image(path), height, width))[None], run.config.flip
            )
            for path in tqdm(class_images, desc="encoding", unit="img", disable=_is_helper_process())
        ]
        class_moments = torch.cat(encoded)
    gc.collect()
    return DreamBooth(ldm, run.subject, instance_moments, class_moments, run.config, run.options.seed)


def _saver(run: Run) -> Any:
    """Writes a checkpoint and its previews."""
    previews = Previews(run.directory, run.subject, run.config.preview_prompts, run.sampling, run.options.seed)
    info = CheckpointInfo(
        config=run.yaml,
        class_name=run.subject.class_name,
        instance_prompt=run.subject.instance_prompt,
        class_prompt=run.subject.class_prompt,
        seed=run.options.seed,
        base=run.base.name,
        base_sha256=run.base_sha256,
        options=read_yaml(run.directory / RECORD)["options"],
        versions=versions(),
    )

    def save(module: DreamBooth, step: int) -> None:
        path = run.directory / f"step-{step:05d}.safetensors"
        save_checkpoint(path, module.ldm, replace(info, step=step), SAVE_DTYPES[run.options.save_dtype])
        with run.compute.autocast():
            previews.draw(module, step)

    return save


def _report(run: Run, module: DreamBooth) -> None:
    """Says how far each part moved, and how to compare the checkpoints."""
    moved = weight_movement(module.ldm, run.base)
    write_text(run.directory / "report.yaml", to_yaml({"updates": run.config.iterations, "relative_movement": moved}))
    lines = "\n".join(f"  {group:24s} {100 * share:8.4f} %" for group, share in moved.items())
    log.info("%d updates made. The weights moved by\n%s", run.config.iterations, lines)
    log.info("compare the checkpoints with\n  python txt2img.py --ckpt-path %s", run.directory)


def _is_helper_process() -> bool:
    """Whether this process was started for a further device of a run."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
