"""Images are written by threads: all of them in the end, few wait, and errors are raised."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.data import writing
from ldm.data.writing import ImageWriter

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
