"""The frame of every script: its parser, and how it ends."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ldm.errors import UserError


def script_parser(description: str | None, targets: bool = True, json: bool = True) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring; with `--strict` if the script has targets, and `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if json:
        parser.add_argument("--json", type=Path, help="write all figures to this file")
    if targets:
        parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    return parser


def run_script(main: Callable[[], int]) -> NoReturn:
    """Exits with the status of `main`, or with what a `UserError` says."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
