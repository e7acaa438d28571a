"""Files of the Hugging Face Hub, put at a place of ours: only a file with the right hash gets its name.

`huggingface_hub` makes the requests: it knows the login, mirrors, proxies and its cache, and continues a file. Its
`hf_hub_download` is not used, for two reasons: it names a file before our check, and since 1.x it begins again in every
process. Here a file arrives as `<name>.part`, which the next call continues.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ldm.commands.download.refusals import CAUGHT, HUB, Attempt, explained, http_status, may_pass
from ldm.disk import free_bytes, human_size, unwritable, write_error
from ldm.errors import UserError
from ldm.locking import LOCK_NAME, lock_directory, release

log = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS, PATIENCE = 5, 30.0
"""So many in a row, or seconds, may bring nothing new; then the command ends with an error."""
SHA256_DIGITS, GIT_DIGITS = 64, 40
NOTHING_FOLLOWS = 416
"""The HTTP status where the file ends with the part that is here. Its hash decides whether it is right."""


@dataclass(frozen=True)
class HubFile:
    """A file in a repository on the Hub."""

    repo: str
    path: str
    revision: str = "main"
    repo_type: str = "model"
    hash: str = ""
    """Its SHA-256, or of a small file git's SHA-1, in hexadecimal. Empty: the one that the Hub names."""
    size: int | None = None

    def attempt(self, part: Path) -> Attempt:
        """A request for the file, or for its size and hash."""
        url = hf_hub_url(self.repo, self.path, repo_type=self.repo_type, revision=self.revision)
        return Attempt(url, self.repo, self.repo_type, part, is_known=bool(self.hash))


@dataclass(frozen=True)
class Place:
    """The directory for a script's files, and the environment variable that names another one."""

    default: Path
    variable: str

    @property
    def directory(self) -> Path:
        """The one that the variable names, else the default."""
        return Path(os.environ.get(self.variable) or self.default)

    @property
    def advice(self) -> str:
        """What to do if this directory can't be used."""
        return f"Free some space, or set {self.variable} to a directory on another disk, and run this again"

    def refuse_unwritable(self) -> None:
        """Raises `UserError` if no file can be created in the directory."""
        if reason := unwritable(self.directory):
            raise self._unusable(reason)

    @contextmanager
    def prepared(self, folder: Path) -> Iterator[None]:
        """Makes the directory, and a folder in it, and locks it: two processes would write into the same `.part`.

        After an error, directories that it made and that are still empty are removed.
        """
        new = [one for one in (folder, *folder.parents) if not one.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(f"{folder} can't be created: {error.strerror}") from error
        lock_directory(self.directory)
        try:
            yield
        except BaseException:
            for directory in new:
                _remove_if_empty(directory)
            raise

    def _unusable(self, reason: str) -> UserError:
        return UserError(f"{reason}. Set {self.variable} to a directory that you may write in, and run this again")


def _remove_if_empty(directory: Path) -> None:
    """Removes a directory that holds nothing but its lock, which is released."""
    with suppress(OSError):
        if {path.name for path in directory.iterdir()} <= {LOCK_NAME}:
            (directory / LOCK_NAME).unlink(missing_ok=True)
            release(directory)
            directory.rmdir()


VARIABLES = {
    "HF_TOKEN": "your Hugging Face token, if the Hub asks for a login; `hf auth login` does as well",
    "HF_ENDPOINT": f"a mirror of {HUB}",
    "HF_HOME": "where the Hub's cache and login are, by default ~/.cache/huggingface",
    "HF_HUB_DOWNLOAD_TIMEOUT": f"seconds to wait for the server, by default {constants.DEFAULT_DOWNLOAD_TIMEOUT}",
    "https_proxy": "a proxy",
}
"""The environment variables that all downloads read, for their help."""


def environment_help(variable: str, about: str) -> str:
    """The variables with what each is, for a script's help: first its own."""
    lines = {variable: about, **VARIABLES}
    width = max(map(len, lines))
    return "environment variables:\n" + "".join(f"  {name:{width}}  {what}\n" for name, what in lines.items())


def ensure(file: HubFile, target: Path, place: Place) -> bool:
    """Makes `target` the file with the right hash. False if it was there already, which then needs no network.

    Raises `UserError` if that can't be done; what was at `target` before is still there then.
    """
    if target.is_dir():
        raise UserError(f"{target} is a directory. Move it away, and run this again")
    part = target.with_name(f"{target.name}.part")
    if not file.hash:
        file = _described(file, part)
    if target.exists():
        if has_hash(target, file.hash):
            return False
        log.warning("%s is not the right file. It stays until the right one has arrived", target)
    place.refuse_unwritable()
    try:
        cached = _in_cache(file)
        if cached is None and file.size is None:
            file = _described(file, part)  # without a network nothing is created
        with place.prepared(target.parent):
            if cached is not None:
                _raise_without_room(cached.stat().st_size, part, place)
                shutil.copyfile(cached, part)
                log.info("  copied from the Hub's cache, %s", cached)
            else:
                _download(file, part, place)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(target)
    except OSError as error:
        raise UserError(f"{write_error(target, error, file.size)}. {place.advice}") from error
    return True


def patiently(attempt: Attempt, call: Callable[[], Result]) -> Result:
    """Calls again after what may pass, as long as the part grows, or a few times. Raises `UserError` in the end.

    The library does so as well, but how far depends on its version and on the kind of request.
    """
    if constants.HF_HUB_OFFLINE:
        place = f", or copy the file to {attempt.part.with_suffix('')}" if attempt.part and attempt.is_known else ""
        raise UserError(f"HF_HUB_OFFLINE is set, but {attempt.url} is needed. Unset it{place}, and run this again")
    failures, since = 0, time.monotonic()
    while True:
        before = attempt.arrived
        try:
            return call()
        except CAUGHT as error:
            if attempt.arrived > before:
                failures, since = 0, time.monotonic()
            failures += 1
            if not may_pass(error) or failures == ATTEMPTS or time.monotonic() - since > PATIENCE:
                raise explained(error, attempt) from error
        log.info("  the connection failed; trying again in %d s", 2**failures)
        time.sleep(2**failures)


def has_hash(path: Path, expected: str) -> bool:
    """Whether a file has this SHA-256, or if it has 40 digits, this name in git. Logs both hashes if it hasn't."""
    if path.stat().st_size > 1e9:
        log.info("  verifying the hash of %s", path.name)
    with path.open("rb") as file:
        if len(expected) == SHA256_DIGITS:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            found = hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read(), usedforsecurity=False).hexdigest()
    if found != expected:
        log.info("  expected  %s\n  found     %s  (%s)", expected, found, path)
    return found == expected


