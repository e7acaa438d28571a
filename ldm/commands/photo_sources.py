"""Photos from an archive or a URL: fetched and unpacked once, kept by content beside the runs, then a folder like any.

A run's record names the folder; its origin is in the record too, so that a resumed run can fetch it again.
"""

import argparse
import json
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from ldm.checkpoint.saving import hash_file
from ldm.commands.options.places import is_url
from ldm.commands.resuming import RECORD
from ldm.config import read_yaml
from ldm.data.archives import ARCHIVES, LEFT_FREE, MOST_BYTES, is_archive, unpack
from ldm.disk import free_bytes, human_size, write_error
from ldm.errors import UserError
from ldm.files import write_text
from ldm.leftovers import remove_leftovers, temporary_directory
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.progress import Progress
from ldm.user_files import open_file, resolved

log = logging.getLogger(__name__)

DIRECTORY = "photos"
"""The name of the cache, below --output-dir."""
SOURCES = ("instance_img_dir", "class_img_dir")
"""Options that may be a folder, an archive or a URL of one."""
SECONDS = 60
"""A server that sends nothing for so long is given up."""
CHUNK = 1 << 20


def with_folders(options: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options with folders in place of archives and URLs, and what these were, by option.

    Raises `UserError` if one can't be fetched or unpacked.
    """
    if is_helper_process():  # the first process has unpacked them
        record = Path(os.environ[RUN_DIR_VARIABLE]) / RECORD
        recorded = read_yaml(record)["options"] if record.is_file() else {}
        found = {name: Path(recorded[name]) for name in SOURCES if recorded.get(name)}
        return argparse.Namespace(**{**vars(options), **found}), {}
    cache = (options.resume_dir.parent if options.resume_dir else options.output_dir) / DIRECTORY
    origins: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for name in SOURCES:
        source = getattr(options, name)
        if source is not None and (is_url(str(source)) or source.is_file()):
            folders[name] = folder_of(source, cache)
            origins[name] = str(source) if is_url(str(source)) else str(resolved(source))
    return argparse.Namespace(**{**vars(options), **folders}), origins


def folder_of(source: Path | str, cache: Path) -> Path:
    """The folder with the photos of an archive or of a URL of one; unpacked if the cache doesn't have its content."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_leftovers(cache, deep=False)
        if not is_url(str(source)):
            return _unpacked(Path(source), cache)
        with temporary_directory(cache) as directory:
            archive = directory / "download"
            _download(str(source), archive)
            return _unpacked(archive, cache, str(source))
    except OSError as error:
        raise write_error(cache, error) from error


def _unpacked(archive: Path, cache: Path, name: str = "") -> Path:
    """The folder of an archive's content; `name` is its URL, for messages."""
    target = cache / _digest(archive, name or str(archive))
    if target.is_dir():
        if _listing(target) == _recorded(target):
            return _found(target, name or str(archive))
        aside = _moved_aside(target)
        log.warning("%s was changed after it was unpacked: it is %s now, and unpacked again", target, aside)
    with temporary_directory(cache) as directory:
        unpack(archive, partial := _made(directory / target.name))
        write_text(_list_of(target), json.dumps(_listing(partial), indent=1))
        try:
            partial.replace(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return _found(target, name or str(archive))


def _found(target: Path, name: str) -> Path:
    log.info("%s is unpacked in %s", name, target)
    return _innermost(target)


def _digest(archive: Path, name: str) -> str:
    """What an archive's folder is called. Raises `UserError` if it is none, or can't be read."""
    with open_file(archive, "archive"):
        try:
            if not is_archive(archive):
                raise UserError(f"{name} is no archive that can be unpacked ({ARCHIVES})")
            return hash_file(archive)[:16]
        except OSError as error:
            raise UserError(f"could not read {archive}: {error.strerror or error}") from error


def _list_of(target: Path) -> Path:
    """The file beside an unpacked folder that has its files' names and sizes."""
    return target.with_suffix(".json")


def _listing(directory: Path) -> dict[str, int]:
    """The sizes of all files below a directory, by their names there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def _recorded(target: Path) -> object:
    """The list that was written when a folder was unpacked; None if there is none."""
    try:
        return json.loads(_list_of(target).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _moved_aside(target: Path) -> Path:
    """Renames a folder that someone has changed: what was added to it, such as captions, is kept."""
    number = 1
    while (aside := target.with_name(f"{target.name}-changed-{number}")).exists():
        number += 1
    return target.rename(aside)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _innermost(directory: Path) -> Path:
    """The folder itself, or the only one in it if there is nothing else."""
    while len(entries := list(directory.iterdir())) == 1 and entries[0].is_dir():
        directory = entries[0]
    return directory


def _download(url: str, path: Path) -> None:
    """Writes what a web server sends into a file. Raises `UserError` if it can't or would fill the disk."""
    limit = min(MOST_BYTES, int(LEFT_FREE * free_bytes(path.parent)))
    request = urllib.request.Request(url, headers={"User-Agent": "dreambooth.py"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response, path.open("wb") as file:
            if not is_url(response.url):  # after a redirection
                raise UserError(f"{url} leads to {response.url}, which is not on the web")
            length = int(response.headers.get("Content-Length") or 0)
            if length > limit:
                raise _too_large(url, limit)
            with Progress(length // CHUNK, "download", "MB", silent=not length) as progress:
                while chunk := response.read(CHUNK):
                    if file.tell() + len(chunk) > limit:
                        raise _too_large(url, limit)
                    file.write(chunk)
                    progress.update(len(chunk) // CHUNK)
            if length and file.tell() != length:
                raise UserError(f"{url}: only {file.tell()} of {length} bytes came; try again")
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise UserError(f"{url} could not be downloaded: {error}") from error


def _too_large(url: str, limit: int) -> UserError:
    return UserError(f"{url} is larger than {human_size(limit)}, the most that is downloaded here")
