"""Runs one of the downloads with the environment's Python; `bash download/<name>.sh` calls it."""

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ENVIRONMENT = "activate the project's environment first: conda activate ldm (or see Install in the README)"


def refuse(reason: str) -> NoReturn:
    """Ends with the status of a mistake that the user can mend."""
    sys.stderr.write(f"error: {reason}; {ENVIRONMENT}\n")
    sys.exit(2)


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if sys.version_info < (3, 11):  # noqa: UP036 (an older one may be first on the PATH)
    refuse(f"{sys.executable} is Python {sys.version.split()[0]}, and 3.11 is needed")
try:
    from ldm.commands.app import launch
except ModuleNotFoundError as error:
    refuse(f"the package {error.name} is not installed in {sys.executable}")


def main() -> None:
    """Runs the download that the first argument names."""
    name = sys.argv.pop(1).replace("-", "_")
    try:  # here: `launch` has checked the environment variables that the import reads
        download = import_module(f"ldm.commands.download.{name}")
    except ModuleNotFoundError as error:
        refuse(f"the package {error.name} is not installed in {sys.executable}")
    download.main()


if __name__ == "__main__":
    launch(main)
