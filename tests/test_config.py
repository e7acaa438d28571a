"""Configs: from YAML to dataclasses and back, and errors that name the key."""

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm.config import build_config, read_yaml, to_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from tests.oracle import autoencoder_config, text_encoder_config, unet_config


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.5
    factors: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    inner: Inner = field(default_factory=Inner)
    scale: float = 1.0
    enabled: bool = False
    words: tuple[str, ...] = ()
    inners: tuple[Inner, ...] = ()


# Printable text and everything that YAML could misread; OmegaConf takes `${` for a reference to another key.
text = st.text(st.characters(codec="utf-8")) | st.text("${}\\a")
floats = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, st.integers(), floats, st.lists(st.integers(), max_size=4).map(tuple))
outers = st.builds(
    Outer,
    name=text,
    count=st.integers(),
    inner=inners,
    scale=floats,
    enabled=st.booleans(),
    words=st.lists(text, max_size=3).map(tuple),
    inners=st.lists(inners, max_size=2).map(tuple),
)


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "some.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=outers)
def test_a_config_written_as_yaml_and_read_again_is_the_same(config: Outer, tmp_path: Path) -> None:
    path = written(tmp_path, to_yaml(dataclasses.asdict(config)))
    assert build_config(Outer, read_yaml(path), "here") == config


@pytest.mark.parametrize(
    "name", ["yes", "null", "1e3", "1e-5", "0x10", "12:30", "~", "", "- a", "a: b", "'", "2024-01-01"]
)
def test_text_that_yaml_could_take_for_something_else_stays_text(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, to_yaml({"name": name, "count": 1, "words": [name]}))
    config = build_config(Outer, read_yaml(path), "here")
    assert (config.name, config.words) == (name, (name,))


@pytest.mark.parametrize(
    "config",
    [
        LatentDiffusionConfig(),
        LatentDiffusionConfig(unet_config(), autoencoder_config(), text_encoder_config(), scale_factor=0.5),
        SamplingConfig(sampler="plms", eta=0.5),
    ],
    ids=["full size", "small", "sampling"],
)
def test_the_models_own_configs_come_back_from_yaml(config: Any, tmp_path: Path) -> None:
    path = written(tmp_path, to_yaml(dataclasses.asdict(config)))
    assert build_config(type(config), read_yaml(path), "here") == config


def test_yaml_keeps_the_keys_in_their_order() -> None:
    assert to_yaml({"b": 1, "a": {"d": [1, 2], "c": "x"}}) == "b: 1\na:\n  d:\n  - 1\n  - 2\n  c: x\n"


def test_keys_left_out_have_their_defaults() -> None:
    assert build_config(Inner, {}, "here") == Inner()
    assert build_config(Outer, {"name": "x", "count": 3, "inner": {"width": 9}}, "here") == Outer(
        "x", 3, Inner(width=9)
    )


@dataclass(frozen=True)
class Renewed:
    level: str = "low"
    flag: bool = False

    EARLIER: ClassVar[dict[str, dict[Any, Any]]] = {"level": {False: "low", True: "high", "top": "high"}}


@pytest.mark.parametrize(("written", "level"), [(True, "high"), (False, "low"), ("top", "high"), ("high", "high")])
def test_values_of_an_earlier_version_are_read_as_todays(written: Any, level: str) -> None:
    assert build_config(Renewed, {"level": written, "flag": True}, "old") == Renewed(level, True)


def test_other_values_of_such_a_key_are_refused() -> None:
    with pytest.raises(UserError, match=r"old: level should be str, not \[1\]"):
        build_config(Renewed, {"level": [1]}, "old")


def test_an_empty_file_holds_no_keys(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "")) == {}


def test_references_between_keys_are_resolved(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "a: 3\nb: ${a}\n")) == {"a": 3, "b": 3}


def test_whole_numbers_do_where_a_float_is_wanted_and_become_one() -> None:
    config = build_config(Inner, {"rate": 2}, "here")
    assert config.rate == 2.0
    assert isinstance(config.rate, float)


