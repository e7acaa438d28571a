"""train.py as a user types it: tokenizer, autoencoder, diffusion, then a picture; every flag; what is refused."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ldm.commands.train import autoencoder as autoencoder_stage
from ldm.commands.train import diffusion as diffusion_stage
from ldm.config import read_yaml, to_yaml
from ldm.data.latents import measure_scale_factor, open_moments
from ldm.files import ROOT
from ldm.nn.tokenizer import load_tokenizer
from ldm.training.trainer import FitOptions
from tests.commands.calls import Outcome, call, equal, info_of, pixels, refused, shell, start, tensors_of
from tests.commands.conftest import Trained
from tests.commands.test_dreambooth import wait_for
from tests.scratch import SCRATCH_YAML, build_scratch_model, write_captioned, write_yaml

LAST = "step-000006.safetensors"


@dataclass(frozen=True)
class Scratch:
    """A folder of pictures, a YAML and a directory for runs."""

    root: Path
    pictures: Path
    config: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def call(self, stage: str, *arguments: object) -> Outcome:
        """Runs train.py with this folder and YAML, unless others are named."""
        return call("train", stage, *self.words(stage, *arguments))

    def words(self, stage: str, *arguments: object) -> list[object]:
        flags = {"-i": self.pictures, "--config": self.config}
        if stage != "tokenizer":
            flags["-o"] = self.runs
        missing = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
        return [*missing, *arguments]

    def train(self, stage: str, *arguments: object) -> Trained:
        """A run that goes through."""
        outcome = self.call(stage, *arguments)
        assert outcome.status == 0, outcome.said
        return Trained(Path(re.findall(r"^run: (.*)$", outcome.said, re.MULTILINE)[0]), outcome)

    def with_yaml(self, changes: Mapping[str, Mapping[str, Any]]) -> "Scratch":
        """With another YAML beside this one."""
        config = self.root / f"changed-{len(list(self.root.glob('changed-*')))}.yaml"
        return Scratch(self.root, self.pictures, write_yaml(config, self.tokenizer, changes))


def new_scratch(root: Path) -> Scratch:
    root.mkdir(exist_ok=True)
    pictures = write_captioned(root / "pictures")
    return Scratch(root, pictures, write_yaml(root / "scratch.yaml", root / "tokenizer"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A tokenizer, an autoencoder and a diffusion model, six updates each. They are shared: don't write to them."""
    scratch = new_scratch(tmp_path_factory.mktemp("finished"))
    outcome = scratch.call("tokenizer")
    assert outcome.status == 0, outcome.said
    autoencoder = scratch.train("autoencoder", "--save-dtype", "fp32")
    scratch.train("diffusion", "--save-dtype", "fp32", "--autoencoder", autoencoder.directory / LAST)
    return scratch


@pytest.fixture(scope="module")
def first(finished: Scratch) -> Path:
    """The autoencoder's run."""
    return finished.runs / "autoencoder-1"


@pytest.fixture(scope="module")
def second(finished: Scratch) -> Path:
    """The diffusion model's run."""
    return finished.runs / "diffusion-1"


