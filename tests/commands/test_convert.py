"""convert.py: between one file and a diffusers directory without a changed bit, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoint.keys import EMA, PARTS
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands import disk_space
from tests.checkpoint.diffusers_files import UNET, write_tiny_directory
from tests.commands.calls import call, info_of, pixels, refused
from tests.commands.fixtures import Sample
from tests.full_disk import entries, files_of_at_most
from tests.tiny import TINY_YAML, build_tiny_model, write_tiny_checkpoint


def convert(*arguments: object) -> str:
    outcome = call("convert", *arguments)
    assert outcome.status == 0, outcome.said
    return outcome.said


def same_weights(one: Path, other: Path, prefix: str = "") -> bool:
    a, b = (
        {key: t for key, t in read_checkpoint(path).tensors.items() if key.startswith(prefix or tuple(PARTS.values()))}
        for path in (one, other)
    )
    shared = a.keys() & b.keys()
    assert len(shared) > 100 or prefix
    return all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back_not_a_bit_changes(dtype: torch.dtype, tmp_path: Path) -> None:
    about = {"class_name": "can", "instance_prompt": "a photo of sks can", "step": 7}
    source = write_tiny_checkpoint(tmp_path, dtype, **about)
    convert(source, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert {key: tensor.dtype for key, tensor in again.items()} == {k: t.dtype for k, t in load_file(source).items()}
    assert all(torch.equal(again[key], tensor) for key, tensor in load_file(source).items())
    before, after = info_of(source), info_of(tmp_path / "again.safetensors")
    assert (after.class_name, after.step, after.config, after.parts) == ("can", 7, TINY_YAML, before.parts)


def test_it_says_what_the_checkpoint_is(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path, torch.float16, class_name="can", instance_prompt="sks can", step=7)
    said = convert(source, tmp_path / "model")
    assert "one file in the official layout, another shape than Stable Diffusion v1" in said
    assert "  UNet: 1.06 million float16\n" in said
    assert "fine-tuned on 'can', step 7, prompt 'sks can'" in said
    assert f"wrote {tmp_path / 'model'}: a diffusers directory, 2.92 MB" in said
    assert "further" not in said
    assert "a diffusers directory, another shape" in convert(tmp_path / "model", tmp_path / "b.safetensors")


def test_all_three_sample_the_same_image(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    convert(tiny_checkpoint, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "again.safetensors")
    assert (tmp_path / "tokenizer" / "vocab.json").is_file()
    images = [
        txt2img("-c", path, "-v", 1, "-p", "a cat").images[0]
        for path in (tiny_checkpoint, tmp_path / "model", tmp_path / "again.safetensors")
    ]
    assert (images[0] == images[1]).all() and (images[0] == images[2]).all()


def test_tensors_that_share_memory_or_lie_across_it_come_apart(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tensors = load_file(tiny_checkpoint)
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors.values() if tensor.is_floating_point()])
    parts = iter(whole.split([tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()]))
    shared = {k: next(parts).view(t.shape) if t.is_floating_point() else t for k, t in tensors.items()}
    across = {k: t.mT.contiguous().mT if t.ndim == 2 and "attn" in k else t for k, t in shared.items()}
    torch.save({"state_dict": across}, tmp_path / "a.ckpt")
    config = read_checkpoint(tiny_checkpoint).metadata["ldm.config"]
    (tmp_path / "tiny.yaml").write_text(config)  # JSON is YAML
    shutil.copytree(tiny_checkpoint.parent / "tokenizer", tmp_path / "tokenizer")
    convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors", "--config", tmp_path / "tiny.yaml")
    assert same_weights(tiny_checkpoint, tmp_path / "a.safetensors")


def test_half_precision_on_request(tmp_path: Path, tiny_checkpoint: Path) -> None:
    half = write_tiny_checkpoint(tmp_path / "half", torch.float16)
    convert(tiny_checkpoint, tmp_path / "a.safetensors", "--half")
    convert(tiny_checkpoint, tmp_path / "b", "--variant", "fp16")
    assert same_weights(half, tmp_path / "a.safetensors")
    assert same_weights(half, tmp_path / "b")
    weights = {path.name for path in (tmp_path / "b").glob("*/*.safetensors")}
    assert weights == {f"{UNET}.fp16.safetensors", "model.fp16.safetensors"}


def with_averaged(path: Path) -> Path:
    """The tiny model, and another one's UNet as its averaged weights."""
    averaged = build_tiny_model(1).state_dict()
    ema = {
        EMA + key.removeprefix("model.").replace(".", ""): tensor.clone()
        for key, tensor in averaged.items()
        if key.startswith(PARTS["unet"])
    }
    file = read_checkpoint(write_tiny_checkpoint(path))
    save_file({**file.tensors, **ema}, path / "both.safetensors", metadata=file.metadata)
    return path / "both.safetensors"


def test_averaged_weights_on_request(tmp_path: Path) -> None:
    both = with_averaged(tmp_path)
    assert "averaged UNet (EMA): 1.06 million float32" in convert(both, tmp_path / "a.safetensors", "--ema")
    convert(both, tmp_path / "b.safetensors")
    other = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(1))
    assert same_weights(other, tmp_path / "a.safetensors", PARTS["unet"])
    assert not same_weights(other, tmp_path / "a.safetensors", PARTS["autoencoder"])
    assert same_weights(both, tmp_path / "b.safetensors")
    assert not any(key.startswith(EMA) for key in load_file(tmp_path / "b.safetensors"))


