"""Keyword arguments as flags: they are parsed, checked and given defaults by the parser of the command itself.

A flag `--save-every` is the keyword `save_every`; a list stands for several values, True or False for a switch. So a
new flag of a command is a new keyword argument without a change here.
"""

import argparse
import difflib
import numbers
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ldm.errors import UserError

SHORTER = {"steps": "ddim_steps", "eta": "ddim_eta", "prompts": "prompt"}
"""Keywords that are not called as their flags are."""

NAMED_ARGUMENT = re.compile(r"argument (\S+): ")
"""How argparse begins a message about one flag."""


def parse_keywords(parser: argparse.ArgumentParser, given: Mapping[str, Any]) -> tuple[argparse.Namespace, list[str]]:
    """The options that these keyword arguments mean, and the flags that mean the same on a command line.

    None stands for the default. Raises `UserError` for an unknown name or a value that the flag would not take.
    """
    known = _actions_by_name(parser)
    words: list[str] = []
    used: dict[argparse.Action, str] = {}
    for name, value in given.items():
        if value is None:
            continue
        action = known.get(SHORTER.get(name, name))
        if action is None:
            raise UserError(_unknown(name, known))
        if action in used:
            raise UserError(f"{used[action]} and {name} are the same option: leave one out")
        used[action] = name
        words += _flag(name, action, value)
    parser.error = _refuse(used)  # type: ignore[method-assign]
    return parser.parse_args(words), words


def _actions_by_name(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every flag by its long names and by the name of its option."""
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        longs = [option[2:].replace("-", "_") for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse.BooleanOptionalAction):
            longs = [name for name in longs if not name.startswith("no_")]
        known |= dict.fromkeys([*longs, action.dest], action)
    return known


def _flag(name: str, action: argparse.Action, value: Any) -> list[str]:
    """One keyword argument as words of a command line. `--flag=value` also takes values that begin with a dash."""
    option = next(option for option in action.option_strings if option.startswith("--"))
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{name} should be True or False, not {reprlib.repr(value)}")
        if isinstance(action, argparse.BooleanOptionalAction) and not value:
            return [option.replace("--", "--no-", 1)]
        return [option] if value else []
    if action.nargs == "?" and value is True:
        return [option]
    if action.nargs not in ("+", "*"):
        return [f"{option}={_text(name, value)}"]
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise UserError(f"{name} is empty: give at least one value, or leave it out")
    texts = [_text(name, one) for one in values]
    if isinstance(action, argparse._ExtendAction):
        return [f"{option}={text}" for text in texts]
    return [option, *texts]


def _text(name: str, value: Any) -> str:
    """One value as it is typed."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(os.fspath(value))
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        raise UserError(f"{name} should be text, a number or a path, not {reprlib.repr(value)}")
    return str(value)


def _unknown(name: str, known: Mapping[str, argparse.Action]) -> str:
    names = [*known, *SHORTER]
    near = difflib.get_close_matches(name, names, 1)
    return f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _refuse(used: Mapping[argparse.Action, str]) -> Any:
    """In place of `parser.error`, which would end Python: names the keyword argument instead of the flag."""
    names = {"/".join(action.option_strings): name for action, name in used.items()}

    def refuse(message: str) -> NoReturn:
        raise UserError(NAMED_ARGUMENT.sub(lambda match: f"{names.get(match[1], match[1])} ", message, count=1))

    return refuse
