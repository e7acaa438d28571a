"""A run's record, run.yaml."""

import subprocess
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

import ldm
from ldm.commands import record
from ldm.commands.record import versions, write_record
from ldm.config import read_yaml


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in place of the project's."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def test_versions_name_the_project_python_and_packages() -> None:
    found = versions()
    assert found["ldm"] == ldm.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for package in ("torch", "transformers", "pytorch-lightning", "safetensors", "pillow", "numpy"):
        assert found[package] == version(package)


def test_the_commit_is_named(repository: Path) -> None:
    assert versions()["commit"] == git(repository, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize(("changed", "mark"), [("notes.txt", ""), ("code.py", "+changes")])
def test_changes_to_tracked_files_are_marked(changed: str, mark: str, repository: Path) -> None:
    (repository / changed).write_text("a = 2\n")
    assert versions()["commit"] == git(repository, "rev-parse", "--short=12", "HEAD") + mark


def test_without_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert "commit" not in versions()


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "commit" not in versions()


def test_a_record_is_yaml_that_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/txt2img.py", "-p", "a cat's hat", "-v", "2"])
    options = {
        "prompt": ["a cat's hat", "ein Bär: 熊"],
        "output_dir": Path("out"),
        "init_img": None,
        "scale": 7.5,
        "hw": (32, 48),
        "flip": False,
    }
    write_record(tmp_path / "run.yaml", options, seeds=[42, 43])
    found = read_yaml(tmp_path / "run.yaml")
    assert found["command"] == """python txt2img.py -p 'a cat'"'"'s hat' -v 2"""
    assert found["options"] == options | {"output_dir": "out", "hw": [32, 48]}
    assert found["seeds"] == [42, 43]
    assert found["versions"] == versions()
    started = datetime.fromisoformat(found["started"])
    assert timedelta(0) <= datetime.now(started.tzinfo) - started < timedelta(minutes=1)


def test_a_prompt_with_a_dollar_sign_is_recorded_as_it_is(tmp_path: Path) -> None:
    """OmegaConf takes ${...} for a reference."""
    options = {"prompt": ["a ${price} tag", "100 % ${oc.env:HOME}", "a \\${b}"]}
    write_record(tmp_path / "run.yaml", options)
    assert read_yaml(tmp_path / "run.yaml")["options"] == options