def test_another_autoencoder_on_request(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    vae = write_tiny_directory(tmp_path / "other", seed=1) / "vae"
    convert(tiny_checkpoint, tmp_path / "a.safetensors", "--vae", vae)
    sampled = txt2img("-c", tiny_checkpoint, "-v", 1, "--vae", vae)
    baked = txt2img("-c", tmp_path / "a.safetensors", "-v", 1)
    plain = txt2img("-c", tiny_checkpoint, "-v", 1)
    assert (sampled.images[0] == baked.images[0]).all()
    assert (sampled.images[0] != plain.images[0]).any()
    assert txt2img("-r", sampled.directory).record["options"]["vae"] == str(vae)


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a directory, and files that are none. It is shared: nothing is written to it."""
    folder = tmp_path_factory.mktemp("odd")
    model = write_tiny_checkpoint(folder, name="model.safetensors")
    write_tiny_directory(folder / "directory")
    (folder / "there.safetensors").write_text("mine")
    (folder / "link.safetensors").symlink_to("model.safetensors")
    (folder / "folder").mkdir()
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>")
    file = read_checkpoint(model)
    save_file({k: t.clone() for k, t in file.tensors.items() if "first_stage" in k}, folder / "vae.safetensors")
    large = {**file.tensors, "model.diffusion_model.out.2.bias": torch.full((4,), 1e6)}
    tensors = {key: tensor.clone() for key, tensor in large.items()}
    save_file(tensors, folder / "infinite.safetensors", metadata=file.metadata)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.safetensors", "there.safetensors"], "there.safetensors exists already"),
        (["model.safetensors", "other.ckpt"], "one file is written as .safetensors"),
        (["model.safetensors", "model.safetensors"], "OUT is IN itself"),
        (["model.safetensors", "link.safetensors"], "OUT is IN itself"),
        (["directory", "directory/a.safetensors"], "is inside directory"),
        (["model.safetensors", "a", "--to", "official"], "name OUT with .safetensors"),
        (["model.safetensors", "a.safetensors", "--to", "diffusers"], "name OUT without .safetensors"),
        (["model.safetensors", "a.safetensors", "--variant", "fp16"], "for one file use --half"),
        (["model.safetensors", "a.safetensors", "--ema"], "has no averaged weights"),
        (["nowhere", "a"], "there is no checkpoint nowhere"),
        (["folder", "a"], "is a directory; a file or a diffusers directory is needed"),
        (["page.safetensors", "a"], "a web page, not a checkpoint"),
        (["vae.safetensors", "a"], "does not hold the weights of this model"),
        (["model.safetensors", "there.safetensors/a"], "there.safetensors is not a directory"),
        (["infinite.safetensors", "a.safetensors", "--half"], "is not finite as torch.float16"),
    ],
)
def test_what_is_refused_leaves_nothing(
    arguments: list[str], words: str, odd_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd_files)
    before = entries(Path())
    refused(call("convert", *arguments), words)
    assert entries(Path()) == before


@pytest.mark.parametrize("target", ["a.safetensors", "directory"])
def test_without_room_nothing_is_written(
    target: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files_of_at_most(100_000):
        refused(call("convert", tiny_checkpoint, tmp_path / target), f"could not write {tmp_path / target}: File too")
    monkeypatch.setattr(disk_space, "free_bytes", lambda path: 1000)
    refused(call("convert", tiny_checkpoint, tmp_path / target), "takes 5.83 MB, but", "has 1 kB free")
    assert entries(tmp_path) == set()


def test_a_tokenizer_of_another_model_stays(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    refused(call("convert", tiny_checkpoint, tmp_path / "a.safetensors"), "is another model's tokenizer")
    assert entries(tmp_path) == {"tokenizer", "tokenizer/vocab.json"}


@pytest.mark.slow
def test_a_directory_is_a_base_model_to_train_from(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path) -> None:
    convert(tiny_checkpoint, tmp_path / "model")
    words: list[Any] = ["-i", subject_dir, "-s", 1, "--iterations", 1, "--class-img-count", 1, "--no-previews"]
    trained = call("dreambooth", "-c", "can", "--ckpt-path", tmp_path / "model", "-o", tmp_path / "ckpts", *words)
    assert trained.status == 0, trained.said
    run = tmp_path / "ckpts" / "can-1"
    assert info_of(run / "step-00001.safetensors").base == "model"
    shutil.move(tmp_path / "model", tmp_path / "ckpts" / "model")
    resumed = call("dreambooth", "-r", run, "--iterations", 2)
    assert resumed.status == 0, resumed.said
    compared = call("txt2img", "-c", tmp_path / "ckpts", "-v", 1, "-o", tmp_path / "out")
    assert compared.status == 0, compared.said
    rows = json.loads((tmp_path / "out" / "txt2img-1" / "comparison.json").read_text())["rows"]
    assert [(row["step"], row["is_base"]) for row in rows] == [(0, True), (1, False), (2, False)]
    assert pixels(next((tmp_path / "out" / "txt2img-1").glob("base*.png"))).std() > 0
