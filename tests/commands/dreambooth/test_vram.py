"""--vram: what is chosen so that a training fits, what is logged, and which flags stay."""

import logging
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldm.commands.dreambooth import vram as command
from ldm.commands.dreambooth.config import config_from
from ldm.commands.dreambooth.vram import USABLE, fit_into_memory
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import read_yaml, to_yaml
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import CUDA_OVERHEAD, GIB, MEMORY_PROFILES, Chooser, MemoryProfile, Prediction, Workload
from tests.commands.calls import call, refused
from tests.commands.dreambooth.fine_tuning import STOPPED, FineTune, Plan, interrupted
from tests.tiny import TINY_YAML, tiny_config

CPU, CUDA = [torch.device("cpu")], [torch.device("cuda:0")]
NEEDS = dict(
    zip(MEMORY_PROFILES, (14, 9, 7, 13, 8.5, 6, 12, 7.5, 5, 5, 4.5, 4.2, 4, 3.5, 3.2, 3.1, 3, 2.5), strict=True)
)
"""GiB at 512 x 512."""


def profile_of(config: DreamBoothConfig) -> MemoryProfile:
    return MemoryProfile(**{name: getattr(config, name) for name in command.MEMORY_FLAGS})


@pytest.fixture(autouse=True)
def needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions that grow with the number of pixels."""

    def predict(workload: Workload, config: DreamBoothConfig, limit: float = 0) -> Prediction:
        return Prediction(int(NEEDS[profile_of(config)] * GIB * workload.height * workload.width / 512**2), 0)

    monkeypatch.setattr("ldm.training.memory.predict", predict)
    monkeypatch.setattr(command, "predict", predict)
    monkeypatch.setattr(command, "half_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(command, "plenty", lambda workload, config: 60 * GIB)


def chosen(*words: str, devices: list[torch.device] = CPU, size: int = 512, **config: object) -> MemoryProfile:
    options = dreambooth_parser().parse_args(words)
    own = DreamBoothConfig(**config)  # type: ignore[arg-type]
    given = {name: value for name in command.MEMORY_FLAGS if (value := getattr(options, name)) is not None}
    before = DreamBoothConfig(**{**config, **given})
    after = fit_into_memory(options, before, Workload(tiny_config(), size, size), devices)
    assert own.iterations == after.iterations
    return profile_of(after)


@pytest.mark.parametrize(
    ("gib", "index"),
    [("24", 0), ("16", 0), ("12", 1), ("10", 1), ("8", 2), ("6", 8), ("4", 13)],
    ids=["24", "16", "12", "10", "8", "6", "4"],
)
def test_the_first_that_fits_is_chosen(gib: str, index: int) -> None:
    assert chosen("--vram", gib) == MEMORY_PROFILES[index]


def test_flags_that_are_set_stay() -> None:
    assert chosen("--vram", "8", "--optimizer", "adamw8bit", "--train-dtype", "fp32") == MEMORY_PROFILES[7]
    assert chosen("--vram", "24", "--gradient-checkpointing") == MEMORY_PROFILES[6]


def test_what_the_yaml_sets_stays_with_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * GIB, 80 * GIB))
    for words in ((), ("--vram", "auto")):
        assert chosen(*words, devices=CUDA, gradient_checkpointing="attention") == MEMORY_PROFILES[3]
    assert chosen("--vram", "24", gradient_checkpointing="attention") == MEMORY_PROFILES[0]


@pytest.mark.parametrize(("free", "index"), [(16, 0), (14, 1), (8.5, 2)])
def test_on_cuda_the_free_memory_decides(free: float, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), 80 * GIB))
    assert chosen(devices=CUDA) == chosen("--vram", "auto", devices=CUDA) == MEMORY_PROFILES[index]


def test_with_plenty_of_memory_nothing_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (61 * GIB, 80 * GIB))
    monkeypatch.setattr(command, "Chooser", lambda *args: pytest.fail("it was"))
    assert chosen(devices=CUDA) == chosen("--vram", "auto", devices=CUDA) == MEMORY_PROFILES[0]
    assert chosen(devices=CUDA, gradient_checkpointing="all") == MEMORY_PROFILES[6]


def test_of_several_devices_the_one_with_the_least_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_free_on_each", lambda devices: [(40, 12)[one.index] * GIB for one in devices])
    assert chosen(devices=[torch.device("cuda:0"), torch.device("cuda:1")]) == MEMORY_PROFILES[1]


def process_id(device: torch.device) -> int:
    return os.getpid()


@pytest.mark.slow
def test_a_process_that_ends_queries_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Querying creates a CUDA context on each of them."""
    monkeypatch.setattr(command, "free_memory", process_id)
    assert command._free_on_each(CPU) == [os.getpid()]
    assert os.getpid() not in command._free_on_each(2 * CPU)
    assert not multiprocessing.active_children()


