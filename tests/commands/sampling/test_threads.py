"""Reading ahead and writing behind, in a command: in their order, and errors come through."""

import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import ALIGNMENT, CheckpointFile, read_checkpoint
from ldm.commands.sampling import loop, run
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.loop import ReadAhead
from ldm.errors import UserError
from ldm.runtime.models import Settings
from tests.commands.calls import difference, tensors_of
from tests.commands.fixtures import Sample, Trained
from tests.report.tables import table_of, tuned
from tests.tiny import build_tiny_model, tiny_config, write_tiny_checkpoint


class Unchecked(Checkpoint):
    """A checkpoint that may have any digests."""

    def read(self) -> CheckpointFile:
        return self.open()


def one(path: Path, digests: dict[str, str]) -> Unchecked:
    settings = Settings("", tiny_config())
    return Unchecked(path, CheckpointInfo(), settings, path, "", digests, partial(read_checkpoint, path))


def parts(unet: str) -> dict[str, str]:
    return {"unet": unet, "autoencoder": "same", "text_encoder": "same"}


@pytest.fixture
def unaligned(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny model with its weights where no processor would have put them."""
    path, tensors = tmp_path / "unaligned.safetensors", tensors_of(tiny_checkpoint)
    for length in range(8, 80, 8):
        save_file(tensors, path, metadata={"padding": "x" * length})
        if all(tensor.data_ptr() % ALIGNMENT for tensor in weights(read_checkpoint(path)).values()):
            return path
    pytest.fail("no padding moves them all")


def weights(file: CheckpointFile) -> dict[str, torch.Tensor]:
    """Those that belong to a part."""
    return {key: tensor for key, tensor in file.tensors.items() if key.startswith(tuple(PARTS.values()))}


def aligned(file: CheckpointFile) -> set[str]:
    """The parts that are no longer where they are in the file."""
    return {
        part
        for part, prefix in PARTS.items()
        if all(not tensor.data_ptr() % ALIGNMENT for key, tensor in file.tensors.items() if key.startswith(prefix))
    }


def test_only_parts_that_differ_from_the_file_before_are_read_into_memory(unaligned: Path) -> None:
    files = [one(unaligned, parts(unet)) for unet in ("a", "b", "b")]
    with ReadAhead(files) as reader:
        assert [aligned(reader.take()) for _ in files] == [set(PARTS), {"unet"}, set()]


def test_what_is_read_into_memory_is_what_the_file_holds(unaligned: Path, tmp_path: Path) -> None:
    torch.save(tensors_of(unaligned), tmp_path / "aligned.ckpt")
    for path in (unaligned, tmp_path / "aligned.ckpt"):
        with ReadAhead([one(path, parts("a"))]) as reader:
            taken = weights(reader.take())
        for key, tensor in weights(read_checkpoint(path)).items():
            assert torch.equal(taken[key], tensor)


def test_one_file_at_most_is_read_ahead(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Checkpoint] = []
    monkeypatch.setattr(loop, "_read", lambda checkpoint, differing: read.append(checkpoint))
    files = [one(Path(str(number)), parts(str(number))) for number in range(4)]
    with ReadAhead(files) as reader:
        for number in range(4):
            reader.take()
            deadline = time.monotonic() + 30
            while len(read) < min(number + 2, 4) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.02)  # in which nothing more may come
            assert len(read) == min(number + 2, 4)
    assert read == files


def test_the_next_checkpoint_is_read_while_one_samples(
    txt2img: Sample, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []
    read = loop._read

    def watched(*arguments: Any) -> CheckpointFile:
        readers.append(threading.current_thread().name)
        return read(*arguments)

    monkeypatch.setattr(loop, "_read", watched)
    txt2img("-c", trained.root, "-v", 1)
    assert len(readers) == 4
    assert all(name.startswith("read") for name in readers)


def test_an_error_of_the_reading_thread_is_raised_when_the_file_is_taken(tiny_checkpoint: Path) -> None:
    files = [one(tiny_checkpoint, parts("a")), one(Path("nowhere.safetensors"), parts("b"))]
    with ReadAhead(files) as reader:
        reader.take()
        with pytest.raises(UserError, match="no checkpoint nowhere"):
            reader.take()


def test_a_checkpoint_that_fails_is_left_out_and_the_others_are_sampled(txt2img: Sample, tmp_path: Path) -> None:
    base = write_tiny_checkpoint(tmp_path / "base")
    broken = build_tiny_model(1)
    with torch.no_grad():
        next(broken.unet.parameters()).fill_(1e30)
    for step in (5, 15):
        tuned(tmp_path / "ckpts" / "mug-1", base, step, seed=step)
    path = tuned(tmp_path / "ckpts" / "mug-1", base, 10)
    write_tiny_checkpoint(path.parent, name=path.name, model=broken, step=10, class_name="mug")
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 2, "--no-base")
    assert [row.step for row in table_of(sampled).rows] == [5, 15]
    assert f"warning: left out the rest of {path}: the UNet's output is not finite" in sampled.said


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True], ids=["cut off", "replaced"])
def test_a_checkpoint_that_changes_before_its_turn_is_left_out_and_the_others_are_sampled(
    replaced: bool, txt2img: Sample, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.directory, tmp_path / "ckpts" / "tin-can-1")
    whole = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base")
    plan = run.plan_call

    def planned(*arguments: Any) -> Any:
        call = plan(*arguments)
        path = tmp_path / "ckpts" / "tin-can-1" / "step-00006.safetensors"
        if replaced:
            shutil.copyfile(trained.step(7), path)
        else:
            path.write_bytes(b"cut off")
        return call

    monkeypatch.setattr(run, "plan_call", planned)
    rest = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base")
    assert "step-00006.safetensors: another checkpoint has replaced it" in rest.said or not replaced
    assert "left out" in rest.said
    assert "step-00006.safetensors" in rest.said
    assert table_of(rest).unfinished == "2 of 3 images are there, from 2 of 3 checkpoints."
    assert len(whole.paths) == 3
    for one, other in zip([whole.images[0], whole.images[2]], rest.images, strict=True):
        assert difference(one, other) == 0
