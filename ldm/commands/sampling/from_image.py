"""`--from-image`: the options of a call from the text in an image of this project, of A1111 or of its followers."""

import argparse
import logging
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.checkpoint.saving import hash_file
from ldm.choices import SAMPLERS
from ldm.commands.options.sampling import txt2img_parser
from ldm.commands.sampling.parameters import ETA_NAMES, SAMPLER_NAMES, SCHEDULE_NAMES, Parameters
from ldm.data.formats import open_image
from ldm.data.images import own_text
from ldm.errors import UserError
from ldm.sampling_options import SAMPLING_OPTIONS
from ldm.user_files import open_file

log = logging.getLogger(__name__)

REQUIRED = ("prompt", "negative_prompt", "seed", "sampler", "steps", "scale", "eta", "size")
"""Keys of our own text that images of every version have."""
FLAGS = {
    **{name: name for name in ("prompt", "negative_prompt", "seed")},
    "size": "hw",
    **{name: name for name in ("prompt_syntax", "clip_skip")},
    **{option.column: option.flag for option in SAMPLING_OPTIONS},
}
"""The flag of each key."""
SPACINGS = {name: spacing for spacing, name in SCHEDULE_NAMES.items()}
"""Our spacings by A1111's names. Older texts have the schedule behind the sampler's name."""
USED = (
    *("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash", "Model", "Version", "Eta DDIM", "Eta"),
    *("Denoising strength", "Schedule type", "Clip skip"),
)
"""Values of A1111's text that are used, or that change nothing."""
FLAGS_OF_FILES = {"lora": ("Lora hashes",), "embedding": ("TI hashes",), "vae": ("VAE", "VAE hash")}
"""Flags that give what an image's text only names, with the values that do so."""
LORA_TAG = re.compile(r" ?<lora:([^<>]*)>")
USER_COMMENT, EXIF = 0x9286, 0x8769
MOST_CHARACTERS = 100_000
"""Length of A1111's text, at most."""


def with_image_options(options: argparse.Namespace) -> argparse.Namespace:
    """The options with those of the image `options.from_image` where no flag is typed; one image unless `-v` is.

    Raises `UserError` if the image has no text that is understood.
    """
    path: Path = options.from_image
    own, foreign = _texts(path)
    found = _from_own(own, options.typed) if own else _from_parameters(foreign, path, options.typed)
    checked = {name: _checked(name, value, path) for name, value in found.items() if value}
    checked |= {"prompt": [checked.get("prompt", "")], "variations": 1}
    merged = {**vars(options), **{name: value for name, value in checked.items() if name not in options.typed}}
    return argparse.Namespace(**merged)