def _described(file: HubFile, part: Path) -> HubFile:
    """The file with its size and hash, as the Hub names them."""
    attempt = file.attempt(part)
    metadata = patiently(attempt, lambda: get_hf_file_metadata(attempt.url))
    described = replace(file, hash=file.hash or metadata.etag or "", size=metadata.size or None)
    if len(described.hash) not in (SHA256_DIGITS, GIT_DIGITS):
        raise UserError(f"{attempt.url} names no hash of the file. Is HF_ENDPOINT a mirror of the Hub?")
    return described


def _in_cache(file: HubFile) -> Path | None:
    """The right file in the Hub's cache, where other programs may have put it."""
    try:
        cached = try_to_load_from_cache(file.repo, file.path, revision=file.revision, repo_type=file.repo_type)
        if not isinstance(cached, str) or not has_hash(Path(cached), file.hash):
            return None
    except OSError as error:
        log.warning("the Hub's cache can't be read: %s", error)
        return None
    return Path(cached)


def _download(file: HubFile, part: Path, place: Place) -> None:
    """Makes `part` the right file. Raises `UserError` if it can't; what has arrived and can be continued is kept."""
    attempt, size = file.attempt(part), file.size
    if attempt.arrived > 0 and (size is None or attempt.arrived <= size):
        log.info("  continuing after %s", human_size(attempt.arrived))
    _raise_without_room((size or 0) - attempt.arrived, part, place)

    def fetch() -> None:
        if size is not None and attempt.arrived > size:  # it can't be right, nor become so
            part.unlink()
        here = attempt.arrived
        # A part is continued byte by byte, so nothing may be compressed on the way.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        name = part.stem
        try:
            with part.open("ab") as opened:
                http_get(
                    attempt.url, opened, resume_size=here, headers=headers, expected_size=size, displayed_filename=name
                )
        except HfHubHTTPError as error:
            if http_status(error) != NOTHING_FOLLOWS or not here:
                raise

    try:
        patiently(attempt, fetch)
    except BaseException:
        if not attempt.arrived:
            part.unlink(missing_ok=True)
        raise
    if not has_hash(part, file.hash):
        part.unlink()  # to continue it would not mend it
        raise UserError(
            f"what came from {attempt.url} is not the right file, and was removed. Run this again to begin anew. If "
            "that happens twice, the server or a proxy on the way changes the file"
        )


def _raise_without_room(size: int, part: Path, place: Place) -> None:
    if size > (free := free_bytes(part.parent)):
        raise UserError(
            f"not enough room for {part.stem}: {human_size(size)} are still to come, {human_size(free)} are free in "
            f"{part.parent}. {place.advice}"
        )
