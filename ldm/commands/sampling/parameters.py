"""A1111's text of an image: `parameters`, which most programs write and read. Names and order are A1111's."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SAMPLER_NAMES = {
    "ddim": "DDIM",
    "plms": "PLMS",
    "dpm-solver": "DPM++ 2M",
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "unipc": "UniPC",
    "dpm-solver-2m-sde": "DPM++ 2M SDE",
    "dpm-solver-sde": "DPM++ SDE",
    "lcm": "LCM",
}
"""A1111's names of our samplers. One that is not here is written with our own name."""
SCHEDULE_NAMES = {"karras": "Karras", "exponential": "Exponential"}
"""A1111's names of our spacings; it has none of the others."""
ETA_NAMES = {"ddim": "Eta DDIM", "euler-ancestral": "Eta"}
"""A1111's names of `eta`, by our sampler."""

NEGATIVE = "Negative prompt:"
FEWEST = 3
"""A last line of fewer pairs belongs to the prompt."""
_PAIR = re.compile(r'[\s/+-]*(\w[\w /+-]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_NO_PAIR = re.compile(r"[\s/+-]*[\w /+-]*.?")
"""What is left out where no pair begins: up to the next place where one may begin."""


@dataclass(frozen=True)
class Parameters:
    """The content of such a text."""

    prompt: str
    negative_prompt: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    """By A1111's names: "Steps", "Sampler", "CFG scale", ..."""

    def to_text(self) -> str:
        """The text. Empty values are left out; one with a comma, a colon or a line break is quoted."""
        negative = [f"{NEGATIVE} {self.negative_prompt}"] if self.negative_prompt else []
        line = ", ".join(f"{name}: {_quoted(value)}" for name, value in self.values.items() if value)
        return "\n".join([self.prompt, *negative, line])

    @classmethod
    def from_text(cls, text: str) -> "Parameters":
        """Reads what A1111 and its followers write. Without a line of values, all of it is the prompt."""
        lines = text.strip().split("\n")
        pairs = _pairs(lines[-1])
        values = {}
        if len(pairs) >= FEWEST:
            values = {name.strip(): _unquoted(value.strip()) for name, value in pairs}
            lines.pop()
        negative_at = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
        negative = "\n".join(lines[negative_at:]).removeprefix(NEGATIVE)
        return cls("\n".join(lines[:negative_at]).strip(), negative.strip(), values)


def _pairs(line: str) -> list[tuple[str, str]]:
    """The names and values of a line, in a time that grows with its length alone: it may be anyone's."""
    found, at = [], 0
    while at < len(line):
        if match := _PAIR.match(line, at):
            found.append((match[1], match[2]))
        else:
            match = _NO_PAIR.match(line, at)
            assert match is not None
        at = match.end()
    return found


def _quoted(value: str) -> str:
    quoted = set(value) & set(",:\n") or value.startswith('"')
    return json.dumps(value, ensure_ascii=False) if quoted else value


def _unquoted(value: str) -> str:
    if not (len(value) > 1 and value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
