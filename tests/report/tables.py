"""For tests of comparisons: checkpoints to compare, reading the files, interrupting the sampling."""

import csv
from pathlib import Path
from typing import Any

import pytest

from ldm.checkpoint.saving import hash_file
from ldm.commands.sampling import batches as sampling_batches
from ldm.config import to_yaml
from ldm.report.comparison import ComparisonData
from ldm.report.table import read_comparison
from tests.commands.calls import Sampled
from tests.tiny import build_tiny_model, write_tiny_checkpoint


def table_of(sampled: Sampled) -> ComparisonData:
    """The comparison that a call wrote."""
    return read_comparison(sampled.directory / "comparison.json")


def lines_of(sampled: Sampled) -> list[dict[str, str]]:
    """The lines of `pictures.csv`."""
    with (sampled.directory / "pictures.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tuned(directory: Path, base: Path, step: int = 5, seed: int = 3, class_name: str = "mug", **info: Any) -> Path:
    """A checkpoint as of a run of dreambooth.py that began with `base`."""
    return write_tiny_checkpoint(
        directory,
        name=f"step-{step:05d}.safetensors",
        model=build_tiny_model(seed),
        step=step,
        class_name=class_name,
        instance_prompt=f"a photo of sks {class_name}",
        class_prompt=f"a photo of a {class_name}",
        base=base.name,
        base_sha256=hash_file(base),
        **info,
    )


def record(directory: Path, base: Path, photos: Path | None = None) -> None:
    """The record of such a run."""
    options = {"class_name": "mug", "ckpt_path": str(base), "instance_img_dir": str(photos or "")}
    hashes = {path.name: hash_file(path) for path in sorted(photos.iterdir())} if photos else {}
    (directory / "run.yaml").write_text(to_yaml({"options": options, "photos": hashes}))


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C instead of the batch after these."""
    sample, done = sampling_batches._sample, []

    def watched(*arguments: Any, **options: Any) -> Any:
        if len(done) == batches:
            raise KeyboardInterrupt
        done.append(arguments)
        return sample(*arguments, **options)

    monkeypatch.setattr(sampling_batches, "_sample", watched)
