"""txt2img.py -r: images that are there and valid stay, the others are sampled, to the same results as in one call."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from ldm.commands.sampling import job, loop
from ldm.config import read_yaml, to_yaml
from tests.commands.calls import Outcome, Sampled, call, pixels, refused, start, tensors_of
from tests.commands.fixtures import Sample, Trained, UNetCall
from tests.commands.processes import wait_until
from tests.report.tables import lines_of, stop_after, table_of, tuned
from tests.tiny import TINY_YAML, build_tiny_model, write_tiny_checkpoint, write_tokenizer

COMPARISON = ("-v", 2, "-p", "a photo of sks {class}", "a {class}", "--ddim-eta", 1.0, "--seed", 5)
"""2 prompts x 2 seeds, with noise in every step."""


@pytest.fixture
def ckpts(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """Two steps of a run."""
    for step in (5, 10):
        tuned(tmp_path / "ckpts" / "mug-1", tiny_checkpoint, step, seed=step)
    return tmp_path / "ckpts"


def resume(directory: Path, *arguments: object) -> Outcome:
    outcome = call("txt2img", "-r", directory, *arguments)
    assert outcome.status == 0, outcome.said
    return outcome


def files(directory: Path) -> dict[str, bytes]:
    """The pixels of every image, the grid among them, and the table."""
    found = {path.relative_to(directory).as_posix(): pixels(path).tobytes() for path in directory.rglob("*.png")}
    return found | {"pictures.csv": (directory / "pictures.csv").read_bytes()}


def times(sampled: Sampled) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sampled.paths}


def test_a_finished_call_reads_and_samples_nothing(
    txt2img: Sample, trained: Trained, unet_calls: list[UNetCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = txt2img("-c", trained.root, "-v", 2)
    before, written = times(sampled), files(sampled.directory)
    unet_calls.clear()
    monkeypatch.setattr("ldm.commands.sampling.loop._read", lambda *arguments: pytest.fail("a checkpoint was read"))
    results = {name: (sampled.directory / name).stat().st_mtime_ns for name in ("grid.png", "index.html")}
    assert "nothing is missing: 8 images and index.html are up to date in" in resume(sampled.directory).said
    assert not unet_calls
    assert times(sampled) == before
    assert files(sampled.directory) == written
    assert {name: (sampled.directory / name).stat().st_mtime_ns for name in results} == results
    for name in results:
        (sampled.directory / name).unlink()
    resume(sampled.directory)
    assert all((sampled.directory / name).is_file() for name in results)


def test_what_is_missing_damaged_or_of_another_image_is_sampled_again_the_same(txt2img: Sample, ckpts: Path) -> None:
    sampled = txt2img("-c", ckpts, "--no-base", *COMPARISON)
    before, written = times(sampled), files(sampled.directory)
    gone, cut, like, other, bare = (sampled.paths[index] for index in (0, 3, 4, 5, 6))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-8])
    shutil.copyfile(like, other)
    Image.open(bare).save(bare)  # without its text
    resume(sampled.directory)
    assert files(sampled.directory) == written
    changed = {name for name, mtime in times(sampled).items() if mtime != before[name]}
    assert changed == {path.name for path in (gone, cut, other, bare)}


def test_images_of_older_versions_with_their_names_of_chunks_are_valid(txt2img: Sample, ckpts: Path) -> None:
    sampled = txt2img("-c", ckpts, "--no-base", "-v", 1)
    for path in sampled.paths:
        with Image.open(path) as image:
            info, text = PngInfo(), dict(image.info)
            for key, value in text.items():
                info.add_itxt(key.removeprefix("ldm."), value)
            image.save(path, pnginfo=info)
    before = times(sampled)
    resume(sampled.directory)
    assert times(sampled) == before


def test_checkpoints_that_have_come_or_changed_since_are_sampled(
    txt2img: Sample, ckpts: Path, tiny_checkpoint: Path
) -> None:
    sampled = txt2img("-c", ckpts, "--no-base", "-v", 1)
    before = times(sampled)
    tuned(ckpts / "mug-1", tiny_checkpoint, 10, seed=11)
    tuned(ckpts / "mug-1", tiny_checkpoint, 7, seed=7)
    resume(sampled.directory)
    assert [row.step for row in table_of(sampled).rows] == [5, 7, 10]
    assert sampled.record["checkpoints"] == [str(ckpts / f"mug-1/step-{step:05d}.safetensors") for step in (5, 7, 10)]
    after = times(sampled)
    assert {name for name in before if after[name] == before[name]} == {"mug-1-step-5_00-a-photo-of-sks-mug_42.png"}
    alone = txt2img("-c", ckpts / "mug-1" / "step-00010.safetensors", "-v", 1).paths[0]
    assert (pixels(sampled.paths[2]) == pixels(alone)).all()


def test_images_of_checkpoints_that_are_gone_stay_and_are_not_listed(txt2img: Sample, ckpts: Path) -> None:
    sampled = txt2img("-c", ckpts, "--no-base", "-v", 1)
    (ckpts / "mug-1" / "step-00005.safetensors").unlink()
    resume(sampled.directory)
    assert len(sampled.paths) == 2
    assert [line["step"] for line in lines_of(sampled)] == ["10"]


def test_another_tokenizer_is_another_image(txt2img: Sample, ckpts: Path) -> None:
    sampled = txt2img("-c", ckpts, "--no-base", "-v", 1)
    vocabulary = write_tokenizer(ckpts / "mug-1" / "tokenizer") / "vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace('"a"', '"?"').replace('"o"', '"a"').replace('"?"', '"o"'))
    before = files(sampled.directory)
    resume(sampled.directory)
    assert all(files(sampled.directory)[path.name] != before[path.name] for path in sampled.paths)


def test_a_file_that_names_no_parts_is_known_by_its_size_and_time(
    txt2img: Sample, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    for seed in (1, 2):
        path = write_tiny_checkpoint(tmp_path / "ckpts", model=build_tiny_model(seed), name=f"{seed}.safetensors")
        save_file({key: tensor.clone() for key, tensor in tensors_of(path).items()}, path)
    (tmp_path / "tiny.yaml").write_text(to_yaml(TINY_YAML))
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--config", tmp_path / "tiny.yaml")
    unet_calls.clear()
    resume(sampled.directory)
    assert not unet_calls
    (tmp_path / "ckpts" / "2.safetensors").touch()
    resume(sampled.directory)
    assert len(unet_calls) == 3


def test_img2img_resumes_and_notices_another_image(img2img: Sample, tmp_path: Path, unet_calls: list[UNetCall]) -> None:
    sketch = tmp_path / "sketch.png"
    Image.new("RGB", (32, 32), "red").save(sketch)
    sampled = img2img("-i", sketch, "-v", 2)
    unet_calls.clear()
    assert call("img2img", "-r", sampled.directory).status == 0
    assert not unet_calls
    Image.new("RGB", (32, 32), "blue").save(sketch)
    assert call("img2img", "-r", sampled.directory).status == 0
    assert len(unet_calls) == 4
    refused(call("txt2img", "-r", sampled.directory), "python img2img.py -r")


def test_a_missing_image_is_sampled_in_the_same_batch_as_before(
    txt2img: Sample, ckpts: Path, unet_calls: list[UNetCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where rounding may depend on the batch."""
    monkeypatch.setattr(loop, "images_at_a_time", lambda device, batch_size: batch_size)
    sampled = txt2img("-c", ckpts, "--no-base", *COMPARISON, "-b", 3)
    before, written = times(sampled), files(sampled.directory)
    sampled.paths[1].unlink()
    unet_calls.clear()
    resume(sampled.directory)
    assert [one.batch for one in unet_calls] == [6, 6, 6]
    assert files(sampled.directory) == written
    changed = {name for name, mtime in times(sampled).items() if mtime != before[name]}
    assert changed == {sampled.paths[1].name}


