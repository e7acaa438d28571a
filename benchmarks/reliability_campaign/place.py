"""The working directory of a campaign: shared fixtures, a directory per case, and results of uninterrupted runs."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.reliability_campaign.comparing import Digests, differences, digests
from benchmarks.reliability_campaign.fixtures import make_fixtures
from benchmarks.reliability_campaign.running import Ended, Work, run
from benchmarks.reliability_campaign.scenes import Fixtures, Scene
from ldm.errors import UserError
from ldm.files import ROOT, write_text

CODE = ("*.py", "ldm/**/*.py", "configs/*.yaml", "benchmarks/reliability_campaign/*.py")
"""The code that results depend on: what is tested, and the campaign."""


@dataclass(frozen=True)
class Reference:
    """The events and files of an uninterrupted run."""

    events: tuple[str, ...]
    files: Digests
    sizes: dict[str, int]

    @cached_property
    def writes(self) -> list[str]:
        """The events that write."""
        return [event for event in self.events if not event.startswith(("read", "start"))]


@dataclass
class Place:
    """A working directory. What depends on the code is in a folder named by its digest."""

    root: Path
    keep: bool = False
    """Also keeps the directories of successful cases."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _references: dict[str, Reference] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    @cached_property
    def code(self) -> str:
        """A digest of the tested code."""
        total = hashlib.sha256()
        for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
            total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        return total.hexdigest()[:12]

    @property
    def fixtures(self) -> Fixtures:
        """The inputs of the commands; made at the first access."""
        with self._lock:
            fixtures = Fixtures(self.root / self.code / "fixtures")
            if not (fixtures.root / "done").exists():
                shutil.rmtree(fixtures.root, ignore_errors=True)
                make_fixtures(fixtures)
                (fixtures.root / "done").touch()
            return fixtures

    @contextmanager
    def case(self, name: str) -> Iterator[Path]:
        """An empty directory, gone afterwards unless its case fails.

        Its own name is the same in all cases, because checkpoints hold it.
        """
        case = self.case_directory(name)
        shutil.rmtree(case, ignore_errors=True)
        root = case / "here"
        root.mkdir(parents=True)
        yield root
        if not self.keep:
            shutil.rmtree(case, ignore_errors=True)

    def case_directory(self, name: str) -> Path:
        """The directory of a case: all equally deep, because pages name outside files by relative paths."""
        return self.root / self.code / "cases" / name

    def reference(self, scene: Scene) -> Reference:
        """Of one uninterrupted run; a second one must give the same, or nothing could be compared."""
        fixtures = self.fixtures
        with self._lock:
            lock = self._locks.setdefault(scene.name, threading.Lock())
        with lock:
            if scene.name not in self._references:
                path = self.root / self.code / "references" / f"{scene.name}.json"
                if not path.exists():
                    write_text(path, json.dumps(vars(self._measured(scene, fixtures))))
                values = json.loads(path.read_text(encoding="utf-8"))
                self._references[scene.name] = Reference(tuple(values["events"]), values["files"], values["sizes"])
            return self._references[scene.name]

    def _measured(self, scene: Scene, fixtures: Fixtures) -> Reference:
        found: list[Digests] = []
        for number in (1, 2):
            with self.case(f"reference-{scene.name}-{number}") as root:
                scene.prepare(fixtures, root)
                ended = run_whole(scene.work(fixtures, root), root)
                found.append(digests(root))
                sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*.*")}
        if other := differences(*found):
            raise UserError(f"two uninterrupted runs of {scene.name} leave other files: {', '.join(other)}")
        return Reference(ended.events, found[0], sizes)


def run_whole(work: Work, root: Path) -> Ended:
    """A run that must succeed."""
    ended = run(work, root)
    if ended.status != 0:
        raise UserError(f"{work} ended with status {ended.status}:\n{ended.said}")
    return ended
