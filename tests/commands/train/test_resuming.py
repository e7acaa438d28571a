"""train.py -r: a run is resumed as it began, or an error says why it can't be."""

import shutil
from pathlib import Path

import pytest

from ldm.commands.train import STAGES
from ldm.config import read_yaml, to_yaml
from tests.commands.calls import call, info_of, refused
from tests.commands.fixtures import Trained
from tests.commands.train.stages import LAST, Scratch, copied


def test_a_finished_run_stays_as_it_is(second: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(second, scratch)
    before = {path.name: path.read_bytes() for path in run.glob("step-*")}
    monkeypatch.setitem(STAGES, "diffusion", lambda run: pytest.fail("the stage began"))
    outcome = call("train", "diffusion", "-r", run)
    assert outcome.status == 0, outcome.said
    assert "is finished: all 6 updates are made, and there is nothing to do." in outcome.said
    assert f"  python train.py diffusion -r {run} --iterations 12\n" in outcome.said
    assert {path.name: path.read_bytes() for path in run.glob("step-*")} == before


@pytest.mark.parametrize(
    ("stage", "hint"),
    [
        ("autoencoder", "the next stage:\n  python train.py diffusion --autoencoder {last} -i {images}\n"),
        ("diffusion", "try it:\n  python txt2img.py --ckpt-path {last}\n"),
        ("judge", "measure how good it is:\n  python benchmarks/judge.py --judge {last}\n"),
    ],
)
def test_what_to_do_next_is_logged_after_training_and_when_it_is_finished(
    stage: str, hint: str, second: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(second, scratch)
    record = read_yaml(run / "run.yaml")
    record["options"] |= {"stage": stage, "iterations": 6, "image_dir": str(scratch.images)}
    (run / "run.yaml").write_text(to_yaml(record))
    monkeypatch.setitem(STAGES, stage, lambda run: (run.directory / "step-000007.safetensors").touch())
    for name, flags in ((LAST, ()), ("step-000007.safetensors", ("--iterations", 7))):
        outcome = call("train", stage, "-r", run, *flags)
        assert outcome.status == 0, outcome.said
        assert hint.format(last=run / name, images=scratch.images) in outcome.said


def test_a_finished_run_can_drop_its_resume_state(second: Path, scratch: Scratch) -> None:
    run = copied(second, scratch)
    outcome = call("train", "diffusion", "-r", run, "--drop-resume-state")
    assert outcome.status == 0, outcome.said
    assert "6 updates are made, and there is nothing to do.\n" in outcome.said
    assert not (run / "resume.ckpt").exists()
    assert "Without resume.ckpt it can't make more. To train on" in call("train", "diffusion", "-r", run).said


def test_a_run_can_be_given_more_iterations_and_other_devices(second: Path, scratch: Scratch) -> None:
    run = copied(second, scratch)
    flags = ("--iterations", 7, "-s", 7, "--logger", "none", "--workers", 1, "--precision", "full", "-d", "cpu")
    outcome = call("train", "diffusion", "-r", run, *flags)
    assert outcome.status == 0, outcome.said
    assert info_of(run / "step-000007.safetensors").step == 7
    options = read_yaml(run / "run.yaml")["options"]
    assert (options["iterations"], options["workers"], options["devices"]) == (7, 1, "cpu")


def test_a_resumed_run_keeps_its_tokenizer_and_yaml(second: Path, finished: Scratch, scratch: Scratch) -> None:
    """Those that the YAML names may have changed since."""
    run = copied(second, scratch)
    record = read_yaml(run / "run.yaml")
    record["config"]["tokenizer"] = "nowhere"
    record["options"]["config"] = "nowhere.yaml"
    (run / "run.yaml").write_text(to_yaml(record))
    outcome = call("train", "diffusion", "-r", run, "--iterations", 7)
    assert outcome.status == 0, outcome.said
    assert (run / "step-000007.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seed", 8), "--seed can't change in a resumed run: it is 42 there"),
        (("--config", "other.yaml"), "--config can't change"),
        (("--iterations", 2), "--iterations 2 is less than the 6 updates this run has made"),
    ],
)
def test_what_a_resumed_run_can_not_change_is_refused(
    flags: tuple[object, ...], words: str, first: Path, scratch: Scratch
) -> None:
    run = copied(first, scratch)
    refused(call("train", "autoencoder", "-r", run, *flags), words)


def test_a_run_of_another_stage_is_refused_with_the_right_command(first: Path, scratch: Scratch) -> None:
    run = copied(first, scratch)
    refused(call("train", "diffusion", "-r", run), f"python train.py autoencoder -r {run}")


def test_commands_take_their_own_runs_only(first: Path, trained: Trained, tmp_path: Path) -> None:
    refused(call("train", "diffusion", "-r", trained.directory), "is no run of train.py")
    refused(call("dreambooth", "-r", first), "is no run of dreambooth.py")
    refused(call("train", "autoencoder", "-r", tmp_path), "is no run of train.py", "run.yaml")


def test_other_images_than_the_runs_own_are_refused(scratch: Scratch, first: Path) -> None:
    run = scratch.train("diffusion", "--autoencoder", first / LAST, "--iterations", 1).directory
    listed = scratch.images / "metadata.jsonl"
    listed.write_text(listed.read_text().replace("blue", "black"))
    words = ("the images or captions in", "are not those that this run began with")
    refused(call("train", "diffusion", "-r", run, "--iterations", 2), *words)


def test_another_autoencoder_under_the_same_name_is_refused(scratch: Scratch, first: Path, tmp_path: Path) -> None:
    shutil.copy(first / LAST, tmp_path / "ae.safetensors")
    run = scratch.train("diffusion", "--autoencoder", tmp_path / "ae.safetensors", "--iterations", 1).directory
    shutil.copy(first / "step-000003.safetensors", tmp_path / "ae.safetensors")
    outcome = call("train", "diffusion", "-r", run, "--iterations", 2)
    refused(outcome, "ae.safetensors is not the file that this run began with")


def test_a_damaged_record_is_named(first: Path, scratch: Scratch) -> None:
    run = copied(first, scratch)
    (run / "run.yaml").write_text("options:\n  stage: autoencoder\n  image_dir: pictures\n")
    refused(call("train", "autoencoder", "-r", run), str(run / "run.yaml"))
