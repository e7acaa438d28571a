"""txt2img.py on a directory: all checkpoints below it, from the same noise, in one labelled grid."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoint import reading
from ldm.checkpoint.reading import CheckpointFile
from ldm.commands.sampling import batches, checkpoints
from ldm.config import to_yaml
from ldm.runtime import models
from tests.commands.calls import call, difference, metadata_of, refused, tensors_of
from tests.commands.fixtures import Sample, Trained
from tests.report.tables import table_of
from tests.tiny import TINY_YAML, build_tiny_model, write_tiny_checkpoint, write_tokenizer


@pytest.fixture
def assigned(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The parts that each checkpoint after the first replaced."""
    seen: list[set[str]] = []
    assign_parts = models.assign_parts

    def watched(ldm: Any, file: CheckpointFile, parts: Iterable[str], placement: Any) -> None:
        seen.append(set(parts))
        assign_parts(ldm, file, seen[-1], placement)

    monkeypatch.setattr(models, "assign_parts", watched)
    return seen


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """Each encoded prompt and its context."""
    seen: list[tuple[str, Tensor]] = []
    context = models.ModelSlot.context

    def watched(self: models.ModelSlot, prompt: str, *reading: Any) -> Tensor:
        seen.append((prompt, context(self, prompt, *reading)))
        return seen[-1][1]

    monkeypatch.setattr(models.ModelSlot, "context", watched)
    return seen


def mug(directory: Path, seed: int = 3, **info: Any) -> Path:
    """A checkpoint of another subject, as of a run in `directory`."""
    info = {
        "class_name": "mug",
        "instance_prompt": "a photo of sks mug",
        "step": 5,
        "name": "step-00005.safetensors",
    } | info
    return write_tiny_checkpoint(directory, model=build_tiny_model(seed), **info)


def test_all_checkpoints_of_two_runs_are_sampled_in_order_each_with_its_own_subject(
    txt2img: Sample, trained: Trained, tmp_path: Path
) -> None:
    root = tmp_path / "ckpts"
    shutil.copytree(trained.directory, root / "tin-can-1")
    mug(root / "mug-1")
    mug(root / "mug-1", seed=4, step=10, name="step-00010.safetensors")
    sampled = txt2img("--ckpt-path", root, "-v", 2, "--no-base")
    runs = [("mug-1", "mug", step) for step in (5, 10)] + [("tin-can-1", "tin-can", step) for step in (3, 6, 7)]
    assert [path.name for path in sampled.paths] == sorted(
        (
            f"{run}-step-{step}_00-a-photo-of-sks-{subject}_{seed}.png"
            for run, subject, step in runs
            for seed in (42, 43)
        ),
        key=lambda name: [int(piece) if piece.isdigit() else piece for piece in name.replace("_", "-").split("-")],
    )
    assert sampled.record["checkpoints"] == [
        str(root / name)
        for name in (
            "mug-1/step-00005.safetensors",
            "mug-1/step-00010.safetensors",
            "tin-can-1/step-00003.safetensors",
            "tin-can-1/step-00006.safetensors",
            "tin-can-1/step-00007.safetensors",
        )
    ]
    infos = [Image.open(path).info for path in sampled.paths]
    assert {info["ldm.prompt"] for info in infos} == {"a photo of sks mug", "a photo of sks Tin Can"}
    for info in infos:
        assert info["ldm.checkpoint"] == f"step-{int(info['ldm.checkpoint_step']):05d}.safetensors"


def test_every_image_is_the_one_its_checkpoint_samples_alone(
    txt2img: Sample, uninterrupted: Trained, contexts: list[tuple[str, Tensor]]
) -> None:
    """These were trained with their text encoder: each prompt is encoded by each checkpoint's own."""
    compared = txt2img("-c", uninterrupted.root, "-v", 2, "--no-base")
    assert len(compared.paths) == 8
    by_step = {step: compared.images[2 * index : 2 * index + 2] for index, step in enumerate((3, 6, 9, 12))}
    subject = [context for prompt, context in contexts if prompt == "a photo of sks can"]
    assert len({context.sum().item() for context in subject}) == 4
    for step, images in by_step.items():
        alone = txt2img("-c", uninterrupted.step(step), "-v", 2).images
        assert all(difference(one, other) == 0 for one, other in zip(alone, images, strict=True))
    assert difference(by_step[3][0], by_step[12][0]) > 1


def test_the_negative_prompt_is_encoded_by_each_checkpoints_own_text_encoder(
    txt2img: Sample, uninterrupted: Trained, contexts: list[tuple[str, Tensor]]
) -> None:
    txt2img("-c", uninterrupted.root, "-v", 1, "-n", "blurry", "--no-base")
    assert len({context.sum().item() for prompt, context in contexts if prompt == "blurry"}) == 4


