"""The inputs of the campaign's commands: photos, captioned images, a tiny model, and earlier stages' results."""

import os
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.reliability_campaign.running import Work, run, words
from benchmarks.reliability_campaign.scenes import Fixtures, autoencoder_of
from ldm.errors import UserError
from tests.judges import write_things
from tests.scratch import write_captioned, write_yaml
from tests.tiny import write_tiny_checkpoint

LONG_AGO = 1_600_000_000
"""All fixtures are as old as this: names of encoded images depend on their time."""


def make_fixtures(fixtures: Fixtures) -> None:
    """Writes all of them."""
    fixtures.root.mkdir(parents=True)
    write_photos(fixtures.photos)
    write_tiny_checkpoint(fixtures.tiny.parent)
    write_captioned(fixtures.images)
    write_things(fixtures.things)
    write_yaml(fixtures.config, fixtures.root / "tokenizer")
    runs = fixtures.root / "runs"
    from_scratch = words("-i", fixtures.images, "--config", fixtures.config)
    _made(fixtures, "train", "tokenizer", *from_scratch)
    _made(fixtures, "train", "autoencoder", *from_scratch, "-o", runs)
    _made(fixtures, "train", "diffusion", *from_scratch, "-o", runs, *autoencoder_of(fixtures))
    subject = words("-c", "can", "-i", fixtures.photos, "--ckpt-path", fixtures.tiny, "-o", fixtures.ckpts)
    _made(fixtures, "dreambooth", *subject, "--iterations", 4, "-s", 2, "--class-img-count", 2, "--no-previews")
    for path in fixtures.root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def write_photos(directory: Path, count: int = 3) -> None:
    """Images of a red disc that are not symmetric."""
    directory.mkdir()
    for index in range(count):
        photo = Image.new("RGB", (40 + 8 * index, 44), (60 * index, 120, 255 - 60 * index))
        ImageDraw.Draw(photo).ellipse((4, 8 + index, 22, 30), fill=(230, 30, 20))
        photo.save(directory / f"{index}.png")


def _made(fixtures: Fixtures, command: str, *given: object) -> None:
    work = Work(command, words(*given))
    ended = run(work, fixtures.root)
    if ended.status != 0:
        raise UserError(f"{work} ended with status {ended.status}:\n{ended.said}")
