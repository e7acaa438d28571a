"""A run's record, `run.yaml`: command line, options, versions and commit."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ldm
from ldm.config import to_yaml
from ldm.files import ROOT, write_text
from ldm.terminal import command_line

PACKAGES = ("torch", "transformers", "pytorch-lightning", "safetensors", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Versions of this project, its commit, Python and the packages that a result may depend on."""
    found = {"ldm": ldm.__version__, "python": platform.python_version()}
    if commit := _commit(ROOT):
        found["commit"] = commit
    return found | _packages()


def write_record(path: Path, options: dict[str, Any], **more: Any) -> None:
    """Writes the command line, the time, the options as they are used, the versions and `more`."""
    write_text(
        path,
        to_yaml(
            {
                "command": command_line(Path(sys.argv[0]).name, *sys.argv[1:]),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "options": plain(options),
                "versions": versions(),
                **more,
            }
        ),
    )


def section(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A mapping in a record; empty if a stranger's record lacks it."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as YAML and JSON can hold them: paths as text, tuples as lists."""
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
    }


@cache
def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit(root: Path) -> str | None:
    """The repository's commit, with "+changes" if files differ from it; None where there is no repository or no git.

    Read once: a process runs the code that was there when it began.
    """
    try:
        git = ["git", "--no-optional-locks", "-C", str(root)]  # the user may be committing meanwhile
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
