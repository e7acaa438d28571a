"""Finding checkpoints: all of them, in the order of their runs and steps, and a reason for what is left out."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoint import discovery
from ldm.checkpoint.discovery import RESUME_STATE, Skipped, find_checkpoints
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile
from tests.checkpoint.files import ATTACKS, few_tensors


def write(path: Path, step: int = 0, **info: str) -> Path:
    """A file with something of a UNet in it, and what it says of itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(few_tensors(), path, CheckpointInfo(step=step, **info).to_metadata())
    return path


def found_below(directory: Path) -> tuple[list[CheckpointFile], list[Skipped]]:
    return find_checkpoints(directory, lambda file: file)


def found_names(directory: Path) -> list[str]:
    return [found.path.relative_to(directory).as_posix() for found in found_below(directory)[0]]


def only_reason(directory: Path) -> str:
    found, skipped = found_below(directory)
    assert not found
    assert len(skipped) == 1
    return skipped[0].reason


def test_runs_come_in_natural_order_and_steps_by_their_number(tmp_path: Path) -> None:
    names = [f"{run}/step-{step:05d}.safetensors" for run in ("can-1", "can-2", "can-10") for step in (200, 400, 1000)]
    for name in reversed(names):
        write(tmp_path / name, step=int(name[-17:-12]))
    assert found_names(tmp_path) == names


def test_what_a_file_says_of_its_step_goes_before_its_name(tmp_path: Path) -> None:
    for name, step in {"a": 300, "last": 100, "z-9": 200, "z-10": 200, "base": 0}.items():
        write(tmp_path / f"{name}.safetensors", step)
    expected = ["base.safetensors", "last.safetensors", "z-9.safetensors", "z-10.safetensors", "a.safetensors"]
    assert found_names(tmp_path) == expected


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".ckpt", ".Ckpt", ".pt", ".pth", ".bin"])
def test_every_kind_of_file_is_found_at_every_depth(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c" / f"x{suffix}"
    path.parent.mkdir(parents=True)
    if suffix.lower() == ".safetensors":
        write(path)
    else:
        torch.save({"state_dict": few_tensors()}, path)
    assert found_names(tmp_path) == [f"a/b/c/x{suffix}"]


def test_files_that_are_not_checkpoints_are_skipped_silently(tmp_path: Path) -> None:
    write(tmp_path / "run-1" / "step-00003.safetensors", 3)
    for name in ("train.log", "options.yaml", "preview.png", "tokenizer/vocab.json", "notes.txt", "x.safetensors.bak"):
        (tmp_path / "run-1" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run-1" / name).write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    found, skipped = found_below(tmp_path)
    assert len(found) == 1
    assert not skipped


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.safetensors",
        "._step-00200.safetensors",
        ".step-00200.safetensors.4711.partial",
        "step-00200.safetensors.partial",
        ".trash/step-00200.safetensors",
        "run-1/.ipynb_checkpoints/step-00200.safetensors",
    ],
)
def test_hidden_and_half_written_files_are_skipped_silently(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert found_below(tmp_path) == ([], [])


def test_a_directory_below_a_hidden_one_is_searched(tmp_path: Path) -> None:
    """What the user asks for by name isn't hidden."""
    write(tmp_path / ".cache" / "runs" / "a.safetensors")
    assert found_names(tmp_path / ".cache" / "runs") == ["a.safetensors"]


def test_a_resume_state_is_skipped_silently(tmp_path: Path) -> None:
    torch.save({"state_dict": few_tensors()}, tmp_path / RESUME_STATE)
    assert found_below(tmp_path) == ([], [])


def test_a_truncated_file_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    assert "damaged or cut off" in only_reason(tmp_path)
    assert found_below(tmp_path)[1][0].path == path


def test_another_kind_of_model_is_left_out(tmp_path: Path) -> None:
    save_file({"down_blocks.0.resnets.0.norm1.bias": torch.ones(3)}, tmp_path / "unet.safetensors")
    assert "no UNet in the official layout" in only_reason(tmp_path)


def test_an_unsafe_file_is_left_out_and_not_carried_out(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": few_tensors(), "x": ATTACKS["posix.system"](marker)}, tmp_path / "a.ckpt")
    assert "posix.system" in only_reason(tmp_path)
    assert not marker.exists()


def test_a_good_link_is_followed_and_a_broken_one_named(tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere" / "a.safetensors", 3)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "good.safetensors").symlink_to(target)
    (tmp_path / "runs" / "bad.safetensors").symlink_to(tmp_path / "nowhere")
    found, skipped = found_below(tmp_path / "runs")
    assert [one.path.name for one in found] == ["good.safetensors"]
    assert [one.path.name for one in skipped] == ["bad.safetensors"]
    assert f"it is a link to {tmp_path / 'nowhere'}" in skipped[0].reason


def test_linked_directories_are_searched_once_and_loops_end(tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere" / "run-2" / "a.safetensors").parent
    write(tmp_path / "runs" / "run-1" / "b.safetensors")
    (tmp_path / "runs" / "linked").symlink_to(target)
    (tmp_path / "runs" / "again").symlink_to(target)
    (tmp_path / "runs" / "run-1" / "up").symlink_to(tmp_path / "runs")
    assert len(found_names(tmp_path / "runs")) == 2
    assert "run-1/b.safetensors" in found_names(tmp_path / "runs")
    assert {Path(name).name for name in found_names(tmp_path / "runs")} == {"a.safetensors", "b.safetensors"}


def test_a_file_and_links_to_it_are_one_checkpoint_under_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "z.safetensors")
    (tmp_path / "best.safetensors").symlink_to(path)
    (tmp_path / "dir").symlink_to(tmp_path)
    assert found_names(tmp_path) == ["z.safetensors"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_named_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    assert "a named pipe" in only_reason(tmp_path)


def test_bin_files_of_other_programs_are_skipped_silently(tmp_path: Path) -> None:
    (tmp_path / "level.bin").write_bytes(b"some game's data")
    (tmp_path / "empty.bin").touch()
    assert found_below(tmp_path) == ([], [])


def test_whatever_a_file_makes_the_reader_raise_it_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (RecursionError("deep"), MemoryError("large"), KeyError("x"), OSError(5, "Input/output error")):
        write(tmp_path / "good.safetensors")
        write(tmp_path / "bad.safetensors")

        def info(file: CheckpointFile, error: Exception = error) -> CheckpointInfo:
            if file.path.name == "bad.safetensors":
                raise error
            return CheckpointInfo()

        monkeypatch.setattr(discovery, "checkpoint_info", info)
        found, skipped = found_below(tmp_path)
        assert [one.path.name for one in found] == ["good.safetensors"]
        assert [one.path.name for one in skipped] == ["bad.safetensors"]
        assert type(error).__name__ in skipped[0].reason


def test_in_an_empty_directory_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert found_below(tmp_path) == ([], [])
