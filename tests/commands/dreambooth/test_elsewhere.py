"""dreambooth.py -r after things have moved, or are gone: found by their SHA-256, or named; never silently anew."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ldm.commands import elsewhere
from ldm.commands.dreambooth import opening
from ldm.commands.dreambooth import run as command
from ldm.config import read_yaml, to_yaml
from ldm.nn.tokenizer import tokenizer_digest
from ldm.runtime import models
from ldm.terminal import command_line
from tests.commands.calls import call, equal, info_of, refused
from tests.commands.dreambooth.training_run import STOPPED, Teach, copied, interrupted, sha256
from tests.commands.fixtures import UNetCall, write_photos
from tests.tiny import build_tiny_model, write_tiny_checkpoint


@pytest.fixture
def whole(tmp_path: Path, stopped_once: Path, subject_dir: Path, tiny_checkpoint: Path) -> Path:
    """A folder of all that a stopped run needs, as its paths say: old/{ckpts,can,base}."""
    root = tmp_path / "old"
    shutil.copytree(stopped_once.parent, root / "ckpts")
    shutil.copytree(subject_dir, root / "can")
    shutil.copytree(tiny_checkpoint.parent, root / "base")
    run = root / "ckpts" / "can-1"
    record = read_yaml(run / "run.yaml")
    record["directory"] = str(run)
    record["options"] |= {
        "ckpt_path": str(root / "base" / tiny_checkpoint.name),
        "instance_img_dir": str(root / "can"),
        "output_dir": str(root / "ckpts"),
    }
    (run / "run.yaml").write_text(to_yaml(record))
    return run


def goes_on(run: Path, *arguments: object) -> str:
    """Continues a run to its end; what was said."""
    outcome = call("dreambooth", "-r", run, *arguments)
    assert outcome.status == 0, outcome.said
    assert (run / "step-00004.safetensors").exists()
    return outcome.said


def test_a_project_that_moved_as_a_whole_goes_on_without_a_flag(
    whole: Path, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    """Also one whose record names no directory, as older ones do. No class image is drawn again."""
    record = read_yaml(whole / "run.yaml")
    del record["directory"]
    (whole / "run.yaml").write_text(to_yaml(record))
    (tmp_path / "old").rename(tmp_path / "new")
    run = tmp_path / "new" / "ckpts" / "can-1"
    goes_on(run)
    assert len(unet_calls) == 2  # the missing steps
    options = read_yaml(run / "run.yaml")["options"]
    assert options["ckpt_path"] == str(next((tmp_path / "new" / "base").glob("*.safetensors")))
    assert options["instance_img_dir"] == str(tmp_path / "new" / "can")
    assert options["output_dir"] == str(tmp_path / "new" / "ckpts")
    assert read_yaml(run / "run.yaml")["directory"] == str(run)


def test_a_run_that_moved_alone_is_given_its_photos_and_weights_by_flags(whole: Path, tmp_path: Path) -> None:
    """And draws as many class images as it did where they were left behind: the same bits in the end."""
    uninterrupted = shutil.copytree(whole.parent, tmp_path / "reference") / "can-1"
    goes_on(uninterrupted)
    (tmp_path / "far").mkdir()
    run = shutil.move(whole, tmp_path / "far" / "my-can")
    photos = shutil.move(tmp_path / "old" / "can", tmp_path / "renamed photos")
    base = shutil.move(next((tmp_path / "old" / "base").glob("*.safetensors")), tmp_path / "renamed.safetensors")
    refused(call("dreambooth", "-r", run), "tiny.safetensors", "SHA-256", sha256(Path(base)), "--ckpt-path")
    refused(
        call("dreambooth", "-r", run, "--ckpt-path", base),
        "--instance-img-dir",
        "0.png (SHA-256",
        str(tmp_path / "old"),
    )
    goes_on(Path(run), "--ckpt-path", base, "-i", photos)
    assert equal(Path(run) / "step-00004.safetensors", uninterrupted / "step-00004.safetensors")
    options = read_yaml(Path(run) / "run.yaml")["options"]
    assert (options["ckpt_path"], options["instance_img_dir"]) == (str(base), str(photos))


def test_what_is_typed_has_to_be_the_same(whole: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(seed=3))
    refused(
        call("dreambooth", "-r", whole, "--ckpt-path", other), "not the file that this run began with", "--ckpt-path"
    )
    refused(call("dreambooth", "-r", whole, "-i", write_photos(tmp_path / "others", 4)), "photos", "3.png")


@pytest.mark.parametrize("place", ["beside", "in", "embedded", "downloaded", "cache"])
def test_base_weights_are_found_where_they_may_be(
    place: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = next((tmp_path / "old" / "base").glob("*.safetensors"))
    places = {
        "beside": whole.parent / base.name,
        "in": whole / base.name,
        "embedded": tmp_path / "assets" / base.name,
        "downloaded": tmp_path / "weights" / base.name,
        "cache": tmp_path / "hub" / "models--me--sd" / "snapshots" / "0" / base.name,
    }
    for name, path in (("EMBEDDED", places["embedded"]), ("DOWNLOADED", tmp_path / "weights")):
        monkeypatch.setattr(models, name, path)
    monkeypatch.setattr(elsewhere, "HF_HUB_CACHE", str(tmp_path / "hub"))
    places[place].parent.mkdir(parents=True, exist_ok=True)
    base.rename(places[place])
    monkeypatch.setattr(command, "fit", lambda *given: None)
    outcome = call("dreambooth", "-r", whole)
    assert outcome.status == 0, outcome.said
    assert f"{base} has moved: {places[place]}" in outcome.said


# The resume state


def test_a_lost_resume_state_is_no_reason_to_begin_again(whole: Path) -> None:
    """The command that is told instead can be typed as it stands."""
    (whole / "resume.ckpt").unlink()
    files = [path for path in whole.rglob("*") if path.is_file() and path.name not in (".lock", "run.log")]
    before = {path: path.read_bytes() for path in files}
    outcome = call("dreambooth", "-r", whole)
    refused(outcome, "resume.ckpt is not there", "step-00002.safetensors", "start a new run")
    assert {path: path.read_bytes() for path in before} == before
    words = shlex.split(re.findall(r"python dreambooth\.py (.*)", outcome.said)[0])
    again = call("dreambooth", *words, "--iterations", 1, "-s", 1, "--class-img-count", 0, "-o", whole.parent)
    assert again.status == 0, again.said
    assert read_yaml(whole.parent / "can-2" / "run.yaml")["base_sha256"] == sha256(whole / "step-00002.safetensors")


def test_a_run_that_was_stopped_before_its_first_save_begins_again_and_says_so(
    teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the first checkpoint and the first resume state."""
    run = interrupted(teach, monkeypatch, 2, *STOPPED)
    assert not (run / "resume.ckpt").exists() and not list(run.glob("step-*"))
    (run / "step-00002.safetensors").write_bytes(b"written before the state")
    assert "starts from its beginning" in goes_on(run)
    assert info_of(run / "step-00002.safetensors").step == 2
    (run / "resume.ckpt").unlink()
    (run / "step-00004.safetensors").unlink()
    refused(call("dreambooth", "-r", run), "resume.ckpt is not there")


