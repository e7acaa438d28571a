"""From --device and --devices to torch's."""

import pytest
import torch

from ldm.errors import UserError
from ldm.runtime.devices import parse_device, parse_devices
from tests.commands.machine import Machine

CPU, MPS = torch.device("cpu"), torch.device("mps")


def test_auto_takes_the_best_that_is_there(machine: Machine) -> None:
    assert parse_devices("auto") == [CPU]
    machine.has(mps=True)
    assert parse_devices("auto") == [MPS]
    machine.has(gpus=2, mps=True)
    assert parse_devices("auto") == [torch.device("cuda")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("1", ["cuda:1"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0, cuda:1", ["cuda:0", "cuda:1"]),
        ("0, 1", ["cuda:0", "cuda:1"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        ("mps", ["mps"]),
    ],
)
def test_devices_are_named_or_numbered(text: str, expected: list[str], machine: Machine) -> None:
    machine.has(gpus=2, mps=True)
    assert parse_devices(text) == [torch.device(name) for name in expected]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuda", "no CUDA device 0"),
        ("0", "no CUDA device 0"),
        ("cpu,1", "no CUDA device 1"),
        ("mps", "no MPS device"),
        ("gpu", "'gpu' is no device"),
        ("", "'' is no device"),
        ("cpu,", "'' is no device"),
        ("meta", "'meta' is not supported"),
        ("-1", "'-1' is no device"),
        ("cuda:x", "'cuda:x' is no device"),
    ],
)
def test_a_device_that_is_not_there_is_the_users_mistake(text: str, words: str, machine: Machine) -> None:
    with pytest.raises(UserError, match=words):
        parse_devices(text)


def test_one_gpu_too_many_is_named_with_their_count(machine: Machine) -> None:
    machine.has(gpus=2)
    with pytest.raises(UserError, match="no CUDA device 2; torch sees 2"):
        parse_devices("0,1,2")


def test_the_same_gpu_twice_is_refused(machine: Machine) -> None:
    machine.has(gpus=2)
    with pytest.raises(UserError, match="0"):
        parse_devices("0,0")


def test_one_device_is_exactly_one(machine: Machine) -> None:
    assert parse_device("cpu") == CPU
    with pytest.raises(UserError, match="one device, not 'cpu,cpu'"):
        parse_device("cpu,cpu")
