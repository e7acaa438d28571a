"""Environment variables that libraries read as numbers: a wrong one is named before the library is imported."""

import re
from pathlib import Path

import huggingface_hub.constants
import pytest

import ldm
from ldm.environment import NUMBERS, refuse_wrong_numbers


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["abc", "", "1.5", "-3", "0", "1e3"])
def test_what_is_no_number_is_the_users_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ldm.UserError, match=re.escape(f"such as {name}=30, not '{value}'")):
        refuse_wrong_numbers()
    with pytest.raises(ldm.UserError, match=name):
        ldm.load  # noqa: B018 (it imports torch, transformers and the rest)
    monkeypatch.setenv(name, "30")
    assert ldm.load


def test_all_of_the_librarys_are_known() -> None:
    text = Path(huggingface_hub.constants.__file__).read_text("utf-8")
    assert {*re.findall(r'(?:int|float)\(os\.environ\.get\("(\w+)"', text)} <= {*NUMBERS}
