"""`import ldm` costs nothing, and what it offers is there, for people and for tools."""

import tomllib

import ldm
import ldm.api
from ldm.files import ROOT


def test_the_package_offers_the_api_by_name() -> None:
    assert {*ldm.__all__} <= {*dir(ldm)}
    assert {*ldm.__all__} - {"UserError"} <= {*ldm.api.__all__}
    for name in ldm.__all__:
        assert getattr(ldm, name).__doc__


def test_type_checkers_find_the_package_typed() -> None:
    assert (ROOT / "ldm" / "py.typed").is_file()
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in setup["package-data"]["ldm"]