def test_lists_become_tuples_of_converted_values() -> None:
    config = build_config(Outer, {"name": "x", "count": 1, "inners": [{"width": 1}, {"factors": [3]}]}, "here")
    assert config.inners == (Inner(width=1), Inner(factors=(3,)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 1}, "some.yaml: unknown key 'widht'; the nearest known one is 'width'"),
        ({"factor": [1]}, "some.yaml: unknown key 'factor'; the nearest known one is 'factors'"),
        ({7: 1}, "some.yaml: unknown key '7'; the nearest known one is '"),
        ({"width": 1.5}, "some.yaml: width should be int, not 1.5"),
        ({"width": True}, "some.yaml: width should be int, not True"),
        ({"rate": "fast"}, "some.yaml: rate should be float, not 'fast'"),
        ({"factors": "12"}, "some.yaml: factors should be a list, not '12'"),
        ({"factors": [1, 2.5]}, "some.yaml: factors should be int, not 2.5"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_file(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_config(Inner, values, "some.yaml")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "some.yaml: missing count, name"),
        ({"name": "x", "count": 1, "enabled": 1}, "some.yaml: enabled should be bool, not 1"),
        ({"name": "x", "count": 1, "inner": 3}, "some.yaml: inner should hold keys of its own, not 3"),
        (
            {"name": "x", "count": 1, "inner": {"wdith": 1}},
            "some.yaml: inner: unknown key 'wdith'; the nearest known one is 'width'",
        ),
        ({"name": "x", "count": 1, "inner": {"rate": []}}, "some.yaml: inner: rate should be float, not []"),
        ({"name": "x", "count": 1, "inners": [{"width": "w"}]}, "some.yaml: inners: width should be int, not 'w'"),
    ],
)
def test_a_missing_or_nested_key_is_named_with_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_config(Outer, values, "some.yaml")
    assert str(error.value) == message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no config file .*nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "content", ["a: [1, 2", "a: b: c", "\tx: 1", "a: 1\na: 2", "a: ${missing}", b"\x00", "a: !!python/object:os.x {}"]
)
def test_an_unreadable_file_is_named(content: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"some\.yaml is not a readable YAML file: \S"):
        read_yaml(written(tmp_path, content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "some.yaml")
    with pytest.raises(UserError, match="is a named pipe, not a file"):
        read_yaml(tmp_path / "some.yaml")


@pytest.mark.parametrize("value", [10**400, [1] * 100_000, "x" * 1_000_000])
def test_a_huge_value_is_refused_in_few_words(value: Any) -> None:
    with pytest.raises(UserError) as error:
        build_config(Inner, {"rate": value}, "some.yaml")
    assert len(str(error.value)) < 500


def test_a_list_is_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"some\.yaml should hold `key: value` lines, but holds a list"):
        read_yaml(written(tmp_path, "- a\n- b\n"))


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
REFERENCES = "a0: xxxxxxxxxx\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 40))

HOSTILE = {
    "timestamp": ("a: 1\nb: !!timestamp 2024-01-01", "line 2: a value of the type !!timestamp"),
    "timestamp that is none": ("a: !!timestamp never", "line 1: a value of the type !!timestamp"),
    "int that is none": ("a: 1\nb: !!int abc", "line 2: 'abc' is no int"),
    "int without digits": ("a: !!int _", "line 1: '_' is no int"),
    "float that is none": ("a: !!float abc", "line 1: 'abc' is no float"),
    "bool that is none": ("a: !!bool abc", "line 1: 'abc' is no bool"),
    "five thousand digits": ("a: " + "9" * 5000, "line 1: a number of 5000 digits"),
    "hexadecimal digits": ("a: 0x" + "f" * 5000, "line 1: a number of 5002 digits"),
    "binary": ("a: !!binary aGVsbG8=", "line 1: a value of the type !!binary"),
    "set": ("a: !!set {x}", "line 1: a value of the type !!set"),
    "class": ("a: !!python/object/apply:os.system [id]", "line 1: a value of the type"),
    "aliases": (ALIASES, "values, counting those that aliases repeat"),
    "merges": (MERGES, "values, counting those that aliases repeat"),
    "references": (REFERENCES, "78 references to other keys"),
    "environment": ("a: ${oc.env:HOME}", "${oc.env:NAME}"),
    "holds itself": ("a: &a [*a]", "line 1: a value that holds itself"),
    "key twice": ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' comes twice"),
    "list as a key": ("? [a, b]\n: 1", "line 1: a key should be a word"),
    "deep lists": ("a: " + "[" * 100_000, "line 1: "),
    "deep keys": ("".join(f"{' ' * n}a:\n" for n in range(200)), "line 50: more than 50 levels"),
    "NUL": ("a: b\0c", "control characters are not allowed"),
    "UTF-16": ("a: 1".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "Latin-1": ("a: 1\nb: caf\xe9".encode("latin-1"), "line 2 has a byte 0xe9"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_named_with_its_line_at_once(kind: str, tmp_path: Path) -> None:
    content, words = HOSTILE[kind]
    path = written(tmp_path, content)
    started = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert time.process_time() - started < 1
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_dates_are_text_and_keys_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, "day: 2024-01-01\n7: {8: x}\nrate: 1e-5\n")
    assert read_yaml(path) == {"day": "2024-01-01", "7": {"8": "x"}, "rate": 1e-5}


def test_aliases_within_reason_are_filled_in(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "a: &a {x: 1}\nb: {<<: *a, y: 2}\n")) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match="here: rate should be a finite number"):
        build_config(Inner, {"rate": value}, "here")


def test_a_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(10**9)  # takes no room on the disk
    with pytest.raises(UserError, match=r"large\.yaml is too large: 1 GB; at most 32 MB are read"):
        read_yaml(path)


def test_a_name_that_is_too_long_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not read .*File name too long"):
        read_yaml(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "name", ["caf\udce9.jpg", "\ud800", "a\nb", "\x1b[2J", "\u202egpj.exe", "\U0001f600", "\x85\u2028"]
)
def test_any_name_of_a_file_comes_back_from_yaml(name: str, tmp_path: Path) -> None:
    text = to_yaml({"photos": {name: name}})
    assert read_yaml(written(tmp_path, text)) == {"photos": {name: name}}