def test_only_parts_that_differ_are_loaded(txt2img: Sample, trained: Trained, assigned: list[set[str]]) -> None:
    txt2img("-c", trained.root, "-v", 1, "--no-base")
    assert assigned == [{"unet"}, {"unet"}]


def test_a_file_that_does_not_name_its_parts_is_loaded_whole(
    txt2img: Sample, tmp_path: Path, assigned: list[set[str]]
) -> None:
    mug(tmp_path / "ckpts" / "a")
    other = mug(tmp_path / "ckpts" / "b")
    metadata = {key: value for key, value in metadata_of(other).items() if key != "ldm.parts"}
    tensors = {key: tensor.clone() for key, tensor in tensors_of(other).items()}
    save_file(tensors, other, metadata=metadata)
    txt2img("-c", tmp_path / "ckpts", "-v", 1)
    assert assigned == [{"unet", "autoencoder", "text_encoder"}]


# Stray files


def stray_files(root: Path, tiny_checkpoint: Path) -> dict[str, str]:
    """Fills a directory with what lies about; each file to be warned about, with a word of the reason."""
    whole = tiny_checkpoint.read_bytes()
    (root / "notes.txt").write_text("steps 3 and 6 are good")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / ".step-00009.safetensors.1234.partial").write_bytes(whole[:1000])
    (root / ".hidden.safetensors").write_bytes(whole[:1000])
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (root / "empty.ckpt").touch()
    (root / "page.pt").write_text("<!DOCTYPE html><html>not found</html>")
    save_file({"weight": torch.zeros(3)}, root / "embedding.safetensors")
    return {
        "cut.safetensors": "cut off",
        "empty.ckpt": "empty (0 bytes)",
        "page.pt": "web page",
        "embedding.safetensors": "an embedding that doesn't name its base model",
    }


