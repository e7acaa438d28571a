"""A resumed call: its options, and where its checkpoints, images and base weights are now."""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldm.checkpoint.diffusers_directory import files_of
from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.elsewhere import Moved, find_known, first, known_weights, moved, sha256_of
from ldm.commands.options.resumable import SAMPLING, flag_of
from ldm.commands.resuming import RECORD, changed, resumed_options
from ldm.commands.sampling.adapters import (
    embeddings_of,
    loras_of,
    needs_base,
    recorded_embeddings,
    recorded_loras,
)
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.job import CLASS_PROMPT
from ldm.commands.sampling.prompts import with_all_prompts
from ldm.config import read_yaml
from ldm.errors import UserError
from ldm.terminal import command_line
from ldm.user_files import is_checkpoint

log = logging.getLogger(__name__)

OWN_FLAGS = {"img2img": "init_img", "evaluate": "protocol"}
"""Options that only the record of this command has."""

FILES = {"init_img": "the image that this call starts from", "mask": "the mask of that image"}
"""Options that are files known by their SHA-256."""
PATHS = ("ckpt_path", "config", "output_dir", "base", "instance_img_dir", "vae", "from_image", *FILES)


def recorded_command(options: Mapping[str, Any]) -> str:
    """The command that recorded these options: txt2img, img2img or evaluate."""
    return next((command for command, own in OWN_FLAGS.items() if own in options), "txt2img")


def resumed_call_options(options: argparse.Namespace, command: str) -> argparse.Namespace:
    """The options of the call in `--resume-dir`; those of the command line replace what may change."""
    options = _with_class_prompt(_with_all_prompts(options))
    recorded = {
        "lora": recorded_loras(loras_of(options)),
        "embedding": recorded_embeddings(embeddings_of(options)),
    }
    options = argparse.Namespace(**{**vars(options), **recorded})
    resumed = resumed_options(
        options,
        script=f"{command}.py",
        own_option="variations",
        rules=SAMPLING,
        paths=[name for name in PATHS if hasattr(options, name)],
    )
    if "base" in options.typed:
        resumed.no_base = False
    if "no_base" in options.typed:
        resumed.base = None
    record = read_yaml(options.resume_dir / RECORD)
    other = recorded_command(record["options"])
    if other != command:
        raise UserError(
            f"{options.resume_dir} is {other}.py's; continue it with\n  "
            f"{command_line(f'{other}.py', '-r', options.resume_dir)}"
        )
    return _found_again(resumed, record)


def identities(weights: Path, checkpoints: Iterable[Checkpoint], files: Mapping[str, Path | None]) -> dict[str, Any]:
    """For the record: what identifies the checkpoints, the initial image and its mask if their paths change."""
    return {
        "known": {
            os.path.relpath(one.path, weights): sha256_of(one.path) if one.base_file else _identity(one.path, one.info)
            for one in checkpoints
        },
        "files": {name: sha256_of(path) for name, path in files.items() if path},
    }


def _found_again(options: argparse.Namespace, record: dict[str, Any]) -> argparse.Namespace:
    """The options with current paths. Raises `UserError` if something is missing or its content has changed."""
    moved_run = moved(options.resume_dir, record)
    options.output_dir = moved_run.now.parent
    recorded = Path(str(record["options"].get("ckpt_path") or options.ckpt_path))
    if "ckpt_path" in options.typed:
        if options.ckpt_path != recorded and not _holds_checkpoints(options.ckpt_path, record, recorded):
            raise changed("ckpt_path", recorded, SAMPLING["ckpt_path"])
    else:
        options.ckpt_path = _find_checkpoints(recorded, record, moved_run)
    for name in FILES:
        if getattr(options, name, None):
            _find_file(options, name, record, moved_run)
    for name in ("base", "instance_img_dir", "config", "vae"):
        path: Path | None = getattr(options, name)
        if path is not None and name not in options.typed and not path.exists():
            setattr(options, name, first(moved_run.places(path), Path.exists) or path)
    if options.lora and "lora" not in options.typed:
        places = [(moved_run.places(one.path), one) for one in loras_of(options)]
        options.lora = recorded_loras([replace(one, path=first(at, Path.is_file) or one.path) for at, one in places])
    if options.embedding and "embedding" not in options.typed:
        found = [(first(moved_run.places(path), Path.is_file) or path, token) for path, token in embeddings_of(options)]
        options.embedding = recorded_embeddings(found)
    if options.base is not None and "base" not in options.typed and not options.base.exists():
        log.info("%s is no longer there: the base model is searched by its SHA-256", options.base)
        options.base = None
    return options


