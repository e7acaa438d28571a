"""YAML into plain values: text, numbers, booleans, null, lists and mappings. Everything else is refused.

A file may come from a stranger: it can't name classes, multiply values by aliases or read environment variables, and
every mistake in it is reported with its line.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, Node, ScalarNode, SequenceNode

MOST_DEPTH, MOST_VALUES = 50, 1_000_000
"""Levels of nesting, and values in all; a value counts as often as aliases (`*name`) point to it."""
MOST_EXPANDED = 10**7
"""Characters that a file may have after its references (`${key}`) are filled in."""
MOST_DIGITS = 100

TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {f"{TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}

REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{([^}]*)")
FLOAT = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+|[-+]?\.\d[\d_]*[eE][-+]?\d+")
"""Numbers such as 1e-5, which are text in YAML 1.1."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half a character, as in file names that are not UTF-8; the faster parser refuses it."""


class YamlError(Exception):
    """What is wrong with a YAML file, in one line that begins with the line number if known."""


def _with_floats(kind: type[Any]) -> type[Any]:
    """Makes a loader or dumper read numbers like 1e-5 as numbers."""
    kind.add_implicit_resolver(f"{TAG}float", re.compile(f"^(?:{FLOAT.pattern})$"), list("-+0123456789."))
    return kind


def _without_dates(loader: type[Any]) -> type[Any]:
    """Makes a loader read dates as text."""
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{TAG}timestamp"]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    return loader


@_without_dates
@_with_floats
class _Loader(yaml.SafeLoader):
    """Reads every character; slow."""


@_without_dates
@_with_floats
class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, if available."""


@_with_floats
class _Dumper(yaml.SafeDumper):
    """Writes every character; slow."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@_with_floats
class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The same in C, if available."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(values: Any) -> str:
    r"""Values as YAML text, which `parse_yaml` reads back; bytes that are not UTF-8 are escaped, as in "caf\uDCE9"."""
    layout: dict[str, Any] = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    try:
        return str(yaml.dump(values, Dumper=_FastDumper, **layout))
    except UnicodeEncodeError:
        return str(yaml.dump(values, Dumper=_Dumper, **layout))


def parse_yaml(text: str) -> Any:
    """The values of a YAML text, with text for every key. Raises `YamlError`."""
    loader = (_Loader if SURROGATE.search(text) else _FastLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 1)
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(_at(mark, error.problem or error.context or "it can't be understood")) from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from error
    except RecursionError:
        raise YamlError("its values are nested too deeply") from None
    finally:
        loader.dispose()
    return _filled_in(_with_text_keys(values), text)


def _check(node: Node, sizes: dict[int, int], depth: int) -> int:
    """The number of values in a node. Raises `YamlError` for too many, or one that is not plain."""
    if (known := sizes.get(id(node))) is not None:
        if known == 0:
            raise YamlError(_at(node.start_mark, "a value that holds itself"))
        return known
    if depth > MOST_DEPTH:
        raise YamlError(_at(node.start_mark, f"more than {MOST_DEPTH} levels of nesting"))
    if node.tag not in PLAIN_TAGS:
        raise YamlError(_at(node.start_mark, f"a value of the type {node.tag.replace(TAG, '!!')}, which is not read"))
    if isinstance(node, ScalarNode):
        _check_scalar(node)
        return 1
    sizes[id(node)] = 0  # until it is counted
    size = 1 + sum(_check(child, sizes, depth + 1) for child in _children(node))
    if size > MOST_VALUES:
        raise YamlError(_at(node.start_mark, f"more than {MOST_VALUES:,} values, counting those that aliases repeat"))
    sizes[id(node)] = size
    return size


def _check_scalar(node: ScalarNode) -> None:
    kind, value = node.tag.removeprefix(TAG), node.value
    if kind == "int" and sum(letter.isalnum() for letter in value) > MOST_DIGITS:
        raise YamlError(_at(node.start_mark, f"a number of {len(value)} digits"))
    try:
        if kind in ("int", "float", "bool"):
            getattr(yaml.constructor.SafeConstructor(), f"construct_yaml_{kind}")(node)
    except (ValueError, KeyError, IndexError, OverflowError):
        raise YamlError(_at(node.start_mark, f"{value[:40]!r} is no {kind}")) from None


def _children(node: Node) -> Iterator[Node]:
    """The values and keys below a node. Raises `YamlError` for a key that comes twice."""
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise YamlError(_at(key.start_mark, "a key should be a word"))
            if key.value in seen and key.tag != f"{TAG}merge":
                raise YamlError(_at(key.start_mark, f"the key {key.value[:40]!r} comes twice"))
            seen.add(key.value)
            yield key
            yield value


def _with_text_keys(values: Any) -> Any:
    """Converts keys to text, and copies values to which several aliases point."""
    if isinstance(values, dict):
        return {str(key): _with_text_keys(value) for key, value in values.items()}
    return [_with_text_keys(value) for value in values] if isinstance(values, list) else values


def _filled_in(values: Any, text: str) -> Any:
    """The values with references to other keys filled in. Raises `YamlError` if that would make a small file huge."""
    references = REFERENCE.findall(text)
    if any(":" in reference for reference in references):
        raise YamlError("a reference such as ${oc.env:NAME} to something outside the file, which is not read")
    # n references, in levels that repeat one another, make a text at most 3^(n/3) times as long.
    if len(text) * 3 ** (min(len(references), 300) / 3) > MOST_EXPANDED and references:
        raise YamlError(f"{len(references)} references to other keys, which is too much for a file of this size")
    if not isinstance(values, dict | list) or "${" not in text:
        return values
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise YamlError(str(error).splitlines()[0]) from error


def _at(mark: Any, problem: str) -> str:
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem
