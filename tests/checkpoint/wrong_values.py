"""Every wrong value of every field of a model's YAML. Tests and campaigns share them."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

WRONG: tuple[Any, ...] = (
    0,
    -1,
    10**7,
    10**15,
    10**400,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    None,
    True,
    "",
    "x" * 1_000_000,
    [],
    [0],
    [1] * 2000,
    ["a"],
    list(range(100_000)),
    {},
    {"a": {"b": 1}},
)
"""Values that each field gets in turn."""


def configs(values: dict[str, Any], every: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of nested values in which one field, at any depth, has a wrong value, each with the change as text.

    With `every` n only the n-th, 2n-th, ... of them.
    """
    for index, (path, wrong) in enumerate(itertools.product(paths(values), WRONG)):
        if index % every == 0:
            yield f"{'.'.join(map(str, path))} = {brief(wrong)}", with_value(values, path, wrong)


def brief(value: Any) -> str:
    """The value's beginning."""
    return "10^400" if value == 10**400 else repr(value)[:30]


def with_value(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested values with another one at `path`."""
    changed_values = inner = copy.deepcopy(values)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed_values


def paths(values: Any) -> Iterator[tuple[Any, ...]]:
    """The path of each nested value."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (key,)
        yield from ((key, *rest) for rest in paths(value))
