"""Files and folders whose names are not UTF-8, or hold emoji, Arabic or a line break, work and print safely."""

import os
import shutil
from pathlib import Path

import pytest

from ldm.config import read_yaml
from tests.commands.calls import call


@pytest.mark.slow
def test_files_and_directories_may_have_any_name(tiny_checkpoint: Path, subject_dir: Path, tmp_path: Path) -> None:
    name = "caf\udce9 😀 ماء\n\x1b[2J"
    home = tmp_path / name
    shutil.copytree(tiny_checkpoint.parent, home)
    checkpoint = (home / tiny_checkpoint.name).rename(home / f"{name}.safetensors")
    shutil.copytree(subject_dir, home / "photos")
    photo = (home / "photos" / "0.png").rename(home / "photos" / f"{name}.png")
    sampling = ("-c", checkpoint, "-v", 1, "-p", "a cat", "-o", home / "out")
    outcomes = [
        call("txt2img", *sampling),
        call("img2img", *sampling, "-i", photo),
        call("txt2img", "-r", home / "out" / "txt2img-1"),
        call("convert", checkpoint, home / f"{name} diffusers"),
        call("convert", home / f"{name} diffusers", home / f"{name} again.safetensors"),
    ]
    training = ("--ckpt-path", checkpoint, "-c", "can", "-i", home / "photos", "-o", home / "ckpts", "-s", 1)
    outcomes += [
        call("dreambooth", *training, "--iterations", 1, "--class-img-count", 1),
        call("dreambooth", "-r", home / "ckpts" / "can-1", "--iterations", 2),
        call("txt2img", "-c", home / "ckpts", "-v", 1, "-o", home / "out"),
    ]
    assert [one.status for one in outcomes] == [0] * len(outcomes), outcomes
    everything = "".join(one.said for one in outcomes)
    assert "\x1b[2J" not in everything
    assert "\udce9" not in everything
    record = read_yaml(home / "ckpts" / "can-1" / "run.yaml")
    assert record["options"]["ckpt_path"] == str(checkpoint)
    assert os.fsencode(photo.name) in [os.fsencode(photo_name) for photo_name in record["photos"]]
