"""The text in images: as A1111 writes it, and read back to repeat an image."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.choices import SAMPLERS
from ldm.commands.sampling.parameters import SAMPLER_NAMES, Parameters
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample

BY_A1111 = (
    "a photo of a cat,\nmasterpiece\nNegative prompt: blurry: very, ugly\nSteps: 3, Sampler: Euler a, "
    'Schedule type: Karras, CFG scale: 4.5, Seed: 7, Size: 48x32, Model hash: 6ce0161689, Model: "v1-5, pruned", '
    'Lora hashes: "can: 1a2b3c4d5e6f", Eta: 0.5, Version: v1.9.3'
)
words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)
names = st.from_regex(r"[A-Z][a-z]{2,8}( [a-z]{2,8})?", fullmatch=True)


def test_a_text_of_a1111_is_read() -> None:
    text = Parameters.from_text(BY_A1111)
    assert (text.prompt, text.negative_prompt) == ("a photo of a cat,\nmasterpiece", "blurry: very, ugly")
    assert text.values["Model"] == "v1-5, pruned"
    assert text.values["Lora hashes"] == "can: 1a2b3c4d5e6f"
    assert [*text.values][:5] == ["Steps", "Sampler", "Schedule type", "CFG scale", "Seed"]


@given(words, words, st.dictionaries(names, words, min_size=3))
def test_what_is_written_is_read(prompt: str, negative: str, values: dict[str, str]) -> None:
    written = Parameters(prompt, negative, values)
    assert Parameters.from_text(written.to_text()) == written


@pytest.mark.parametrize("text", ["a cat", "a cat\nDog: yes, Hat: no", ""])
def test_fewer_than_three_values_are_prompt(text: str) -> None:
    assert Parameters.from_text(text) == Parameters(text)


def test_the_names_of_samplers_are_of_samplers() -> None:
    assert SAMPLER_NAMES.keys() <= SAMPLERS.keys()


@pytest.mark.parametrize("form", ["parameters and our own text", "parameters alone", "JPEG"])
def test_an_image_is_sampled_again_from_its_text(form: str, txt2img: Sample, tmp_path: Path) -> None:
    options = ("--sampler", "euler-ancestral", "--ddim-steps", 4, "--scale", 2.5, "--ddim-eta", 0.5, "--hw", 32, 48)
    sampled = txt2img("-p", "a cat, sitting", "-n", "blurry: grau", "-v", 2, "--seed", 9, *options)
    path = sampled.paths[1]
    if form != "parameters and our own text":
        path = copy_with_parameters(path, tmp_path / ("a.jpg" if form == "JPEG" else "a.png"))
    again = txt2img("--from-image", path)
    assert len(again.images) == 1
    assert (again.images[0] == sampled.images[1]).all()
    assert "not with" not in again.said
    other = txt2img("--from-image", path, "--seed", 3, "-v", 2)
    assert [name.name.split("_")[1] for name in other.paths] == ["3.png", "4.png"]
    again.paths[0].unlink()
    assert (txt2img("-r", again.directory).images[0] == sampled.images[1]).all()


def copy_with_parameters(path: Path, target: Path) -> Path:
    """The image with A1111's text only, as other programs keep it."""
    with Image.open(path) as image:
        text = image.info["parameters"]
        if target.suffix == ".jpg":
            exif = Image.Exif()
            exif[0x8769] = {0x9286: b"UNICODE\0" + text.encode("utf-16-be")}
            image.save(target, exif=exif)
        else:
            info = PngInfo()
            info.add_text("parameters", text)
            image.save(target, pnginfo=info)
    return target


def image_with(path: Path, **chunks: str) -> Path:
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_of_another_programs_image_it_is_said_what_is_not_repeated(txt2img: Sample, tmp_path: Path) -> None:
    sampled = txt2img("--from-image", image_with(tmp_path / "a.png", parameters=BY_A1111))
    assert "whose noise for the same seed may be another" in sampled.said
    assert "not repeated: Lora hashes: can: 1a2b3c4d5e6f" in sampled.said
    assert "was made with the model v1-5, pruned (6ce0161689), not with" in sampled.said
    options = sampled.record["options"]
    assert options["prompt"] == ["a photo of a cat, masterpiece"]
    assert (options["seed"], options["ddim_eta"], options["hw"]) == (7, 0.5, [32, 48])
    assert (options["spacing"], options["prompt_syntax"], options["clip_skip"]) == ("karras", "a1111", 1)


def test_prompt_syntax_clip_skip_and_spacing_are_repeated(txt2img: Sample, tmp_path: Path) -> None:
    flags = ("--prompt-syntax", "a1111", "--clip-skip", 2, "--sampler", "lms", "--spacing", "karras")
    first = txt2img("-p", "a (red:1.3) ball", "-v", 1, "--seed", 3, *flags)
    (path,) = first.paths
    assert "Clip skip: 2" in Image.open(path).info["parameters"]
    again = txt2img("--from-image", path)
    assert (again.images[0] == first.images[0]).all()


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ({}, "holds no text that says how it was made"),
        ({"prompt": '{"3": {}}', "workflow": "{}"}, "ComfyUI's workflow"),
        ({"parameters": "a cat"}, "without the values of sampling"),
        ({"parameters": BY_A1111.replace("Euler a", "Restart")}, "the sampler 'Restart', which is not here"),
        ({"parameters": BY_A1111.replace("Steps: 3", "Steps: many")}, "its text can't be used: ddim_steps"),
        ({"parameters": BY_A1111.replace("48x32", "48x")}, "its text can't be used: hw"),
        ({"parameters": "a" * 99_999}, "without the values of sampling"),
        ({"parameters": "a" * 100_001}, "holds a text of 100,001 characters"),
        ({"parameters": f"{BY_A1111}, Denoising strength: 0.7"}, "was made from another image"),
    ],
)
def test_a_text_that_can_not_be_used_is_named(chunks: dict[str, str], reason: str, tmp_path: Path) -> None:
    path = image_with(tmp_path / "a.png", **chunks)
    refused(call("txt2img", "--from-image", path, "-o", tmp_path / "out"), str(path), reason)
    assert not (tmp_path / "out").exists()