def test_a_batch_size_that_was_chosen_stays(txt2img: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it is chosen by what is free just then."""
    asked: list[int] = []

    def choose(*how: Any) -> int:
        asked.append(how[4])
        return 3

    monkeypatch.setattr(job, "batch_that_fits", choose)
    sampled = txt2img("-v", 2, "-p", "a cat", "a dog")
    resume(sampled.directory)
    assert read_yaml(sampled.directory / "run.yaml")["options"]["batch_size"] == 3
    assert asked == [4]  # images, once


# Interrupted


def test_ctrl_c_keeps_the_images_and_prints_how_to_continue(
    txt2img: Sample, ckpts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = txt2img("-c", ckpts, "--no-base", *COMPARISON)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        outcome = call("txt2img", "-c", ckpts, "--no-base", *COMPARISON)
    assert outcome.status == 75
    directory = Path(re.findall(r"continue with\n  python txt2img.py -r (.*)", outcome.said)[0])
    sampled = Sampled(directory, outcome.said)
    assert "what is there: 5 images, grid.png and index.html" in outcome.said
    assert len(sampled.paths) == len(lines_of(sampled)) == 5
    comparison = table_of(sampled)
    assert [sum(cell is not None for cell in row.cells) for row in comparison.rows] == [4, 1]
    assert comparison.unfinished == "5 of 8 images are there, from 2 of 2 checkpoints."
    assert comparison.resume_command == f"python txt2img.py -r {directory}"
    resume(directory)
    assert not table_of(sampled).unfinished
    assert files(directory) == files(whole.directory)


def test_ctrl_c_before_the_first_image(txt2img: Sample, ckpts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        outcome = call("txt2img", "-c", ckpts)
    assert outcome.status == 75
    assert "continue with" in outcome.said
    assert not list(Path("outputs/txt2img-1").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_comparison_that_was_stopped_and_continued_is_the_same_as_one_that_was_not(
    number: signal.Signals, txt2img: Sample, uninterrupted: Trained, tmp_path: Path
) -> None:
    """Also with another batch size: images, grid and table, bit for bit."""
    words = ("-c", uninterrupted.root, *COMPARISON, "-o", tmp_path / "out")
    process = start("txt2img", *words, "-b", 1, cwd=tmp_path)
    directory = tmp_path / "out" / "txt2img-1"
    wait_until("the third image", lambda: len(list(directory.glob("*.png"))) > 2, process)
    process.send_signal(number)
    said, _ = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 75), said
    if number == signal.SIGTERM:
        assert f"continue with\n  python txt2img.py -r {directory}" in said
        assert "Traceback" not in said
    (directory / f".left.png.{process.pid}.partial").touch()
    resume(directory)
    whole = txt2img(*words, "-b", 8)
    assert len(whole.paths) == 20
    assert files(directory) == files(whole.directory)
    assert not list(directory.glob("*.partial"))


# Its options


def test_it_continues_from_any_directory_with_its_own_options(
    txt2img: Sample, ckpts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sampled = txt2img("-c", Path("ckpts"), "--no-base", "-o", "out", *COMPARISON)
    directory, before = sampled.directory.resolve(), files(sampled.directory)
    for path in sampled.paths[::2]:
        path.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(directory)
    after = files(directory)
    assert {name: data for name, data in after.items() if name.endswith("png")} == {
        name: data for name, data in before.items() if name.endswith("png")
    }
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_given_size_matches_the_rounded_one_and_another_is_refused(txt2img: Sample) -> None:
    sampled = txt2img("-v", 1, "--hw", 33, 47)
    resume(sampled.directory, "--hw", 33, 47)
    assert sampled.record["options"]["hw"] == [32, 48]
    another = call("txt2img", "-r", sampled.directory, "--hw", 48)
    refused(another, "--hw can't change in a resumed run: it is [32, 48] there")


def test_batch_size_and_device_may_change(txt2img: Sample) -> None:
    sampled = txt2img("-v", 1)
    resume(sampled.directory, "-b", 2, "-d", "cpu")
    assert read_yaml(sampled.directory / "run.yaml")["options"]["batch_size"] == 2
