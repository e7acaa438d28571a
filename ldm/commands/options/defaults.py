"""Both models' own defaults in `--help`: read from their YAML when the help is printed, without torch."""

import argparse
import re
from functools import cache
from pathlib import Path
from typing import Any

from ldm.files import ROOT

STABLE_DIFFUSION, TINY = (ROOT / "configs" / name for name in ("sd-v1.yaml", "tiny.yaml"))
KEYS = re.compile(r"<<([\w.,]+)>>")
LINE = re.compile(r"( *)(?:(\w+):|-)? ?(.*?)(?: *#.*)?")
"""A line of a YAML file: its indentation, its key if it has one, and its value."""


def yaml_value(*keys: str) -> str:
    """A placeholder in a flag's help for the values of the models' YAML under these keys: "50; tiny model 20"."""
    return f"<<{','.join(keys)}>>"


def model_default(*keys: str) -> str:
    """The same, as the end of a flag's help: "default: 50; tiny model 20"."""
    return f"default: {yaml_value(*keys)}"


def dreambooth_default(name: str) -> str:
    """The same, of a value in the section `dreambooth`."""
    return model_default(f"dreambooth.{name}")


class DefaultsFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the epilog, and fills in the placeholders of `yaml_value`."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return KEYS.sub(lambda found: both_models(found[1]).replace("%", "%%"), action.help or "")


def both_models(keys: str) -> str:
    """The values of Stable Diffusion's and the tiny model's YAML; one if they agree or only one model has it."""
    of_sd, of_tiny = (_shown(_sections(path), keys.split(",")) for path in (STABLE_DIFFUSION, TINY))
    return of_sd if of_sd == of_tiny else f"{of_sd}; tiny model {of_tiny}" if of_sd else of_tiny


def as_text(value: Any) -> str:
    """A value as it is typed after its flag, more or less: on, 5e-6, 7.5, "a photo"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(as_text, value))
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if " " in str(value) else str(value)


def _shown(sections: dict[str, dict[str, Any]], keys: list[str]) -> str:
    found = [sections.get(section, {}).get(name) for section, name in (key.split(".") for key in keys)]
    return "" if None in found else as_text(found)


@cache
def _sections(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of one of our own YAML files, and their values; deeper levels are left out.

    Read line by line: importing a YAML library would make `--help` a fifth slower.
    """
    sections: dict[str, dict[str, Any]] = {}
    last: Any = None
    for line in path.read_text(encoding="utf-8").splitlines():
        indent, name, value = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        if not indent and name:
            values = sections[name] = {}
        elif indent == "  " and name:
            last = values[name] = _scalar(value) if value else []
        elif not name and value and isinstance(last, list):
            last.append(_scalar(value))
    return sections


def _scalar(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
