"""What txt2img.py writes beside the images, and its messages."""

import re
from importlib.metadata import version
from pathlib import Path

from PIL import Image

import ldm
from ldm.checkpoint.saving import hash_file
from ldm.files import ROOT
from tests.commands.calls import difference
from tests.commands.fixtures import Sample


def test_an_images_text_has_all_to_sample_it_again(txt2img: Sample, tiny_checkpoint: Path) -> None:
    options = ("--ddim-steps", 4, "--scale", 2.5, "--ddim-eta", 0.5, "--hw", 32, 48, "-n", "blurry — grau")
    sampled = txt2img("-p", "a cat", "ein Bär", "-v", 2, "--seed", 9, *options)
    info = Image.open(sampled.paths[3]).info
    assert re.fullmatch("[0-9a-f]{64}", info["ldm.key"])
    assert {key.removeprefix("ldm."): info[key] for key in info if key not in ("parameters", "ldm.key")} == {
        "prompt": "ein Bär",
        "negative_prompt": "blurry — grau",
        "seed": "10",
        "sampler": "ddim",
        "steps": "4",
        "scale": "2.5",
        "eta": "0.5",
        "spacing": "original",
        "guidance_rescale": "0.0",
        "size": "48x32",
        "checkpoint": tiny_checkpoint.name,
        "checkpoint_step": "0",
    }
    assert info["parameters"].splitlines() == [
        "ein Bär",
        "Negative prompt: blurry — grau",
        "Steps: 4, Sampler: DDIM, CFG scale: 2.5, Seed: 10, Size: 48x32, "
        f"Model hash: {hash_file(tiny_checkpoint)[:10]}, Model: tiny, Eta DDIM: 0.5, Version: ldm {ldm.__version__}",
    ]
    assert str(tiny_checkpoint.parent).encode() not in sampled.paths[3].read_bytes()
    again = txt2img("-p", info["ldm.prompt"], "--seed", info["ldm.seed"], "-v", 1, *options)
    assert difference(again.images[0], sampled.images[3]) <= 1


def test_the_record_holds_the_resolved_options_versions_and_commit(txt2img: Sample, tiny_checkpoint: Path) -> None:
    record = txt2img("-p", "a cat", "-v", 2, "--seed", 9, "--hw", 33).record
    assert record["command"] == f"python txt2img.py -p 'a cat' -v 2 --seed 9 --hw 33 -c {tiny_checkpoint}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["started"])
    assert record["seeds"] == [9, 10]
    assert record["checkpoints"] == [str(tiny_checkpoint)]
    assert record["versions"]["torch"] == version("torch")
    assert record["versions"].keys() >= {"ldm", "python", "transformers", "safetensors"}
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?", record["versions"]["commit"])
    resolved = {
        "prompt": ["a cat"],
        "negative_prompt": "",
        "variations": 2,
        "seed": 9,
        "hw": [32, 32],
        "sampler": "ddim",
        "ddim_steps": 3,
        "scale": 7.5,
        "ddim_eta": 0.0,
        "batch_size": 4,
        "device": "cpu",
    }
    assert {name: record["options"][name] for name in resolved} == resolved
