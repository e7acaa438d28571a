"""Turns YAML into frozen dataclasses: values only; an unknown key is an error that names the nearest known one.

Not `OmegaConf.structured`: its errors name neither the file nor the nearest key, and it sets no limits on sizes.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ldm.errors import UserError
from ldm.user_files import read_text
from ldm.yaml_values import YamlError, dump_yaml, parse_yaml

Config = TypeVar("Config")

LONGEST_LIST = 1000
MOST_BYTES = 32_000_000
"""The size of a YAML file, at most: a run record can be long."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of nested keys and values."""
    try:
        values = parse_yaml(read_text(path, MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"there is no config file {path}") from None
    except YamlError as error:
        raise UserError(f"{path} is not a readable YAML file: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold `key: value` lines, but holds a {type(values).__name__}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """The values as YAML text, in their order."""
    return dump_yaml(_escaped(dict(values)))


def _escaped(value: Any) -> Any:
    """Escapes "${" in text, which would be read as a reference to another value."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list | tuple) else value


def build_config(cls: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """Fills the dataclass `cls` from nested `values`; `source` names the file or section in errors.

    Raises `UserError` for an unknown key, a missing one, or a value of another type.
    """
    values = renewed(cls, values)
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            shown = str(key)[:60]
            nearest = difflib.get_close_matches(shown, known, n=1, cutoff=0.0)
            raise UserError(f"{source}: unknown key '{shown}'; the nearest known one is '{nearest[0]}'")
    required = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(values)):
        raise UserError(f"{source}: missing {', '.join(missing)}")
    try:
        return cls(**{key: _convert(hints[key], value, f"{source}: {key}") for key, value in values.items()})
    except (ValueError, OverflowError) as error:  # from the dataclass's own checks, or a number too large for its type
        raise UserError(f"{source}: {error}") from error


def renewed(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those of earlier versions replaced: `cls.EARLIER`, if it exists, has them by key.

    Keys that are not fields of `cls` stay as they are.
    """
    earlier: Mapping[str, Mapping[Any, Any]] = getattr(cls, "EARLIER", {})
    return {
        key: earlier[key].get(value, value) if key in earlier and isinstance(value, str | bool) else value
        for key, value in values.items()
    }


def _convert(kind: Any, value: Any, source: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{source} should hold keys of its own, not {reprlib.repr(value)}")
        return build_config(typing.cast(type, kind), value, source)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{source} should be a list, not {reprlib.repr(value)}")
        if len(value) > LONGEST_LIST:
            raise UserError(f"{source} should be a list of {LONGEST_LIST} values at most, not {len(value)}")
        return tuple(_convert(typing.get_args(kind)[0], item, source) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{source} should be {getattr(kind, '__name__', kind)}, not {reprlib.repr(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{source} should be a finite number, not {value}")
    return value
