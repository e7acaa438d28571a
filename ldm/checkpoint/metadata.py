"""A checkpoint's description of itself in its safetensors metadata; txt2img needs nothing else to sample it."""

import dataclasses
import json
import reprlib
import typing
from dataclasses import dataclass, field
from typing import Any

PREFIX = "ldm."

LARGEST_NUMBER = 2**64
"""The largest step or seed."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Every field is optional: files of other programs have none."""

    config: dict[str, Any] = field(default_factory=dict)
    """The model's YAML: shapes, tokenizer, defaults for sampling and training."""
    class_name: str = ""
    instance_prompt: str = ""
    class_prompt: str = ""
    step: int = 0
    """Optimizer updates made since the base weights."""
    seed: int = 0
    base: str = ""
    base_sha256: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each part's weights, by part: equal parts are read once."""
    tokenizer: str = ""
    """SHA-256 of the tokenizer's files, as `ldm.nn.tokenizer.tokenizer_digest` gives it."""
    words: dict[str, str] = field(default_factory=dict)
    """Words that it was trained with, beside those of the vocabulary, and their vectors as text."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the run that wrote it."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The safetensors metadata: each field as JSON under `ldm.<field>`, and the `format` that other tools need."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"format": "pt", **{PREFIX + name: json.dumps(value) for name, value in values.items()}}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "CheckpointInfo":
        """Absent fields get their defaults, unknown ones are ignored. Raises `ValueError` for damaged ones."""
        values = {}
        for field_ in dataclasses.fields(cls):
            if (text := metadata.get(PREFIX + field_.name)) is not None:
                values[field_.name] = value = json.loads(text)
                kind = typing.get_origin(field_.type) or field_.type
                if not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]
                    raise ValueError(f"{PREFIX}{field_.name} should be {kind.__name__}, not {reprlib.repr(value)}")  # type: ignore[union-attr]
                if isinstance(value, int) and not 0 <= value < LARGEST_NUMBER:
                    raise ValueError(f"{PREFIX}{field_.name} should be from 0 to 2^64, not {reprlib.repr(value)}")
                if field_.type == dict[str, str] and not all(isinstance(item, str) for item in value.values()):
                    raise ValueError(f"{PREFIX}{field_.name} should hold text only, not {reprlib.repr(value)}")
        return cls(**values)