def _find_checkpoints(recorded: Path, record: dict[str, Any], moved_run: Moved) -> Path:
    if not recorded.exists():
        weights = known_weights(recorded.name)
        if found := first(weights, lambda path: is_checkpoint(path) and _holds_checkpoints(path, record, recorded)):
            log.info("%s has moved: %s", recorded, found)
            return found
    names = ", ".join(list(record.get("known") or {})[:3]).replace("./", "")
    description = f"which this call samples with{f' ({names})' if names not in ('', '.') else ''}"
    holds = partial(_holds_checkpoints, record=record, recorded=recorded)
    return find_known(recorded, holds, moved_run, description, "--ckpt-path")


def _holds_checkpoints(path: Path, record: dict[str, Any], recorded: Path) -> bool:
    """Whether at least one of the call's checkpoints is there with the same content; there may be newer ones."""
    known = record.get("known")
    if not isinstance(known, dict):  # the record of an older version has only their paths
        listed = [_below(recorded, Path(str(one))) for one in record.get("checkpoints") or ()]
        return any((path / relative).is_file() for relative in listed if not relative.startswith(".."))
    files = [(path / relative, identity) for relative, identity in known.items()]
    return any(is_checkpoint(file) and _read_identity(file) == identity for file, identity in files)


def _below(recorded: Path, one: Path) -> str:
    """A listed checkpoint's path below the recorded one; it may be relative to wherever the call was made."""
    if one.is_absolute():
        return os.path.relpath(one, recorded)
    parts = [part for part in one.parts if part != ".."]
    shared = [count for count in range(1, len(parts) + 1) if tuple(parts[:count]) == recorded.parts[-count:]]
    depth = max(shared, default=0)
    return str(Path(*parts[depth:]))


def _read_identity(path: Path) -> str:
    try:
        file = read_checkpoint(path)
        return sha256_of(path) if needs_base(file) else _identity(path, checkpoint_info(file))
    except UserError:
        return ""


def _identity(path: Path, info: CheckpointInfo) -> str:
    """Identifies a checkpoint without reading its weights: by a digest of its parts' digests, or else by its size."""
    if path.is_dir() or not all(info.parts.get(part) for part in PARTS):
        return f"{sum(file.stat().st_size for file in files_of(path))} bytes"
    return hashlib.sha256(json.dumps(info.parts, sort_keys=True).encode()).hexdigest()


def _find_file(options: argparse.Namespace, name: str, record: dict[str, Any], moved_run: Moved) -> None:
    """Finds the initial image or its mask. One changed at its path is used as it is: all images are sampled again."""
    files, given = record.get("files"), getattr(options, name)
    sha256 = files.get(name) if isinstance(files, dict) else None
    if name in options.typed:
        if sha256 is not None and given.is_file() and sha256_of(given) != sha256:
            raise changed(name, record["options"][name], SAMPLING[name])
        return
    found = find_known(
        given,
        lambda path: path.is_file() and sha256 in (None, sha256_of(path)),
        moved_run,
        f"{FILES[name]}{f', with the SHA-256 {sha256}' if sha256 else ''}",
        flag_of(name),
    )
    setattr(options, name, found)


def _with_all_prompts(options: argparse.Namespace) -> argparse.Namespace:
    """The options with typed prompts as the first call read them; those of its record have been expanded by it."""
    record = options.resume_dir / RECORD
    recorded = read_yaml(record).get("options") if record.is_file() else None
    if not isinstance(recorded, dict) or options.prompt == recorded.get("prompt"):
        return options
    syntax = recorded.get("prompt_syntax", "plain")
    expanded = with_all_prompts(argparse.Namespace(**{**vars(options), "prompt_syntax": syntax}))
    return argparse.Namespace(**{**vars(options), "prompt": expanded.prompt})


def _with_class_prompt(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the prompt of the class, if scoring added it to the same prompts in the first call."""
    record = options.resume_dir / RECORD
    recorded = read_yaml(record).get("options") if record.is_file() else None
    if options.prompt and isinstance(recorded, dict) and recorded.get("prompt") == [*options.prompt, CLASS_PROMPT]:
        return argparse.Namespace(**{**vars(options), "prompt": recorded["prompt"]})
    return options
