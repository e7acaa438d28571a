"""What a stranger relies on before any code runs: equal requirements everywhere, documents that name real files."""

import ast
import builtins
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_install_the_same_packages() -> None:
    conda = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert pip == PROJECT["dependencies"]


def test_conda_installs_a_python_that_the_project_supports() -> None:
    conda = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    python = next(entry for entry in conda if str(entry).startswith("python=")).removeprefix("python=")
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("."))) >= tuple(map(int, lowest.split(".")))


def test_the_lock_file_holds_a_version_within_bounds_of_every_requirement_and_no_places() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = [re.fullmatch(r"([\w.-]+)==([\w.+-]+)", line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(line[1]): line[2] for line in locked if line}
    assert len(versions) == len(locked), "a line is not NAME==VERSION, or a name comes twice"
    extras = [words for extra in PROJECT["optional-dependencies"].values() for words in extra]
    wanted = [Requirement(words) for words in [*PROJECT["dependencies"], *extras]]
    wrong = [
        str(one)
        for one in wanted
        if one.name != "ldm" and not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))
    ]
    assert not wrong


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    paths = re.findall(r"`((?:ldm|tests|configs|download|docs|benchmarks|data)/[\w./-]+)`", text)
    scripts = re.findall(r"(?:python|bash) ([\w./-]+\.(?:py|sh)|\.ci/run)", text)
    assert paths or scripts or links, "the document names no file: this test searches for the wrong pattern"
    missing = [path for path in paths + scripts if not (ROOT / path).exists()]
    missing += [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


def test_the_examples_of_the_page_on_extending_are_those_that_tests_run() -> None:
    blocks = re.findall(r"```python\n# (tests/\S+)\n(.*?)\n```", (ROOT / "docs" / "extend.md").read_text(), re.DOTALL)
    assert len(blocks) > 6, "the page has no examples: this test searches for the wrong pattern"
    for path, example in blocks:
        test, code = (ROOT / path).read_text(), ast.parse(example)
        first = next(node for node in code.body if not isinstance(node, ast.Import | ast.ImportFrom))
        line = min([first.lineno, *(one.lineno for one in getattr(first, "decorator_list", []))])
        assert "\n".join(example.split("\n")[line - 1 :]) in test, path
        assert imported(code) <= imported(ast.parse(test)), path
        assert unknown_names(code) == set(), path


def imported(code: ast.Module) -> set[tuple[str, str, str]]:
    """The module, the name in it and the name here of everything that the code imports."""
    return {
        (getattr(node, "module", ""), name.name, name.asname or name.name)
        for node in code.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }


def unknown_names(code: ast.Module) -> set[str]:
    """Names that are used and neither imported nor defined, nor built in."""
    nodes = list(ast.walk(code))
    known = {name for *_, name in imported(code)} | set(dir(builtins))
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} - known


def test_ci_runs_the_test_command_that_the_readme_gives() -> None:
    extract = next(line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("sed -n"))
    command = subprocess.run(
        ["bash", "-c", extract.split(" | ")[0]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "pip install" in command and "pytest" in command
