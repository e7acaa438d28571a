"""Images are written by threads: all of them in the end, few wait, and errors are raised."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.data import writing
from ldm.data.writing import ImageWriter
from ldm.errors import UserError

PICTURE = torch.zeros(3, 8, 8)


def test_images_are_written_by_other_threads_and_all_are_there_in_the_end(tmp_path: Path) -> None:
    with ImageWriter(most_waiting=2) as writer:
        for number in range(20):
            writer.put(tmp_path / f"{number}.png", PICTURE, {"key": number})
    assert len(list(tmp_path.iterdir())) == 20


def test_no_more_than_a_few_images_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, go = [], threading.Event()

    def slow(path: Path, *arguments: Any) -> None:
        go.wait(30)
        done.append(path)

    monkeypatch.setattr(writing, "_write", slow)
    put: list[int] = []
    with ImageWriter(most_waiting=4) as writer:

        def put_all() -> None:
            for number in range(8):
                writer.put(tmp_path / f"{number}.png", PICTURE, {})
                put.append(number)

        thread = threading.Thread(target=put_all)
        thread.start()
        time.sleep(0.1)
        assert put == [0, 1, 2, 3]
        go.set()
        thread.join(30)
    assert len(done) == 8


def test_an_error_of_a_writing_thread_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not write"), ImageWriter(most_waiting=2) as writer:
        for _ in range(5):
            writer.put(tmp_path / "file" / "a.png", PICTURE, {})


def test_an_error_while_sampling_is_raised_when_all_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), ImageWriter(most_waiting=9) as writer:
        writer.put(tmp_path / "a.png", PICTURE, {})
        (tmp_path / "file").touch()
        writer.put(tmp_path / "file" / "b.png", PICTURE, {})
        raise ValueError("mine")
    assert (tmp_path / "a.png").exists()
