"""`import ldm` costs nothing, and what it offers is there, for people and for tools."""

import tomllib
from types import ModuleType

import ldm
import ldm.api
from ldm.files import ROOT


def test_the_package_offers_the_api_by_name() -> None:
    offered = {name for name, value in vars(ldm.api).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert {*ldm.__all__} == {*offered, "UserError"}
    assert {*ldm.__all__} <= {*dir(ldm)}
    for name in ldm.__all__:
        assert getattr(ldm, name).__doc__


def test_type_checkers_find_the_package_typed() -> None:
    assert (ROOT / "ldm" / "py.typed").is_file()
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in setup["package-data"]["ldm"]