@pytest.fixture
def scratch(finished: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """The same pictures and tokenizer, and a place of its own for runs, with the latents that are encoded already."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.pictures, tmp_path / "pictures")
    shutil.copytree(finished.tokenizer, tmp_path / "tokenizer")
    return Scratch(tmp_path, tmp_path / "pictures", write_yaml(tmp_path / "scratch.yaml", tmp_path / "tokenizer"))


@dataclass
class Planned:
    """What a training would have been given."""

    module: Any
    options: FitOptions


Plan = Callable[..., Planned]


@pytest.fixture
def plan(scratch: Scratch, first: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Runs a stage without training."""
    seen: list[Planned] = []

    def no_fit(module: Any, options: FitOptions, save: Any) -> None:
        seen.append(Planned(module, options))

    monkeypatch.setattr(autoencoder_stage, "fit", no_fit)
    monkeypatch.setattr(diffusion_stage, "fit", no_fit)

    def planned(stage: str, *arguments: object) -> Planned:
        needed = ("--autoencoder", first / LAST) if stage == "diffusion" and "--autoencoder" not in arguments else ()
        scratch.train(stage, *needed, *arguments)
        return seen[-1]

    return planned


def files_of(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


# What the stages write


def test_the_tokenizer_lies_where_the_yaml_says(finished: Scratch) -> None:
    tokenizer = load_tokenizer(finished.tokenizer, 40)
    assert len(tokenizer.clip_tokenizer) == 524
    assert tokenizer.clip_tokenizer.tokenize("a red disc sks")[-3:] == ["s", "k", "s</w>"]
    assert files_of(finished.tokenizer) == {"vocab.json", "merges.txt"}


def test_a_run_is_one_directory_of_these_files(first: Path, second: Path) -> None:
    common = {"step-000003.safetensors", LAST, "samples/step-000003.png", "samples/step-000006.png"}
    common |= {"resume.ckpt", "run.yaml", "run.log"}
    tokenizer = {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    assert {name for name in files_of(first) if not name.startswith("log/")} == common
    assert {name for name in files_of(second) if not name.startswith("log/")} == common | tokenizer
    assert {path.name for path in first.parent.iterdir()} == {"autoencoder-1", "diffusion-1", "latents"}


def test_an_autoencoders_checkpoint_is_the_part_alone_and_explains_itself(first: Path, finished: Scratch) -> None:
    info, tensors = info_of(first / LAST), tensors_of(first / LAST)
    assert {key.split(".")[0] for key in tensors} == {"first_stage_model"}
    assert info.config == read_yaml(finished.config)
    assert (info.step, info.seed) == (6, 42)
    assert set(info.parts) == {"autoencoder"}
    assert info.options["stage"] == "autoencoder"
    assert info.versions.keys() >= {"ldm", "torch"}


def test_a_diffusion_checkpoint_carries_the_yaml_with_the_measured_scale_factor(
    second: Path, finished: Scratch
) -> None:
    (latents,) = (finished.runs / "latents").iterdir()
    scale = info_of(second / LAST).config["model"]["scale_factor"]
    assert scale == pytest.approx(measure_scale_factor(open_moments(latents)), abs=1e-5)
    assert scale != 1.0
    yaml = read_yaml(finished.config)
    assert info_of(second / LAST).config == {**yaml, "model": {**yaml["model"], "scale_factor": scale}}
    assert set(info_of(second / LAST).parts) == {"unet", "autoencoder", "text_encoder"}


def test_checkpoints_name_no_directory_of_this_machine(first: Path, second: Path, finished: Scratch) -> None:
    for run in (first, second):
        options = info_of(run / LAST).options
        assert str(finished.root) not in json.dumps(options)
        assert not {"typed", "resume_dir"} & options.keys()


def test_the_second_stage_keeps_the_first_ones_weights_and_the_tokenizer(
    first: Path, second: Path, finished: Scratch
) -> None:
    model = tensors_of(second / LAST)
    for key, tensor in tensors_of(first / LAST).items():
        assert torch.equal(model[key], tensor), key
    for name in ("vocab.json", "merges.txt"):
        assert (second / "tokenizer" / name).read_bytes() == (finished.tokenizer / name).read_bytes()


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_moving_average_is_what_is_saved(stage: str, finished: Scratch) -> None:
    run = finished.runs / f"{stage}-1"
    state = torch.load(run / "resume.ckpt", weights_only=True)["state_dict"]
    key = {"autoencoder": "decoder.conv_out.weight", "diffusion": "out.2.weight"}[stage]
    part = {"autoencoder": "autoencoder", "diffusion": "unet"}[stage]
    official = {"autoencoder": "first_stage_model.", "diffusion": "model.diffusion_model."}[stage] + key
    saved = tensors_of(run / LAST)[official]
    assert torch.equal(saved, state["average." + f"{part}/{key}".replace(".", "/")])
    (weight,) = (value for name, value in state.items() if name.endswith(f".{key}") and "average" not in name)
    assert not torch.equal(saved, weight)


def test_the_sheets_show_pictures(first: Path, second: Path) -> None:
    sheet = pixels(first / "samples" / "step-000006.png")
    assert sheet.shape == (2 * 16, 12 * 16, 3)
    assert np.abs(sheet[:16] - sheet[16:]).max() > 0
    assert pixels(second / "samples" / "step-000006.png").shape != sheet.shape


def test_the_originals_are_above_what_comes_back(first: Path, finished: Scratch) -> None:
    from ldm.data.images import fit, read_image

    original = np.asarray(fit(read_image(finished.pictures / "0.png"), 16, 16)).astype(int)
    assert np.abs(pixels(first / "samples" / "step-000006.png")[:16, :16] - original).max() <= 1


def test_the_record_holds_options_yaml_and_what_it_was_trained_on(second: Path, first: Path, finished: Scratch) -> None:
    record = read_yaml(second / "run.yaml")
    assert record["command"].startswith("python train.py diffusion ")
    assert record["config"] == read_yaml(finished.config)
    assert record["data"]["pictures"] == 12
    assert set(record["files"]) == {"autoencoder"}
    assert record["options"] == {
        "stage": "diffusion",
        "image_dir": str(finished.pictures),
        "config": str(finished.config),
        "autoencoder": str(first / LAST),
        "ckpt_path": None,
        "iterations": None,
        "save_every": None,
        "learning_rate": None,
        "batch_size": None,
        "seed": 42,
        "output_dir": str(finished.runs),
        "devices": "auto",
        "precision": "auto",
        "workers": 0,
        "save_dtype": "fp32",
        "logger": "tensorboard",
    }


def test_the_log_file_holds_what_was_said(first: Path, second: Path) -> None:
    assert "12 pictures in " in (first / "run.log").read_text()
    assert re.search(r"step 6: the sheet's pictures come back with \d+\.\d\d dB", (first / "run.log").read_text())
    assert "scale factor: " in (second / "run.log").read_text()


def test_txt2img_draws_from_the_checkpoint(second: Path, tmp_path: Path) -> None:
    outcome = call("txt2img", "-c", second / LAST, "-v", 2, "-o", tmp_path)
    assert outcome.status == 0, outcome.said
    assert "a-red-disc" in " ".join(path.name for path in (tmp_path / "txt2img-1").glob("*.png"))
    assert pixels(tmp_path / "txt2img-1" / "00-a-red-disc_42.png").shape == (16, 16, 3)


def test_dreambooth_goes_on_from_the_checkpoint(second: Path, subject_dir: Path, tmp_path: Path) -> None:
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", second / LAST, "-o", tmp_path)
    outcome = call("dreambooth", *words, "--iterations", 1, "--class-img-count", 0, "--hw", 16, "--no-previews")
    assert outcome.status == 0, outcome.said
    assert (tmp_path / "can-1" / "step-00001.safetensors").exists()


def test_a_stage_in_a_process_of_its_own(tmp_path: Path) -> None:
    """With relative paths; it says how to go on."""
    write_captioned(tmp_path / "pictures")
    changes = {"autoencoder_training": {"iterations": 2}}
    write_yaml(tmp_path / "a.yaml", tmp_path / "tokenizer", changes)
    outcome = shell("train", "autoencoder", "-i", "pictures", "--config", "a.yaml", cwd=tmp_path)
    assert outcome.status == 0, outcome.said
    assert "Traceback" not in outcome.said
    made = tmp_path / "runs" / "autoencoder-1" / "step-000002.safetensors"
    assert made.exists()
    assert f"python train.py diffusion --autoencoder {made} -i {tmp_path}/pictures\n" in outcome.said


# Latents


def test_pictures_are_encoded_once_for_all_runs(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    (latents,) = (scratch.runs / "latents").iterdir()
    changed = latents.stat().st_mtime_ns
    plan("diffusion", "--seed", 3)
    assert [path.stat().st_mtime_ns for path in (scratch.runs / "latents").iterdir()] == [changed]


def test_a_changed_picture_is_encoded_again(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    shutil.copy(scratch.pictures / "1.png", scratch.pictures / "2.png")
    plan("diffusion")
    assert len(list((scratch.runs / "latents").iterdir())) == 2


def test_only_pictures_with_captions_are_trained_on(plan: Plan, scratch: Scratch) -> None:
    lines = (scratch.pictures / "metadata.jsonl").read_text().splitlines()
    (scratch.pictures / "metadata.jsonl").write_text("\n".join(lines[:7]))
    assert len(plan("diffusion").module.captions) == 7
    assert len(plan("autoencoder").module.paths) == 12


# Each flag


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
@pytest.mark.parametrize(
    ("flag", "value", "found"),
    [
        ("--iterations", 9, lambda planned: planned.module.config.iterations),
        ("--save-every", 2, lambda planned: planned.module.config.save_every),
        ("--learning-rate", 0.5, lambda planned: planned.module.config.learning_rate),
        ("--batch-size", 7, lambda planned: planned.module.config.batch_size),
        ("--seed", 9, lambda planned: planned.module.seed),
        ("--workers", 3, lambda planned: planned.module.workers),
        ("--logger", "csv", lambda planned: planned.options.logger),
    ],
)
def test_a_flag_reaches_the_training(
    stage: str, flag: str, value: Any, found: Callable[[Planned], Any], plan: Plan
) -> None:
    assert found(plan(stage, flag, value)) == value


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_precision_and_devices_reach_the_training(stage: str, plan: Plan) -> None:
    planned = plan(stage, "--precision", "bf16-mixed", "-d", "cpu,cpu")
    assert planned.options.autocast_dtype == torch.bfloat16
    assert planned.options.devices == [torch.device("cpu")] * 2


def test_without_flags_the_yaml_decides(plan: Plan) -> None:
    for stage in ("autoencoder", "diffusion"):
        config = plan(stage).module.config
        for name, value in SCRATCH_YAML[f"{stage}_training"].items():
            assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)


def test_the_seed_decides_the_first_weights(plan: Plan) -> None:
    for stage in ("autoencoder", "diffusion"):
        one, same, other = (
            plan(stage, "--seed", seed).module.trained_parameters()[0].detach().clone() for seed in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_weights_are_saved_in_half_precision_unless_told_otherwise(scratch: Scratch) -> None:
    for flags, dtype in (((), torch.float16), (("--save-dtype", "bf16"), torch.bfloat16)):
        run = scratch.train("autoencoder", "--iterations", 1, *flags)
        assert {t.dtype for t in tensors_of(run.directory / "step-000001.safetensors").values()} == {dtype}


def test_another_run_has_the_next_number(plan: Plan) -> None:
    assert [plan("autoencoder").options.run_dir.name for _ in range(2)] == ["autoencoder-1", "autoencoder-2"]


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_ckpt_path_is_where_it_starts_from(stage: str, scratch: Scratch, second: Path) -> None:
    """With no learning the weights stay what they were, and the model keeps its scale factor."""
    run = scratch.train(
        stage, "--ckpt-path", second / LAST, "--learning-rate", 0, "--iterations", 1, "--save-dtype", "fp32"
    )
    weights, start_weights = tensors_of(run.directory / "step-000001.safetensors"), tensors_of(second / LAST)
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, start_weights[key], msg=key)
    if stage == "diffusion":
        scale, own = (
            info_of(path).config["model"]["scale_factor"]
            for path in (run.directory / "step-000001.safetensors", second / LAST)
        )
        assert scale == own


def test_a_tokenizer_beside_the_autoencoder_goes_before_the_yamls(
    plan: Plan, scratch: Scratch, first: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(first / LAST, tmp_path / "elsewhere" / "ae.safetensors")
    scratch.tokenizer.rename(tmp_path / "elsewhere" / "tokenizer")
    planned = plan("diffusion", "--autoencoder", tmp_path / "elsewhere" / "ae.safetensors")
    assert files_of(planned.options.run_dir / "tokenizer") == {"vocab.json", "merges.txt"}


def test_the_default_yaml_is_found_from_any_directory(scratch: Scratch) -> None:
    """It is refused here because its tokenizer is there already, so it was read."""
    refused(call("train", "tokenizer", "-i", scratch.pictures), str(ROOT / "configs" / "tiny.yaml"))


# Refusals, which leave nothing behind


@pytest.fixture
def refuses(scratch: Scratch) -> Callable[..., None]:
    """Asserts that a call is refused in these words, before it has made a directory."""

    def check(arguments: tuple[object, ...], *words: str, scratch: Scratch = scratch) -> None:
        refused(scratch.call(*map(str, arguments)), *words)
        assert not scratch.runs.exists() or not list(scratch.runs.glob("*-1"))

    return check


Refuses = Callable[..., None]


@pytest.mark.parametrize("stage", ["tokenizer", "autoencoder", "diffusion"])
def test_every_stage_needs_pictures(stage: str, scratch: Scratch, tmp_path: Path) -> None:
    refused(call("train", stage, "--config", scratch.config), "--image-dir")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("stage", ["tokenizer", "autoencoder", "diffusion"])
def test_a_folder_without_pictures_is_refused(stage: str, refuses: Refuses, first: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    needed = ("--autoencoder", first / LAST) if stage == "diffusion" else ()
    tokenizer_elsewhere = () if stage != "tokenizer" else ("--config", write_yaml(tmp_path / "b.yaml", tmp_path / "b"))
    arguments = (stage, "-i", tmp_path / "empty", *needed, *tokenizer_elsewhere)
    if stage == "tokenizer":
        refused(call("train", *arguments), "holds no pictures with captions")
    else:
        refuses(arguments, "holds no pictures")
        refuses((stage, "-i", tmp_path / "nowhere", *needed), "there is no directory")


def test_the_second_stage_needs_an_autoencoder(refuses: Refuses) -> None:
    refuses(("diffusion",), "--autoencoder is needed", "python train.py autoencoder")


def test_the_second_stage_needs_captions(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    (scratch.pictures / "metadata.jsonl").unlink()
    refuses(("diffusion", "--autoencoder", first / LAST), "holds no pictures with captions", "metadata.jsonl")


def test_malformed_metadata_are_refused(refuses: Refuses, scratch: Scratch) -> None:
    with (scratch.pictures / "metadata.jsonl").open("a") as file:
        file.write("{'file_name': '1.png'}\n")
    refuses(("autoencoder",), "metadata.jsonl, line 13 should be")


def test_pictures_that_are_gone_are_refused(refuses: Refuses, scratch: Scratch) -> None:
    (scratch.pictures / "4.png").unlink()
    refuses(("autoencoder",), "1 pictures that metadata.jsonl lists are not there", "4.png")


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_an_unreadable_picture_is_named(stage: str, scratch: Scratch, first: Path) -> None:
    (scratch.pictures / "7.png").write_bytes(b"no picture")
    needed = ("--autoencoder", first / LAST) if stage == "diffusion" else ()
    refused(scratch.call(stage, *needed), "7.png is not a readable image")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_in_the_middle_of_training_is_named(
    workers: int, scratch: Scratch, tmp_path: Path
) -> None:
    """The thirteenth picture is on no sheet, and without a teacher it is first read for its batch."""
    (scratch.pictures / "12.png").write_bytes(b"no picture")
    changed = scratch.with_yaml({"autoencoder_training": {"teacher_iterations": 0}})
    outcome = changed.call("autoencoder", "--workers", workers, "--batch-size", 1, "--iterations", 40, "-s", 40)
    refused(outcome, f"error: {scratch.pictures / '12.png'} is not a readable image\n")


def test_an_autoencoder_of_another_shape_is_refused(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    wider = scratch.with_yaml({"model.autoencoder": {"ch": 16}})
    words = ("does not hold the weights of this model", "of another shape: first_stage_model.")
    refuses(("diffusion", "--autoencoder", first / LAST), str(first / LAST), *words, scratch=wider)


def test_a_file_without_an_autoencoder_is_refused(refuses: Refuses, second: Path, tmp_path: Path) -> None:
    unet = {key: tensor for key, tensor in tensors_of(second / LAST).items() if key.startswith("model.")}
    save_file(unet, tmp_path / "unet.safetensors")
    refuses(("diffusion", "--autoencoder", tmp_path / "unet.safetensors"), "unet.safetensors", "missing: first_stage")
    refuses(("diffusion", "--autoencoder", tmp_path / "nowhere.ckpt"), "nowhere.ckpt")


def test_a_start_without_all_weights_is_refused(refuses: Refuses, first: Path) -> None:
    refuses(("diffusion", "--ckpt-path", first / LAST), str(first / LAST), "missing: model.diffusion_model.")


def test_a_tokenizer_that_is_there_is_not_replaced(scratch: Scratch) -> None:
    before = (scratch.tokenizer / "vocab.json").read_bytes()
    refused(scratch.call("tokenizer"), f"vocab.json in {scratch.tokenizer} already", str(scratch.config))
    assert (scratch.tokenizer / "vocab.json").read_bytes() == before
    (scratch.tokenizer / "vocab.json").unlink()
    refused(scratch.call("tokenizer"), "merges.txt")


def test_a_vocabulary_that_the_captions_do_not_give_is_refused(scratch: Scratch) -> None:
    shutil.rmtree(scratch.tokenizer)
    large = scratch.with_yaml({"model.text_encoder": {"vocab_size": 5000}})
    refused(large.call("tokenizer"), "not 5000", "text_encoder.vocab_size")
    assert not scratch.tokenizer.exists()


def test_a_tokenizer_of_another_size_is_refused(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    large = scratch.with_yaml({"model.text_encoder": {"vocab_size": 530}})
    words = ("has 524 tokens, but text_encoder.vocab_size is 530", str(scratch.tokenizer))
    refuses(("diffusion", "--autoencoder", first / LAST), *words, scratch=large)


def test_a_missing_tokenizer_is_named(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    shutil.rmtree(scratch.tokenizer)
    refuses(("diffusion", "--autoencoder", first / LAST), str(scratch.tokenizer), "vocab.json is missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoder_training": {"edge_wieght": 1.0}}, ("unknown key 'edge_wieght'", "'edge_weight'")),
        ({"autoencoder_training": {"lr_schedule": "poly"}}, ("lr_schedule should be one of",)),
        ({"autoencoder_training": {"save_every": 0}}, ("save_every",)),
        ({"autoencoder_training": {"size": 15}}, ("autoencoder_training.size should be a multiple of 2", "15")),
        ({"autoencoder_training": {"size": 0}}, ("autoencoder_training.size",)),
        ({"autoencoder_training": {"size": "16"}}, ("size should be int",)),
        ({"diffusion_training": {"size": 18}}, ("diffusion_training.size should be a multiple of 4", "18")),
        ({"model.autoencoder": {"num_groups": 3}}, ("model: autoencoder: ch should be a multiple of num_groups",)),
        ({"model.unet": {"num_groups": 3}}, ("model: unet: model_channels should be a multiple of num_groups",)),
        ({"model.unet": {"num_heads": 3}}, ("model: unet:", "should be a multiple of num_heads")),
        ({"model.unet": {"in_channels": 3}}, ("unet.in_channels, unet.out_channels and autoencoder.embed_dim",)),
        ({"model.unet": {"context_dim": 8}}, ("unet.context_dim and text_encoder.hidden_size",)),
        ({"model.text_encoder": {"num_attention_heads": 3}}, ("text_encoder.num_attention_heads",)),
    ],
)
def test_a_yaml_that_makes_no_sense_is_refused_by_its_key(
    changes: dict[str, dict[str, Any]], words: tuple[str, ...], refuses: Refuses, scratch: Scratch, first: Path
) -> None:
    changed = scratch.with_yaml(changes)
    of_second = "diffusion_training" in changes
    arguments = ("diffusion", "--autoencoder", first / LAST) if of_second else ("autoencoder",)
    refuses(arguments, changed.config.name, *words, scratch=changed)


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        *(
            ("tokenizer", flags)
            for flags in (
                ("--autoencoder", "a"), ("--ckpt-path", "a"), ("-r", "a"), ("--iterations", 3), ("-s", 3),
                ("--seed", 3), ("--learning-rate", 1), ("--batch-size", 3), ("-o", "a"), ("-d", "cpu"),
                ("--precision", "full"), ("--workers", 1), ("--save-dtype", "fp16"), ("--logger", "csv"),
            )
        ),
        ("autoencoder", ("--autoencoder", "a")),
        ("judge", ("--autoencoder", "a")),
        ("judge", ("--ckpt-path", "a")),
        ("judge", ("--save-dtype", "fp32")),
        ("publish", ("-i", "a")),
        ("publish", ("--autoencoder", "a")),
        ("publish", ("-o", "a")),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused(stage: str, flags: tuple[object, ...], scratch: Scratch) -> None:
    long = {"-r": "--resume-dir", "-s": "--save-every", "-o": "--output-dir", "-d": "--devices", "-i": "--image-dir"}
    name = long.get(str(flags[0]), str(flags[0]))
    refused(call("train", stage, *flags), f"{name} has no effect on `train.py {stage}`")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("--iterations", 0), "--iterations"),
        (("-s", 0), "--save-every"),
        (("--learning-rate", "nan"), "--learning-rate"),
        (("--batch-size", 0), "--batch-size"),
        (("--seed", -1), "--seed"),
        (("--workers", -1), "--workers"),
        (("--precision", "fp16-mixed", "-d", "cpu"), "--precision"),
        (("--devices", "tpu"), "tpu"),
        (("--logger", "wandb"), "--logger"),
        (("--save-dtype", "fp8"), "--save-dtype"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(arguments: tuple[object, ...], flag: str, refuses: Refuses) -> None:
    refuses(("autoencoder", *arguments), flag)


def test_an_unknown_stage_is_refused() -> None:
    refused(call("train", "unet"), "tokenizer", "autoencoder", "diffusion")


# Continuing


@pytest.fixture(scope="module")
def uninterrupted(finished: Scratch, first: Path) -> dict[str, Trained]:
    """A longer run of each stage in which every kind of randomness and state plays a part. Don't write to them."""
    exact = ("--iterations", 30, "-s", 10, "--save-dtype", "fp32", "--seed", 7, "-o", finished.root / "longer")
    return {
        "autoencoder": finished.train("autoencoder", *exact),
        "diffusion": finished.train("diffusion", "--autoencoder", first / LAST, *exact),
    }


def assert_same_ends(one: Path, other: Path) -> None:
    """Whether two runs ended with the same weights, averages and optimizers, bit for bit."""
    for step in (10, 20, 30):
        name = f"step-{step:06d}.safetensors"
        assert equal(one / name, other / name), name
    states = [torch.load(run / "resume.ckpt", weights_only=True) for run in (one, other)]
    weights = [state["state_dict"] for state in states]
    assert weights[0].keys() == weights[1].keys()
    assert any(name.startswith("average.") for name in weights[0])
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    moments = [state["optimizer_states"][0]["state"] for state in states]
    for index, values in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in values.items())


@pytest.mark.parametrize(
    ("stage", "number", "workers"),
    [
        ("autoencoder", signal.SIGKILL, 2),
        ("diffusion", signal.SIGTERM, 1),
        pytest.param("autoencoder", signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param("autoencoder", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("diffusion", signal.SIGKILL, 0, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_continues_to_bit_identical_weights(
    stage: str, number: signal.Signals, workers: int, scratch: Scratch, first: Path, uninterrupted: dict[str, Trained]
) -> None:
    """The signal reaches all processes, as from a terminal or a batch system; the uninterrupted run had no workers."""
    needed = ("--autoencoder", first / LAST) if stage == "diffusion" else ()
    words = scratch.words(stage, *needed, "--iterations", 30, "-s", 10, "--save-dtype", "fp32", "--seed", 7)
    process = start("train", stage, *words, "--workers", workers, cwd=scratch.root, group=True)
    run = scratch.runs / f"{stage}-1"
    wait_for(run / "step-000010.safetensors", process)
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=120)
    assert not (run / "step-000030.safetensors").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert said.count("stopping after this step") == 1
        assert re.search(rf"stopped after update \d+; continue with\n  python train\.py {stage} -r {run}\n", said), said
    outcome = call("train", stage, "-r", run, "--workers", workers)
    assert outcome.status == 0, outcome.said
    assert_same_ends(uninterrupted[stage].directory, run)


def copied(run: Path, scratch: Scratch) -> Path:
    """A copy of a finished run."""
    shutil.copytree(run, scratch.runs / run.name)
    return scratch.runs / run.name


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_finished_run_stays_as_it_is(stage: str, finished: Scratch, scratch: Scratch) -> None:
    run = copied(finished.runs / f"{stage}-1", scratch)
    before = {path.name: path.read_bytes() for path in run.glob("step-*")}
    outcome = call("train", stage, "-r", run)
    assert outcome.status == 0, outcome.said
    assert {path.name: path.read_bytes() for path in run.glob("step-*")} == before


def test_a_run_can_be_given_more_iterations_and_other_devices(second: Path, scratch: Scratch) -> None:
    run = copied(second, scratch)
    flags = ("--iterations", 7, "-s", 7, "--logger", "none", "--workers", 1, "--precision", "full", "-d", "cpu")
    outcome = call("train", "diffusion", "-r", run, *flags)
    assert outcome.status == 0, outcome.said
    assert info_of(run / "step-000007.safetensors").step == 7
    options = read_yaml(run / "run.yaml")["options"]
    assert (options["iterations"], options["workers"], options["devices"]) == (7, 1, "cpu")


def test_a_continued_run_keeps_its_tokenizer_and_yaml(second: Path, finished: Scratch, scratch: Scratch) -> None:
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
        (("--learning-rate", 0.1), "--learning-rate can't change"),
        (("--batch-size", 9), "--batch-size can't change"),
        (("--save-dtype", "bf16"), "--save-dtype can't change"),
        (("--config", "other.yaml"), "--config can't change"),
        (("-i", "other"), "--image-dir can't change"),
        (("--iterations", 2), "--iterations 2 is less than the 6 updates this run has made"),
    ],
)
def test_what_a_resumed_run_can_not_change_is_refused(
    flags: tuple[object, ...], words: str, first: Path, scratch: Scratch
) -> None:
    refused(call("train", "autoencoder", "-r", copied(first, scratch), *flags), words)


def test_a_run_of_another_stage_is_told_by_its_name(first: Path, scratch: Scratch) -> None:
    run = copied(first, scratch)
    refused(call("train", "diffusion", "-r", run), f"python train.py autoencoder -r {run}")


def test_commands_take_their_own_runs_only(first: Path, trained: Trained, tmp_path: Path) -> None:
    refused(call("train", "diffusion", "-r", trained.directory), "is no run of train.py")
    refused(call("dreambooth", "-r", first), "is no run of dreambooth.py")
    refused(call("train", "autoencoder", "-r", tmp_path), "is no run of train.py", "run.yaml")


@pytest.mark.parametrize("change", ["gone", "more", "caption"])
def test_other_pictures_than_the_runs_own_are_refused(change: str, scratch: Scratch, first: Path) -> None:
    run = scratch.train("diffusion", "--autoencoder", first / LAST, "--iterations", 1).directory
    listed = scratch.pictures / "metadata.jsonl"
    lines = listed.read_text().splitlines()
    match change:
        case "gone":
            (scratch.pictures / "11.png").unlink()
            listed.write_text("\n".join(lines[:-1]))
        case "more":
            shutil.copy(scratch.pictures / "1.png", scratch.pictures / "new.png")
            (scratch.pictures / "new.txt").write_text("a disc")
        case "caption":
            listed.write_text("\n".join(lines).replace("blue", "black"))
    words = ("the pictures or captions in", "are not those that this run began with")
    refused(call("train", "diffusion", "-r", run, "--iterations", 2), *words)


def test_another_autoencoder_under_the_same_name_is_refused(scratch: Scratch, first: Path, tmp_path: Path) -> None:
    shutil.copy(first / LAST, tmp_path / "ae.safetensors")
    run = scratch.train("diffusion", "--autoencoder", tmp_path / "ae.safetensors", "--iterations", 1).directory
    shutil.copy(first / "step-000003.safetensors", tmp_path / "ae.safetensors")
    outcome = call("train", "diffusion", "-r", run, "--iterations", 2)
    refused(outcome, "ae.safetensors is not the file that this run began with")


@pytest.mark.parametrize("content", ["options: {", "options:\n  stage: autoencoder\n  image_dir: pictures\n"])
def test_a_damaged_record_is_named(content: str, first: Path, scratch: Scratch) -> None:
    run = copied(first, scratch)
    (run / "run.yaml").write_text(content)
    refused(call("train", "autoencoder", "-r", run), str(run / "run.yaml"))


# Publishing


def test_publish_writes_the_weights_with_the_yaml_as_it_is_now(
    second: Path, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ldm.commands.train.publish"], "ROOT", tmp_path / "house")
    tuned = scratch.with_yaml({"sampling": {"num_steps": 9}})
    outcome = call("train", "publish", "--ckpt-path", second / LAST, "--config", tuned.config)
    assert outcome.status == 0, outcome.said
    published = tmp_path / "house" / "ldm" / "assets" / f"{tuned.config.stem}.safetensors"
    info, trained = info_of(published), info_of(second / LAST)
    assert info.config["sampling"]["num_steps"] == 9
    assert info.config["model"] == trained.config["model"]
    assert info.options["updates"] == 6
    weights, expected = tensors_of(published), tensors_of(second / LAST)
    assert all(torch.equal(weights[key].float(), expected[key].half().float()) for key in expected if "." in key)
    assert str(tmp_path) not in json.dumps(info.options)


def test_publish_refuses_what_is_no_whole_model_of_a_training(
    first: Path, tiny_checkpoint: Path, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ldm.commands.train.publish"], "ROOT", tmp_path / "house")
    refused(call("train", "publish"), "--ckpt-path is needed")
    words = ("train", "publish", "--config", scratch.config, "--ckpt-path")
    refused(call(*words, first / LAST), "missing: ")
    refused(call(*words, tiny_checkpoint), "does not hold the weights of this model")
    save_file(build_scratch_model().state_dict(), tmp_path / "bare.safetensors")
    refused(call(*words, tmp_path / "bare.safetensors"), "bare.safetensors: metadata")
    assert not (tmp_path / "house").exists()
