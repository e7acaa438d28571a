"""Keyword arguments as flags: they are parsed, checked and given defaults by the parser of the command itself.

A flag `--save-every` is the keyword `save_every`; a list stands for several values, True or False for a switch. So a
new flag of a command is a new keyword argument without a change here. Messages of the commands name flags; they reach
the caller with keywords in their place, by the same parser.
"""

import argparse
import difflib
import numbers
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from ldm.errors import UserError

SHORTER = {"steps": "ddim_steps", "eta": "ddim_eta", "prompts": "prompt"}
"""Keywords of all functions that are not named like their option, with that option."""

NAMED_ARGUMENT = re.compile(r"argument (?:-\w/)?(--[\w-]+)\S*: ")
"""How argparse begins a message about one flag."""

FLAG = re.compile(
    r"`[^`\n]*`|\b(?:python|bash) \S+[^\n]*"  # a command to copy: it keeps its flags
    r"|(?<![\w/.'\"-])(?P<flag>--[a-z][\w-]*|-[a-zA-Z](?![\w-]))"
    r"(?:[ =](?P<value>\"[^\"\n]*\"|\d[\d.e-]*(?: \d+)*|[\w~.-]*/[\w/~.-]*|\w+))?"
)
"""A flag in a message, and the word behind it, which may be its value."""


@contextmanager
def parsed_keywords(
    parser: argparse.ArgumentParser, given: Mapping[str, Any], aliases: Mapping[str, str] | None = None
) -> Iterator[tuple[argparse.Namespace, list[str]]]:
    """The options that these keyword arguments mean, and the flags that mean the same on a command line.

    None stands for the default. `aliases`: further keywords of the calling function, each with its option, such as
    {"path": "ckpt_path"}. Raises `UserError` for an unknown name or a value that the flag would not take. In the block,
    errors and printed warnings name keywords instead of flags.
    """
    keywords = _Keywords(parser, given, {**SHORTER, **(aliases or {})})
    token = _current.set(keywords)
    try:
        yield keywords.parse()
    except UserError as error:
        error.args = (keywords.in_place_of_flags(str(error)),)
        raise
    finally:
        _current.reset(token)


def as_path(name: str, value: object) -> Path:
    """The value of an argument that is a path. Raises `UserError` for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name} should be a path, not {reprlib.repr(value)}")
    return Path(value)


def with_keywords(message: str) -> str:
    """A message with the keywords of the call that is running, if there is one, in place of flags."""
    keywords = _current.get()
    return message if keywords is None else keywords.in_place_of_flags(message)


class _Keywords:
    """The keyword arguments of one call. `aliases`: keywords that are not named like their option, with that option."""

    def __init__(self, parser: argparse.ArgumentParser, given: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        self.parser, self.aliases = parser, aliases
        self.given = {name: value for name, value in given.items() if value is not None}
        self.known = _actions_by_name(parser)

    def parse(self) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the flags."""
        words: list[str] = []
        used: dict[argparse.Action, str] = {}
        for name, value in self.given.items():
            action = self._action(name)
            if action is None:
                raise UserError(_unknown(name, [*self.known, *self.aliases]))
            if action in used:
                raise UserError(f"{used[action]} and {name} are the same option: leave one out")
            used[action] = name
            words += _flag(name, action, value)
        self.parser.error = self._refuse  # type: ignore[method-assign]
        return self.parser.parse_args(words), words

    def in_place_of_flags(self, message: str) -> str:
        """The message with `hw=(64, 64)` where it says `--hw 64 64`."""
        return FLAG.sub(self._in_place_of_flag, message)

    def _action(self, name: str) -> argparse.Action | None:
        return self.known.get(self.aliases.get(name, name))

    def _in_place_of_flag(self, match: re.Match[str]) -> str:
        """`hw=(64, 64)` for the match `--hw 64 64`; what is no flag of this command stays as it is."""
        flag, value = match["flag"], match["value"]
        action = self.parser._option_string_actions.get(flag or "")
        if action is None:
            return match[0]
        name, behind = self._keyword_of(action), match[0].removeprefix(flag)
        if isinstance(action, argparse.BooleanOptionalAction) and flag.startswith("--no-"):
            return f"{name}=False{behind}"
        literal, rest = _as_literal(action, value) if value else ("", "")
        return f"{name}={literal}{rest}" if literal else f"{name}{behind}"

    def _keyword_of(self, action: argparse.Action) -> str:
        """The keyword of an option: the one in this call, else the shorter of its first long flag and its aliases."""
        names = [name for name in (*self.given, *self.aliases) if self._action(name) is action]
        long = next(option for option in action.option_strings if option.startswith("--"))
        given = [name for name in names if name in self.given]
        return given[0] if given else min([_as_keyword(long), *names], key=len)

    def _refuse(self, message: str) -> NoReturn:
        """In place of `parser.error`, which would end Python."""
        raise UserError(NAMED_ARGUMENT.sub(r"\1 ", message, count=1))


_current: ContextVar[_Keywords | None] = ContextVar("_current", default=None)


def _as_keyword(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _as_literal(action: argparse.Action, value: str) -> tuple[str, str]:
    """Splits the words behind a flag in a message: the flag's value as a Python literal, and the rest of the message.

    `64 64` behind `--hw` gives `(64, 64)` and nothing; a word that is no value of the flag gives nothing and itself.
    """
    if action.nargs == 0:
        return "", value
    if value[0].isdigit():
        found, *more = value.split(" ")
        if action.nargs is None or not more:
            return found, "".join(f" {word}" for word in more)
        return f"({', '.join([found, *more])})", ""
    if value[0] == '"' or value == action.metavar:
        return value, ""
    if "/" in value or value in (action.choices or ()):
        return f'"{value}"', ""
    return "", value


def _actions_by_name(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every flag by its long names and by the name of its option."""
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        longs = [_as_keyword(option) for option in action.option_strings if option.startswith("--")]
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


def _unknown(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
