"""dreambooth.py -r: a run is resumed as it began, or an error says why it can't."""

import re
from pathlib import Path

import pytest
import torch

from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.plan import resumed_run_options
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import read_yaml, to_yaml
from ldm.runtime import devices
from ldm.training.dreambooth import DreamBooth
from tests.commands.calls import call, equal, info_of, refused
from tests.commands.dreambooth.fine_tuning import STOPPED, FineTune, copied
from tests.commands.fixtures import Trained, UNetCall


@pytest.mark.slow
def test_a_run_is_resumed_with_its_own_options(
    stopped: Path, fine_tune: FineTune, unet_calls: list[UNetCall], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any directory, in which nothing is written."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = call("dreambooth", "-r", stopped)
    assert outcome.status == 0, outcome.said
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(unet_calls) == 2  # the steps that were missing, no class image
    whole = fine_tune(*STOPPED, "-o", fine_tune.root.parent / "whole")
    assert equal(whole.step(4), stopped / "step-00004.safetensors")
    assert [path.name for path in fine_tune.root.iterdir() if path.name.startswith("can")] == ["can-1"]
    before, after = (info_of(stopped / f"step-0000{step}.safetensors").options for step in (2, 4))
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"resume_dir", "output_dir"}  # the run was copied
    text = (stopped / "run.log").read_text()
    assert "sampling 2 of 2 class images" in text
    assert "4 updates made" in text


@pytest.mark.slow
def test_a_resumed_run_keeps_the_precision_that_auto_chose(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another kind of GPU."""
    dtypes = []
    monkeypatch.setattr(devices, "half_dtype", lambda device: pytest.fail("auto was resolved again"))
    monkeypatch.setattr(command, "fit", lambda module, options, save: dtypes.append(options.autocast_dtype) or 0)
    record = stopped / "run.yaml"
    assert "precision: full" in record.read_text()
    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("full", None)):
        record.write_text(re.sub("precision: .*", f"precision: {precision}", record.read_text()))
        assert call("dreambooth", "-r", stopped).status == 0
        assert dtypes.pop() == dtype
        assert read_yaml(record)["options"]["precision"] == precision


@pytest.mark.usefixtures("plan")
def test_repeating_the_runs_own_flags_is_no_change(stopped: Path, fine_tune: FineTune, tmp_path: Path) -> None:
    """Also if a path is written another way, or a size with one number, which the model rounds."""
    relative = fine_tune.root.relative_to(tmp_path)
    photos = Path(*[".."] * (len(tmp_path.parts) - 1), *fine_tune.subject_dir.parts[1:])
    outcome = call("dreambooth", "-r", stopped, "-c", "can", "-i", photos, "-o", relative, "--hw", 33, *STOPPED)
    assert outcome.status == 0, outcome.said


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--seed", 42), ("--no-flip", None), ("--hw", 48)],  # 42 is what the seed would be without the flag
)
def test_a_changed_flag_is_named_and_refused(flag: str, value: object, stopped: Path) -> None:
    outcome = call("dreambooth", "-r", stopped, flag, *([] if value is None else [value]))
    refused(outcome, flag.replace("--no-", "--"), "resumed run")
    assert not (stopped / "step-00004.safetensors").exists()


def test_the_length_of_a_run_may_change(stopped: Path) -> None:
    outcome = call("dreambooth", "-r", stopped, "--iterations", 6, "-s", 3, "--logger", "none")
    assert outcome.status == 0, outcome.said
    steps = sorted(path.name for path in stopped.glob("*.safetensors"))
    assert steps == [f"step-0000{step}.safetensors" for step in (2, 3, 6)]
    assert call("dreambooth", "-r", stopped).status == 0
    assert read_yaml(stopped / "run.yaml")["options"]["iterations"] == 6  # the next resume keeps it


def test_out_of_memory_advice_of_a_resumed_run(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(module: DreamBooth, *args: object) -> None:
        levels.append(module.config.gradient_checkpointing)
        raise torch.OutOfMemoryError

    levels: list[str] = []
    monkeypatch.setattr(command, "fit", fit)
    refused(call("dreambooth", "-r", stopped), "too small", "--gradient-checkpointing needs less")
    outcome = call("dreambooth", "-r", stopped, "--gradient-checkpointing")
    refused(outcome, "too small", "--devices")
    assert "--gradient-checkpointing" not in outcome.said
    assert read_yaml(stopped / "run.yaml")["options"]["gradient_checkpointing"] == "all"
    assert levels == ["none", "all"]


def test_fewer_updates_than_made_are_refused(stopped: Path) -> None:
    refused(call("dreambooth", "-r", stopped, "--iterations", 1), "--iterations 1", "2 updates")


def test_only_the_first_process_writes_the_record(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(command, "fit", lambda module, *args: ended.append(module.config.iterations))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LDM_RUN_DIR", str(stopped))
    before = (stopped / "run.yaml").read_bytes()
    assert call("dreambooth", "-r", stopped, "--iterations", 6).status == 0
    assert ended == [6]
    assert (stopped / "run.yaml").read_bytes() == before


@pytest.mark.parametrize(("written", "level"), [(False, "none"), (True, "all"), ("attention", "attention")])
def test_an_older_record_of_gradient_checkpointing(tmp_path: Path, written: object, level: str) -> None:
    record = {"options": {"class_name": "can", "gradient_checkpointing": written, "output_dir": "ckpts"}}
    (tmp_path / "run.yaml").write_text(to_yaml(record))
    given = dreambooth_parser().parse_args(["-r", str(tmp_path)])
    assert resumed_run_options(given).gradient_checkpointing == level


def test_a_finished_run_stays_as_it_is_and_what_to_do_next_is_said(
    trained: Trained, fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copied(trained.directory, fine_tune.root)
    report = (directory / "report.yaml").read_text()
    before = {path.name: path.read_bytes() for path in directory.glob("step-*")}
    with monkeypatch.context() as patch:
        patch.setattr(command, "build_module", lambda *arguments: pytest.fail("a model was loaded"))
        outcome = call("dreambooth", "-r", directory)
    assert outcome.status == 0, outcome.said
    assert f"{directory} is finished: all 7 updates are made, and there is nothing to do." in outcome.said
    assert f"  python dreambooth.py -r {directory} --iterations 14\n" in outcome.said
    assert f"compare the checkpoints with\n  python txt2img.py --ckpt-path {directory}\n" in outcome.said
    assert "The weights moved" not in outcome.said
    refused(call("dreambooth", "-r", directory, "--iterations", 3), "--iterations 3 is less than the 7 updates")
    (directory / "report.yaml").unlink()  # killed between its resume state and its report
    outcome = call("dreambooth", "-r", directory)
    assert outcome.status == 0 and "7 updates made. The weights moved" in outcome.said
    assert (directory / "report.yaml").read_text() == report
    assert {path.name: path.read_bytes() for path in directory.glob("step-*")} == before
