"""Checks the options in a run's record as the command line checks flags: a stranger's `run.yaml` may hold anything.

`resumable.py` has the rules for flags that are given beside `-r`.
"""

import argparse
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldm.commands.options.common import class_name, loggers, margins, words
from ldm.commands.options.convert import convert_parser
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.places import (
    CHECKPOINT,
    DIRECTORY,
    EMBEDDING,
    FILE,
    FILE_OR_DIRECTORY,
    LORA,
    OUTPUT,
    place,
    source,
    split_embedding,
    split_lora,
)
from ldm.commands.options.sampling import evaluate_parser, img2img_parser, txt2img_parser
from ldm.commands.options.train import train_parser
from ldm.errors import UserError

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "txt2img.py": txt2img_parser,
    "img2img.py": img2img_parser,
    "evaluate.py": evaluate_parser,
    "dreambooth.py": dreambooth_parser,
    "train.py": train_parser,
    "convert.py": convert_parser,
}


def check_recorded(options: Mapping[str, Any], script: str, record: Path) -> None:
    """Raises `UserError` for an option in a `record` that the script's command line would not take."""
    for action in PARSERS[script]()._actions:
        if action.dest in options and (fault := _fault(action, options[action.dest])):
            raise UserError(f"{record} is damaged: options.{action.dest} {fault}")


def _fault(action: argparse.Action, value: Any) -> str | None:
    if value is None:
        return None if action.default is None else "should not be empty"
    if action.nargs == 0:  # a switch
        return None if isinstance(value, bool) else f"should be true or false, not {reprlib.repr(value)}"
    if action.nargs not in ("+", "*"):
        return _fault_of_one(action, value)
    if not isinstance(value, list):
        return f"should be a list, not {reprlib.repr(value)}"
    return next((fault for one in value if (fault := _fault_of_one(action, one))), None)


def _fault_of_one(action: argparse.Action, value: Any) -> str | None:
    if action.choices is not None:
        known = isinstance(value, str) and value in action.choices
        return None if known else f"should be one of {', '.join(action.choices)}, not {reprlib.repr(value)}"
    # A path may have moved since, and an older run's class name may have an article.
    kinds: dict[Any, Any] = {
        FILE: place,
        FILE_OR_DIRECTORY: place,
        CHECKPOINT: place,
        DIRECTORY: place,
        source: place,
        OUTPUT: place,
        class_name: words,
        LORA: split_lora,
        EMBEDDING: split_embedding,
        None: str,
    }
    parse: Any = kinds.get(action.type, action.type)
    is_text = parse in (place, words, margins, str, split_lora, split_embedding, loggers)
    if not isinstance(value, str if is_text else int | float) or isinstance(value, bool):
        return f"should be {'text' if is_text else 'a number'}, not {reprlib.repr(value)}"
    try:
        parse(str(value))
    except argparse.ArgumentTypeError as error:
        return str(error)
    return None