def _texts(path: Path) -> tuple[Mapping[str, str], Parameters]:
    """Our own text by key, empty if it isn't ours, and A1111's."""
    with open_file(path, "image") as file, open_image(file, path) as image:
        keys = (*FLAGS, "checkpoint", "strength", "lora", "embedding", "base")
        own = {key: text for key in keys if (text := own_text(image, key)) is not None}
        text = image.info.get("parameters") or _user_comment(image)
        by_comfy = "workflow" in image.info
    if own.keys() >= {*REQUIRED}:
        if "strength" in own:
            raise UserError(f"{path} was made by img2img.py from another image: repeat it with img2img.py -i and -s")
        values = Parameters.from_text(text[-MOST_CHARACTERS:]).values if isinstance(text, str) else {}
        return {**own, "vae": values.get("VAE", "")}, Parameters("")
    if not isinstance(text, str) or not text.strip():
        kind = "ComfyUI's workflow, which is not read here" if by_comfy else "no text that says how it was made"
        raise UserError(f"{path} holds {kind}; a copy that was edited or sent by a messenger has lost it")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{path} holds a text of {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    return {}, Parameters.from_text(text)


def _user_comment(image: Image.Image) -> str:
    """Where A1111 writes its text into JPEG and WebP: behind a name of its encoding of 8 bytes."""
    comment = image.getexif().get_ifd(EXIF).get(USER_COMMENT, b"")
    if isinstance(comment, str):
        return comment
    encoding = "utf-16-be" if comment[:7] == b"UNICODE" else "utf-8"
    return str(comment[8:].decode(encoding, errors="replace")) if isinstance(comment, bytes) else ""


def _from_own(own: Mapping[str, str], typed: Collection[str]) -> dict[str, str]:
    _warn_of_files({name: own.get(name, "") for name in FLAGS_OF_FILES}, typed)
    return {flag: own[key] for key, flag in FLAGS.items() if key in own}


def _warn_of_files(named: Mapping[str, str], typed: Collection[str]) -> None:
    """Warns of files that an image's text names and no flag gives: their places are not in it."""
    for name, files in named.items():
        if files and name not in typed:
            log.warning("not repeated: %s %s (--%s gives it)", name, files[:500], name)


def _from_parameters(text: Parameters, path: Path, typed: Collection[str]) -> dict[str, str]:
    values = text.values
    if not values:
        raise UserError(f"{path} holds a text without the values of sampling: Steps, Sampler, Seed ...")
    if "Denoising strength" in values and "Hires upscale" not in values:
        raise UserError(f"{path} was made from another image, which its text doesn't hold (Denoising strength)")
    name, schedule = values.get("Sampler", ""), values.get("Schedule type", "")
    for one in SPACINGS:
        if name.endswith(f" {one}"):
            name, schedule = name.removesuffix(f" {one}"), one
    names = {theirs: ours for ours, theirs in SAMPLER_NAMES.items()}
    sampler = names.get(name, name)
    if sampler not in SAMPLERS and "sampler" not in typed:
        raise UserError(f"{path} was made with the sampler {name[:60]!r}, which is not here; choose one with --sampler")
    log.warning(
        "%s was made by another program, whose noise for the same seed may be another%s: the image will differ",
        *(path, "" if schedule in ("", "Automatic", *SPACINGS) else f", and with the schedule {schedule}"),
    )
    _warn_of_files({"lora": ", ".join(LORA_TAG.findall(text.prompt))}, typed)
    given = [value for flag, named in FLAGS_OF_FILES.items() if flag in typed for value in named]
    if ignored := [name for name in values if name not in (*USED, *given)]:
        log.warning("not repeated: %s", ", ".join(f"{name}: {values[name]}" for name in ignored)[:500])
    return {
        "prompt": LORA_TAG.sub("", text.prompt).strip().replace("\n", " "),
        "negative_prompt": text.negative_prompt.replace("\n", " "),
        "seed": values.get("Seed", ""),
        "sampler": sampler,
        "ddim_steps": values.get("Steps", ""),
        "scale": values.get("CFG scale", ""),
        "ddim_eta": values.get(ETA_NAMES.get(sampler, ""), ""),
        "hw": values.get("Size", ""),
        "spacing": SPACINGS.get(schedule, ""),
        "prompt_syntax": "a1111",
        "clip_skip": values.get("Clip skip", ""),
    }


def _checked(name: str, value: str, path: Path) -> Any:
    """A value as its flag would give it: the text may be anyone's."""
    action = next(action for action in txt2img_parser()._actions if action.dest == name)
    parse: Callable[[str], Any] = action.type if callable(action.type) else str
    try:
        if name == "hw":
            return [parse(side) for side in reversed(value.split("x", 1))]
        checked = parse(value)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{path}: its text can't be used: {name} {error}") from error
    if action.choices is not None and checked not in action.choices:
        raise UserError(f"{path}: its text can't be used: {name} is {value[:60]!r}, which is not here")
    return checked


def warn_of_another_model(options: argparse.Namespace, weights: Path, base: Path | None) -> None:
    """Warns if an image's text names another checkpoint than the one that is used, or another `base` of a LoRA file."""
    path: Path = options.from_image
    own, text = _texts(path)
    if "base" in own and "base" not in options.typed and (base is None or base.name != own["base"]):
        _warn_of_files({"base": own["base"]}, ())
    if base and not own:
        weights = base  # A1111's text names the base model, and the LoRA file in its prompt
    digest = text.values.get("Model hash", "")
    if digest and weights.is_file():
        same, name = hash_file(weights).startswith(digest), f"{text.values.get('Model', '')} ({digest})".strip()
    else:
        name = own.get("checkpoint") or text.values.get("Model", "")
        same = name in ("", weights.name, weights.stem)
    if not same:
        log.warning("%s was made with the model %s, not with %s; --ckpt-path names another", path, name, weights)
