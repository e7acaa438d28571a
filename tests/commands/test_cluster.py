"""A batch system's variables change nothing in a run, and no file of another kind is written."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ldm.training.dreambooth import DreamBooth
from tests.commands.calls import call, equal, refused
from tests.commands.fixtures import Trained
from tests.commands.train.stages import new_scratch

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "x",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "n1",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
}
OTHERS = {
    "more tasks": SLURM | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
    "interactive": SLURM | {"SLURM_JOB_NAME": "interactive"},
    "a shell": SLURM | {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS_PER_NODE": "1"},
    "torchrun": {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "GROUP_RANK": "3"},
    "others": {"MASTER_PORT": "1", "NODE_RANK": "1", "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "none", "OMPI_X": "1"},
}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def words(subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The command line of the run `trained`, in a directory where Lightning would find something to resume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"another subject's")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hpc_ckpt_1.ckpt").write_bytes(b"another subject's")
    flags = ("--iterations", 7, "-s", 3, "--class-img-count", 3, "-d", "cpu")
    return ("-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", "out", *flags)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(variables, id=name, marks=[] if name == "more tasks" else pytest.mark.slow)
        for name, variables in OTHERS.items()
    ],
)
def test_a_batch_system_changes_no_bit_of_a_run(
    variables: dict[str, str], words: tuple[Any, ...], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    before = dict(os.environ)
    outcome = call("dreambooth", *words)
    assert outcome.status == 0, outcome.said
    for step in (3, 6, 7):
        assert equal(Path(f"out/tin-can-1/step-{step:05d}.safetensors"), trained.step(step))
    assert {name: os.environ[name] for name in variables} == {name: before[name] for name in variables}
    assert sorted(path.name for path in Path().rglob("hpc_ckpt*")) == 2 * ["hpc_ckpt_1.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_of_a_batch_system_saves_only_our_resume_state(
    number: signal.Signals, words: tuple[Any, ...], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's warning before the time is over. Lightning would write its own state and call `scontrol requeue`."""
    set_all(monkeypatch, SLURM)
    monkeypatch.setenv("PATH", "")
    step = DreamBooth.training_step

    def watched(self: DreamBooth, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 4:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DreamBooth, "training_step", watched)
        outcome = call("dreambooth", *words)
    assert outcome.status == 75, outcome.said
    message = f"stopped by {number.name} after update 5; continue with\n  python dreambooth.py -r out/tin-can-1\n"
    assert outcome.said.endswith(message)
    assert Path("out/tin-can-1/run.log").read_text().endswith(message)
    assert sorted(path.name for path in Path().rglob("hpc_ckpt*")) == 2 * ["hpc_ckpt_1.ckpt"]
    assert call("dreambooth", "-r", "out/tin-can-1").status == 0
    assert equal(Path("out/tin-can-1/step-00007.safetensors"), trained.step(7))


def test_a_batch_system_changes_no_bit_of_train_py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scratch = new_scratch(tmp_path / "scratch")
    assert scratch.call("tokenizer").status == 0
    here = scratch.train("autoencoder")
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"})
    Path("hpc_ckpt_1.ckpt").touch()
    there = scratch.train("autoencoder")
    assert equal(here.directory / "step-000006.safetensors", there.directory / "step-000006.safetensors")


@pytest.mark.parametrize(
    ("command", "variables", "advice"),
    [
        ("dreambooth", SLURM | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "srun --ntasks=1"),
        ("train", {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "without torchrun"),
        ("dreambooth", {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, "mpirun -n 1"),
        ("train", {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, "jsrun -n 1"),
    ],
)
def test_a_second_copy_of_a_training_is_refused(
    command: str, variables: dict[str, str], advice: str, words: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    refused(call(command, *(words if command == "dreambooth" else ["autoencoder", "-i", "."])), advice, "--devices")
    assert [path.name for path in Path("out").iterdir()] == ["hpc_ckpt_1.ckpt"]


def test_the_first_of_several_copies_warns(words: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"})
    outcome = call("dreambooth", *words, "-i", "nowhere")
    refused(outcome, "warning: srun has started several copies of this training; only this one continues", "nowhere")