MOMENTS = {
    "comparing": (checkpoints, "raise_unless_whole"),
    "reading ahead": (reading, "_in_memory"),
    "loading": (models.ModelSlot, "use"),
    "drawing": (batches, "sample_latents"),
}
"""Where a bad file may first be noticed."""


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("comparing", RecursionError("deep")),
        ("reading ahead", MemoryError("large")),
        ("loading", IndexError("out of range")),
        ("drawing", MemoryError("large")),
    ],
)
def test_a_bad_file_is_left_out_with_a_warning_at_any_stage_for_any_error(
    moment: str, error: Exception, txt2img: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = mug(tmp_path / "ckpts" / "a-1"), mug(tmp_path / "ckpts" / "b-1", seed=4)
    place, name = MOMENTS[moment]
    original, calls = getattr(place, name), []

    def fails_first(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, fails_first)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base")
    assert [path.name.split("_")[0] for path in sampled.paths] == ["b-1-step-5"]
    assert f"warning: left out {'the rest of ' if moment == 'drawing' else ''}{bad}" in sampled.said
    assert type(error).__name__ in sampled.said
    assert f"left out {good}" not in sampled.said


def test_a_pipe_and_too_small_a_text_encoder_are_left_out_with_a_warning(txt2img: Sample, tmp_path: Path) -> None:
    mug(tmp_path / "ckpts" / "a-1")
    few = mug(tmp_path / "ckpts" / "b-1", seed=4)
    vocabulary, merges = few.parent / "tokenizer" / "vocab.json", few.parent / "tokenizer" / "merges.txt"
    vocabulary.write_text(json.dumps({**json.loads(vocabulary.read_text()), "mo": 514}))
    merges.write_text(merges.read_text() + "m o\n")
    os.mkfifo(tmp_path / "ckpts" / "c.ckpt")
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base")
    assert len(sampled.paths) == 1
    assert "is a named pipe, not a file" in sampled.said
    assert "has 515 tokens" in sampled.said


@pytest.mark.parametrize("flag", ["--ckpt-path", "--config", "--base"])
def test_a_pipe_is_refused_at_once(flag: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = [] if flag == "--ckpt-path" else ["--ckpt-path", mug(tmp_path / "ckpts").parent]
    refused(call("txt2img", *given, flag, tmp_path / "pipe", "-o", tmp_path / "out"), "a named pipe", "pipe")
    assert not (tmp_path / "out").exists()


def test_only_stray_files_is_an_error(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpts").mkdir()
    stray_files(tmp_path / "ckpts", tiny_checkpoint)
    refused(call("txt2img", "-c", tmp_path / "ckpts"), "no checkpoint below", "cut.safetensors")


def narrow(directory: Path) -> Path:
    """A model of another shape: its text encoder has one layer."""
    shape = {**TINY_YAML["model"], "text_encoder": {**TINY_YAML["model"]["text_encoder"], "num_hidden_layers": 1}}
    model = build_tiny_model()
    del model.text_encoder.transformer["text_model"].encoder["layers"][1]  # type: ignore[union-attr, index, operator]
    return write_tiny_checkpoint(
        directory, name="narrow.safetensors", model=model, config={**TINY_YAML, "model": shape}, step=1
    )


def without_text_encoder(path: Path) -> Path:
    """The same file with the shape in its metadata and a UNet, but no text encoder."""
    tensors = {key: value for key, value in tensors_of(path).items() if not key.startswith("cond_stage_model")}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata=metadata_of(path))
    return path


def test_what_does_not_fit_is_left_out_and_the_rest_is_compared(
    txt2img: Sample, trained: Trained, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Stray files, models of another shape, without all weights, and with keys of a later version's config."""
    root = tmp_path / "ckpts"
    shutil.copytree(trained.directory, root / "tin-can-1")
    unfit = {
        narrow(root / "narrow-1"): "shape",
        without_text_encoder(mug(root / "part-1")): "missing",
        mug(root / "new-1", config={**TINY_YAML, "lora": {"rank": 4}}): "unknown key 'lora'",
    }
    expected = stray_files(root, tiny_checkpoint)
    expected |= {path.relative_to(root).as_posix(): reason for path, reason in unfit.items()}
    sampled = txt2img("-c", root, "-v", 1)
    assert [row.label for row in table_of(sampled).rows] == ["base model", "step 3", "step 6", "step 7"]
    assert (root / "tin-can-1" / "resume.ckpt").exists()
    for name in ("notes.txt", ".DS_Store", "partial", ".hidden", "resume.ckpt"):
        assert name not in sampled.said
    warnings = [line for line in sampled.said.splitlines() if line.startswith("warning: left out")]
    assert len(warnings) == len(expected)
    for name, reason in expected.items():
        assert any(f"{root / name}:" in line and reason in line for line in warnings), name


def test_the_shape_that_most_share_is_compared_whichever_comes_first(txt2img: Sample, tmp_path: Path) -> None:
    root = tmp_path / "ckpts"
    path = narrow(root / "a-stray-1")
    mug(root / "mug-1")
    mug(root / "mug-2", seed=4)
    sampled = txt2img("-c", root, "-v", 1)
    assert len(sampled.paths) == 2
    assert f"warning: left out {path}: a model of another shape" in sampled.said
    assert sampled.record["checkpoints"] == [str(root / f"mug-{n}" / "step-00005.safetensors") for n in (1, 2)]


# Names


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("a/model.safetensors", "b/model.safetensors"),
        ("run.one.safetensors", "run-one.safetensors"),
        (f"{'long' * 20}/a/model.safetensors", f"{'long' * 20}/b/model.safetensors"),
    ],
    ids=["two directories", "spelt alike", "long paths"],
)
def test_checkpoints_of_like_names_do_not_overwrite_each_others_images(
    names: tuple[str, str], txt2img: Sample, tmp_path: Path
) -> None:
    root = tmp_path / "ckpts"
    for seed, name in enumerate(names):
        path = root / name
        write_tiny_checkpoint(path.parent, name=path.name, model=build_tiny_model(seed))
    sampled = txt2img("-c", root, "-v", 1)
    assert len(sampled.paths) == 2
    assert difference(*sampled.images) > 1


def test_a_run_that_is_the_compared_directory_itself_keeps_its_name(txt2img: Sample, tmp_path: Path) -> None:
    root = tmp_path / "mug-1"
    mug(root)
    mug(root / "best" / "mug-1")
    sampled = txt2img("-c", root, "-v", 1, "--no-base")
    assert {row.run for row in table_of(sampled).rows} == {"mug-1", "best/mug-1"}


def test_a_checkpoint_in_two_formats_gives_two_images(txt2img: Sample, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpts", name="model.safetensors")
    torch.save({"state_dict": tensors_of(checkpoint)}, tmp_path / "ckpts" / "model.ckpt")
    (tmp_path / "tiny.yaml").write_text(to_yaml(TINY_YAML))
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--config", tmp_path / "tiny.yaml")
    one, other = sampled.images
    assert difference(one, other) <= 1


def test_each_checkpoint_is_read_with_the_tokenizer_beside_it(
    txt2img: Sample, tmp_path: Path, contexts: list[tuple[str, Tensor]]
) -> None:
    """The second checkpoint holds the first one's weights, and a tokenizer that gives two letters other numbers."""
    mug(tmp_path / "ckpts" / "a")
    mug(tmp_path / "ckpts" / "b")
    vocabulary = write_tokenizer(tmp_path / "ckpts" / "b" / "tokenizer") / "vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace('"a"', '"?"').replace('"o"', '"a"').replace('"?"', '"o"'))
    txt2img("-c", tmp_path / "ckpts", "-v", 1)
    first, second = (context for prompt, context in contexts if prompt == "a photo of sks mug")
    assert not torch.equal(first, second)