def test_a_finished_run_without_its_resume_state_says_that_it_is_finished(whole: Path) -> None:
    goes_on(whole)
    (whole / "resume.ckpt").unlink()
    outcome = call("dreambooth", "-r", whole)
    assert outcome.status == 0
    assert "is finished: all 4 updates are made" in outcome.said
    again = command_line("dreambooth.py", "-c", "can", "-i", whole.parent.parent / "can")
    assert f"start a new run:\n  {again}" in outcome.said
    refused(call("dreambooth", "-r", whole, "--iterations", 6), "resume.ckpt is not there", f"\n  {again}")


# The tokenizer


def test_the_tokenizer_is_there_before_the_record(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        opening, "write_record", lambda path, *_, **__: seen.append(tokenizer_digest(path.parent / "tokenizer"))
    )
    seen: list[str] = []
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root)
    with pytest.raises(FileNotFoundError):
        monkeypatch.setattr(opening, "mark_unsaved", lambda directory: (directory / "run.yaml").read_text())
        call("dreambooth", *words)
    assert seen == [tokenizer_digest(teach.checkpoint.parent / "tokenizer")]


@pytest.mark.parametrize(("damage", "older"), [("cut", False), ("gone", True), ("half", False)])
def test_a_damaged_tokenizer_is_repaired(damage: str, older: bool, stopped: Path, tiny_checkpoint: Path) -> None:
    record = read_yaml(stopped / "run.yaml")
    digest = tokenizer_digest(tiny_checkpoint.parent / "tokenizer")
    assert record["tokenizer"] == info_of(stopped / "step-00002.safetensors").tokenizer == digest
    if older:
        del record["tokenizer"]
        (stopped / "run.yaml").write_text(to_yaml(record))
    own = stopped / "tokenizer"
    match damage:
        case "cut":
            (own / "vocab.json").write_bytes((own / "vocab.json").read_bytes()[:-30] + b"}")
        case "gone":
            shutil.rmtree(own)
        case "half":
            (own / "merges.txt").unlink()
    assert "files are copied from" in goes_on(stopped)
    assert tokenizer_digest(own) == digest
    assert info_of(stopped / "step-00004.safetensors").tokenizer == digest


def test_a_tokenizer_that_is_nowhere_is_named(stopped: Path, teach: Teach, tmp_path: Path) -> None:
    run = copied(stopped, tmp_path / "b")
    base = shutil.copytree(teach.checkpoint.parent, tmp_path / "base") / teach.checkpoint.name
    for damaged in (run / "tokenizer", base.parent / "tokenizer"):
        (damaged / "merges.txt").write_text("#version: 0.2\na b\n")
    digest = read_yaml(run / "run.yaml")["tokenizer"]
    refused(call("dreambooth", "-r", run, "--ckpt-path", base), f"{run / 'tokenizer'} is damaged", digest)
