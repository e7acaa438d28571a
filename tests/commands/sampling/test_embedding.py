"""Textual inversions: words of `--embedding` in any prompt, and files that are compared as checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ldm
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_file
from ldm.data.images import own_text
from ldm.nn.tokenizer import load_tokenizer
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample
from tests.report.tables import table_of
from tests.tiny import write_tiny_checkpoint

TABLE = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "base")


def write_word(path: Path, base: Path, word: str, **metadata: str) -> Path:
    """The model's own vectors of a word: with them the word's images are those of the word itself."""
    ids = load_tokenizer(base.parent / "tokenizer").token_ids(word)
    vectors = read_checkpoint(base).tensors[TABLE][ids]
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".pt":
        torch.save({"string_to_param": {"*": vectors}, "string_to_token": {"*": 265}}, path)
    else:
        save_file({"emb_params": vectors}, path, metadata=metadata)
    return path


def test_its_word_stands_for_its_vectors_and_the_image_says_so(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    toy, dog = write_word(tmp_path / "toy.pt", base, "cat"), write_word(tmp_path / "b.safetensors", base, "dog")
    flags = ("-v", 1, "--prompt-syntax", "a1111")
    given = ("--embedding", f"{toy}:<toy>", dog)
    expected = txt2img("-c", base, "-p", "a (cat:1.3) BREAK cat", "-n", "dog", *flags)
    sampled = txt2img("-c", base, "-p", "a (<toy>:1.3) BREAK <TOY>", "-n", "b", *flags, *given)
    assert np.array_equal(sampled.images[0], expected.images[0])
    image = Image.open(sampled.paths[0])
    assert own_text(image, "embedding") == "toy.pt:<toy>, b.safetensors:b"
    hashes = f'TI hashes: "<toy>: {hash_file(toy)[:12]}, b: {hash_file(dog)[:12]}"'
    assert hashes in image.text["parameters"]


@pytest.mark.slow
def test_a_call_with_it_is_resumed_repeated_and_made_from_python(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    toy, dog = write_word(tmp_path / "toy.pt", base, "cat"), write_word(tmp_path / "b.safetensors", base, "dog")
    sampled = txt2img("-c", base, "-p", "a <toy>", "-n", "b", "-v", 1, "--embedding", f"{toy}:<toy>", dog)
    unused = txt2img("-c", base, "-p", "a dog", "-v", 1, "--embedding", toy)
    assert "TI hashes" not in Image.open(unused.paths[0]).text["parameters"]
    assert np.array_equal(unused.images[0], txt2img("-c", base, "-p", "a dog", "-v", 1).images[0])
    repeated = txt2img("-c", base, "--from-image", sampled.paths[0])
    assert "not repeated: embedding toy.pt:<toy>, b.safetensors:b (--embedding gives it)" in repeated.said
    kept = sampled.images[0]
    sampled.paths[0].unlink()
    toy.rename(sampled.directory / toy.name)  # a resumed call looks for it near its old place
    resumed = call("txt2img", "-r", sampled.directory)
    assert resumed.status == 0, resumed.said
    assert np.array_equal(sampled.images[0], kept)
    model = ldm.load(base, device="cpu", embedding=[f"{sampled.directory / toy.name}:<toy>", dog])
    assert np.array_equal(np.asarray(model.sample("a <toy>", negative_prompt="b").images[0]), kept)


def test_a_folder_of_them_is_compared_with_their_base_model_first(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    """Ours, and one of another program: each stands for "sks"."""
    info = CheckpointInfo(class_name="mug", step=5, base=base.name, base_sha256=hash_file(base))
    folder = tmp_path / "embeddings"
    write_word(folder / "mug-5.safetensors", base, "cat", **info.to_metadata())
    write_word(folder / "stranger.pt", base, "dog")
    save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, folder / "xl.safetensors")
    sampled = txt2img("-c", folder, "-v", 1, "--base", base, "--subject", "mug")
    rows = table_of(sampled).rows
    assert [row.label for row in rows] == ["base model", "mug-5", "stranger"]
    assert "xl.safetensors is an embedding of Stable Diffusion XL" in sampled.said
    plain = txt2img("-c", base, "-v", 1, "-p", *(f"a photo of {word} mug" for word in ("sks", "cat", "dog")))
    for row, expected in zip(rows, plain.images, strict=True):
        assert row.cells[0] is not None
        assert np.array_equal(np.asarray(Image.open(sampled.directory / row.cells[0].file)), expected)
    resumed = call("txt2img", "-r", sampled.directory)
    assert resumed.status == 0 and "nothing is missing" in resumed.said
    refused(call("txt2img", "-c", folder / "stranger.pt"), "stranger.pt is an embedding that doesn't name its base")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["{base}"], "is no embedding: it holds"),
        (["{wide}"], "is an embedding of another model"),
        (["nowhere.pt:x"], "there is no checkpoint nowhere.pt"),
        (["{toy}:x", "{toy}:X"], "another embedding stands for 'X' already"),
    ],
)
def test_mistakes_are_named_before_anything_is_made(
    flags: list[str], words: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "wide.safetensors")
    places = {"base": base, "wide": tmp_path / "wide.safetensors", "toy": write_word(tmp_path / "toy.pt", base, "cat")}
    refused(call("txt2img", "-c", base, "-v", 1, "--embedding", *(flag.format(**places) for flag in flags)), words)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_record_of_a_call_without_the_flag_resumes(txt2img: Sample, base: Path) -> None:
    sampled = txt2img("-c", base, "-v", 1, "-p", "a cat")
    record = sampled.directory / "run.yaml"
    record.write_text("\n".join(line for line in record.read_text().split("\n") if "  embedding:" not in line))
    kept = sampled.paths[0].stat().st_mtime_ns
    assert call("txt2img", "-r", sampled.directory).status == 0
    assert sampled.paths[0].stat().st_mtime_ns == kept
