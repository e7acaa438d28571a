"""dreambooth.py -r after files have moved or are gone: found by their SHA-256, or named in an error."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ldm.commands import elsewhere
from ldm.commands.dreambooth import directory as run_directory
from ldm.commands.dreambooth import run as command
from ldm.config import read_yaml, to_yaml
from ldm.nn.tokenizer import tokenizer_digest
from ldm.runtime import models
from ldm.terminal import command_line
from tests.commands.calls import call, equal, info_of, refused
from tests.commands.dreambooth.fine_tuning import STOPPED, FineTune, copied, interrupted, sha256
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


def resumed(run: Path, *arguments: object) -> str:
    """Resumes a run to its end; its output."""
    outcome = call("dreambooth", "-r", run, *arguments)
    assert outcome.status == 0, outcome.said
    assert (run / "step-00004.safetensors").exists()
    return outcome.said


def test_a_project_that_moved_as_a_whole_is_resumed_without_a_flag(
    whole: Path, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    """Also if its record has no directory, as older ones. No class image is sampled again."""
    record = read_yaml(whole / "run.yaml")
    del record["directory"]
    (whole / "run.yaml").write_text(to_yaml(record))
    (tmp_path / "old").rename(tmp_path / "new")
    run = tmp_path / "new" / "ckpts" / "can-1"
    resumed(run)
    assert len(unet_calls) == 2  # the missing steps
    options = read_yaml(run / "run.yaml")["options"]
    assert options["ckpt_path"] == str(next((tmp_path / "new" / "base").glob("*.safetensors")))
    assert options["instance_img_dir"] == str(tmp_path / "new" / "can")
    assert options["output_dir"] == str(tmp_path / "new" / "ckpts")
    assert read_yaml(run / "run.yaml")["directory"] == str(run)


@pytest.mark.slow
def test_a_run_that_moved_alone_needs_flags_for_photos_and_weights(whole: Path, tmp_path: Path) -> None:
    """And samples the class images again that it left behind: the same bits in the end."""
    uninterrupted = shutil.copytree(whole.parent, tmp_path / "reference") / "can-1"
    resumed(uninterrupted)
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
    resumed(Path(run), "--ckpt-path", base, "-i", photos)
    assert equal(Path(run) / "step-00004.safetensors", uninterrupted / "step-00004.safetensors")
    options = read_yaml(Path(run) / "run.yaml")["options"]
    assert (options["ckpt_path"], options["instance_img_dir"]) == (str(base), str(photos))


def test_flags_have_to_name_the_same_content(whole: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(seed=3))
    refused(
        call("dreambooth", "-r", whole, "--ckpt-path", other), "not the file that this run began with", "--ckpt-path"
    )
    refused(call("dreambooth", "-r", whole, "-i", write_photos(tmp_path / "others", 4)), "photos", "3.png")


def test_other_content_at_the_same_place_is_refused(whole: Path, tmp_path: Path) -> None:
    gone = tmp_path / "old" / "can" / "0.png"
    gone.unlink()
    refused(call("dreambooth", "-r", whole), "photos", gone.name)
    base = write_tiny_checkpoint(tmp_path / "old" / "base", model=build_tiny_model(seed=3))
    refused(call("dreambooth", "-r", whole), str(base), "not the file that this run began with")


@pytest.mark.parametrize("place", ["beside", "in", "embedded", "downloaded", "cache"])
def test_where_base_weights_are_found(place: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_without_its_resume_state_is_refused(whole: Path) -> None:
    """The command in the error can be run as it stands."""
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


@pytest.mark.slow
def test_a_run_that_stopped_before_its_first_save_starts_again(
    fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the first checkpoint and the first resume state."""
    run = interrupted(fine_tune, monkeypatch, 2, *STOPPED)
    assert not (run / "resume.ckpt").exists() and not list(run.glob("step-*"))
    (run / "step-00002.safetensors").write_bytes(b"written before the state")
    assert "starts from its beginning" in resumed(run)
    assert info_of(run / "step-00002.safetensors").step == 2
    (run / "resume.ckpt").unlink()
    (run / "step-00004.safetensors").unlink()
    refused(call("dreambooth", "-r", run), "resume.ckpt is not there")


def test_a_finished_run_without_its_resume_state(whole: Path) -> None:
    resumed(whole)
    (whole / "resume.ckpt").unlink()
    outcome = call("dreambooth", "-r", whole)
    assert outcome.status == 0
    assert "is finished: all 4 updates are made" in outcome.said
    again = command_line("dreambooth.py", "-c", "can", "-i", whole.parent.parent / "can")
    assert f"start a new run:\n  {again}" in outcome.said
    refused(call("dreambooth", "-r", whole, "--iterations", 6), "resume.ckpt is not there", f"\n  {again}")


# The tokenizer


def test_the_tokenizer_is_written_before_the_record(fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run_directory,
        "write_record",
        lambda path, *_, **__: digests.append(tokenizer_digest(path.parent / "tokenizer")),
    )
    digests: list[str] = []
    with pytest.raises(FileNotFoundError):
        monkeypatch.setattr(run_directory, "mark_unsaved", lambda directory: (directory / "run.yaml").read_text())
        fine_tune.call()
    assert digests == [tokenizer_digest(fine_tune.checkpoint.parent / "tokenizer")]


@pytest.mark.parametrize(
    ("damage", "older"),
    [
        ("cut", False),
        pytest.param("gone", True, marks=pytest.mark.slow),
        pytest.param("half", False, marks=pytest.mark.slow),
    ],
)
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
    assert "files are copied from" in resumed(stopped)
    assert tokenizer_digest(own) == digest
    assert info_of(stopped / "step-00004.safetensors").tokenizer == digest


def test_a_tokenizer_without_a_good_copy_is_an_error(stopped: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    run = copied(stopped, tmp_path / "b")
    base = shutil.copytree(fine_tune.checkpoint.parent, tmp_path / "base") / fine_tune.checkpoint.name
    for damaged in (run / "tokenizer", base.parent / "tokenizer"):
        (damaged / "merges.txt").write_text("#version: 0.2\na b\n")
    digest = read_yaml(run / "run.yaml")["tokenizer"]
    refused(call("dreambooth", "-r", run, "--ckpt-path", base), f"{run / 'tokenizer'} is damaged", digest)