def test_no_device_is_queried_if_all_flags_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the other processes of several devices, which read the record."""
    monkeypatch.setattr(command, "free_memory", lambda device: pytest.fail("it was"))
    words = ("--optimizer", "adamw8bit", "--train-dtype", "bf16", "--gradient-checkpointing", "attention")
    words += ("--no-fused-backward",)
    assert chosen(*words, devices=CUDA) == MEMORY_PROFILES[5]


def test_a_process_can_not_have_all_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, MEMORY_PROFILES[2], 8 * USABLE - 0.01)
    assert chosen("--vram", "8") == MEMORY_PROFILES[2]
    monkeypatch.setitem(NEEDS, MEMORY_PROFILES[2], 8 * USABLE + 0.01)
    assert chosen("--vram", "8") == MEMORY_PROFILES[5]
    assert 7.3 < 8 * USABLE < 7.75


def test_on_cuda_overhead_counts() -> None:
    exactly = NEEDS[MEMORY_PROFILES[1]] * GIB
    assert exactly < USABLE * 10 * GIB < exactly + CUDA_OVERHEAD
    assert chosen("--vram", "10", devices=CPU) == MEMORY_PROFILES[1]
    assert chosen("--vram", "10", devices=CUDA) == MEMORY_PROFILES[2]


def test_on_other_devices_auto_chooses_nothing() -> None:
    assert chosen() == chosen("--vram", "auto") == MEMORY_PROFILES[0]
    assert chosen(gradient_checkpointing="all") == MEMORY_PROFILES[6]


def test_weights_stay_float32_where_bfloat16_is_not_for_the_device_or_the_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen("--vram", "8", "--precision", "full") == MEMORY_PROFILES[7]
    monkeypatch.setattr(command, "half_dtype", lambda device: torch.float16)
    assert chosen("--vram", "8") == MEMORY_PROFILES[7]


def test_a_size_that_would_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"1024 x 1024 needs 21.5 GB even with 8-bit AdamW .* --hw 512 512 would fit"):
        chosen("--vram", "8", "--no-fused-backward", size=1024)


def test_auto_refuses_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 8 * GIB))
    with caplog.at_level(logging.WARNING):
        assert chosen(devices=CUDA) == MEMORY_PROFILES[-1]
    assert "Trying anyway" in caplog.text


def test_the_error_suggests_not_to_train_the_text_encoder() -> None:
    with pytest.raises(UserError, match="--no-train-text-encoder needs less"):
        chosen("--vram", "8", "--optimizer", "adamw", size=4096, train_text_encoder=True)


@pytest.mark.parametrize(
    ("workload", "kind"),
    [({"devices": 2}, "several devices|several compute"), ({"autocast_dtype": torch.float16}, "fp16-mixed")],
)
@pytest.mark.parametrize("setting", [{"fused_backward": True}, {"gradient_accumulation": 2}])
def test_some_settings_need_one_device_and_no_scaled_gradients(
    workload: Any, kind: str, setting: dict[str, Any]
) -> None:
    options = dreambooth_parser().parse_args([])
    with pytest.raises(UserError, match=f"--{next(iter(setting)).replace('_', '-')} is .*({kind})"):
        fit_into_memory(options, DreamBoothConfig(**setting), Workload(tiny_config(), 32, 32, **workload), CPU)


@pytest.mark.parametrize(("devices", "accumulation"), [(2, 1), (1, 2)])
def test_where_gradients_are_kept_no_profile_updates_weights_in_the_backward_pass(
    devices: int, accumulation: int
) -> None:
    options = dreambooth_parser().parse_args(["--vram", "4"])
    config = DreamBoothConfig(gradient_accumulation=accumulation)
    with pytest.raises(UserError, match="even with 8-bit AdamW on bfloat16 weights, gradient checkpointing all"):
        fit_into_memory(options, config, Workload(tiny_config(), 512, 512, devices=devices), CPU)


def test_the_error_if_nothing_fits() -> None:
    with pytest.raises(UserError, match="No size fits"):
        chosen("--vram", "8", "--optimizer", "adamw", size=4096)


@pytest.mark.slow
def test_the_choice_is_logged_recorded_and_kept_by_a_resumed_run(
    fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(NEEDS, MEMORY_PROFILES[0], 1e6)
    monkeypatch.setitem(NEEDS, MEMORY_PROFILES[1], 1e6)
    run = interrupted(fine_tune, monkeypatch, 2, *STOPPED, "--vram", "8")
    assert "memory profile: 8-bit AdamW on bfloat16 weights, gradient checkpointing none" in caplog.text
    options = read_yaml(run / "run.yaml")["options"]
    assert [options[name] for name in command.MEMORY_FLAGS] == ["adamw8bit", "bf16", "none", False]
    monkeypatch.setitem(NEEDS, MEMORY_PROFILES[0], 0.1)
    assert call("dreambooth", "-r", run).status == 0
    assert [read_yaml(run / "run.yaml")["options"][name] for name in command.MEMORY_FLAGS] == [
        "adamw8bit",
        "bf16",
        "none",
        False,
    ]


def test_bfloat16_weights_need_8_bit_adamw_and_mixed_precision(fine_tune: FineTune) -> None:
    refused(fine_tune.call("--train-dtype", "bf16", "--optimizer", "adamw"), "adamw8bit")
    refused(fine_tune.call("--train-dtype", "bf16", "--precision", "full"), "--precision full needs --train-dtype fp32")


def test_a_flag_sets_the_other_that_it_needs(plan: Plan, fine_tune: FineTune, tmp_path: Path) -> None:
    config = plan("--train-dtype", "bf16", "--no-previews").module.config
    assert (config.train_dtype, config.optimizer) == ("bf16", "adamw8bit")
    section = {**TINY_YAML["dreambooth"], "train_dtype": "bf16", "optimizer": "adamw8bit"}
    (tmp_path / "small.yaml").write_text(to_yaml({**TINY_YAML, "dreambooth": section}))
    config = plan("--config", tmp_path / "small.yaml", "--optimizer", "adamw", "--no-previews").module.config
    assert (config.train_dtype, config.optimizer) == ("fp32", "adamw")


def test_the_choice_reaches_the_training(plan: Plan, tmp_path: Path) -> None:
    module = plan("--train-dtype", "bf16").module
    assert {weight.dtype for weight in module.trained_parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in module.ldm.autoencoder.parameters()} == {torch.float32}


def test_the_memory_table_has_a_row_for_each_card_and_needs_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[Workload] = []
    needs = command.predict

    def counted(workload: Workload, config: DreamBoothConfig, limit: float = 0) -> Prediction:
        counts.append(workload)
        prediction = needs(workload, config, limit)
        return replace(prediction, step=prediction.step + config.train_text_encoder * GIB // 2)

    monkeypatch.setattr("ldm.training.memory.predict", counted)
    (tmp_path / "model.yaml").write_text(to_yaml(TINY_YAML))
    done = call("dreambooth", "--memory-table", "--config", tmp_path / "model.yaml", "--hw", 512, "--batch-size", 2)
    assert done.status == 0
    rows = [line.split(" | ") for line in done.said.splitlines() if line.startswith("| ") and "--vram" not in line]
    assert [row[0].removeprefix("| ") for row in rows] == 2 * ["24", "16", "12", "10", "8", "6", "4"]
    assert rows[2][1:3] == ["fixed", "10.25"] and rows[9][1:3] == ["trained", "10.75"]
    assert rows[6][2] == "3.75" and rows[13][3].startswith("none fits")
    assert counts[0].like_cuda and (counts[0].height, counts[0].width) == (512, 512)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_memory_table_keeps_the_weights_of_adapters_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[MemoryProfile] = []

    def none(self: Chooser, candidates: list[MemoryProfile], budget: int) -> None:
        tried.extend(candidates)

    monkeypatch.setattr(Chooser, "first_that_fits", none)
    (tmp_path / "model.yaml").write_text(to_yaml(TINY_YAML))
    assert call("dreambooth", "--memory-table", "--lora", 4, "--config", tmp_path / "model.yaml").status == 0
    assert tried and {(one.train_dtype, one.fused_backward) for one in tried} == {("fp32", False)}


def test_prodigy_has_one_learning_rate_for_all_weights() -> None:
    both = {"train_text_encoder": True, "optimizer": "prodigy", "learning_rate": 1.0}
    with pytest.raises(ValueError, match="prodigy finds one learning rate for all weights"):
        DreamBoothConfig(**both, text_encoder_learning_rate=0.5)
    assert DreamBoothConfig(**both).optimizer == "prodigy"


def test_prodigy_has_a_learning_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", SimpleNamespace(Prodigy=None))
    for words, rate in (([], 1.0), (["--learning-rate", "0.5"], 0.5)):
        options = dreambooth_parser().parse_args(["--optimizer", "prodigy", *words])
        assert config_from(options, DreamBoothConfig(), SamplingConfig()).learning_rate == rate
