"""Files from strangers: each is refused within a second by a message that names it, and nothing in it is run."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.config import build_config, read_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.runtime.models import EMBEDDED, Settings, settings_of
from ldm.toyworld.judge.file import CONFIG, judge_writer, load_judge
from tests.checkpoint import hostile, wrong_values
from tests.judges import build_tiny_judge

SECONDS = 2.0
"""Of this process's own time; a second on an idle machine."""


@contextmanager
def quickly() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def refusal(path: Path) -> str:
    with quickly(), pytest.raises(UserError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message) < 1000
    assert not (path.parent / hostile.MARKER).exists()
    return message


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    refusal(hostile.REFUSED[name](tmp_path))


@pytest.mark.parametrize("name", hostile.FOREIGN)
def test_a_file_of_another_kind_is_recognised(name: str, tmp_path: Path) -> None:
    make, word = hostile.FOREIGN[name]
    assert word in refusal(make(tmp_path))


@pytest.mark.parametrize("name", hostile.SPECIAL)
def test_what_is_not_a_file_is_named_and_does_not_block(name: str, tmp_path: Path) -> None:
    make, word = hostile.SPECIAL[name]
    if name == "a terminal" and not Path("/dev/tty").exists():
        pytest.skip("there is no terminal")
    assert word in refusal(make(tmp_path))


@pytest.mark.parametrize("name", hostile.UNFIT)
def test_impossible_metadata_are_refused(name: str, tmp_path: Path) -> None:
    path = hostile.UNFIT[name](tmp_path)
    file = read_checkpoint(path)
    with quickly(), pytest.raises(UserError) as error:
        checkpoint_info(file)
        raise_unless_whole(file, settings_of(file, None)[1].model)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_attributes_of_a_state_dict_hide_nothing(tmp_path: Path) -> None:
    file = read_checkpoint(hostile.attributes_that_shadow(tmp_path))
    assert file.tensors["model.diffusion_model.x"].tolist() == [0, 0, 0, 0]


def test_the_message_about_a_compressed_file_says_what_to_do(tmp_path: Path) -> None:
    message = refusal(hostile.REFUSED["compressed"](tmp_path))
    assert "data.pkl" in message and "compressed" in message and "save it again with torch.save" in message


def test_the_message_about_a_pickled_model_says_what_to_do(tmp_path: Path) -> None:
    assert "torch.save(model.state_dict(), ...)" in refusal(hostile.whole_model(tmp_path))


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    for name in ("caf\udce9.safetensors", "caf\udce9.ckpt"):
        path = tmp_path / name
        made = (
            hostile.good_safetensors(tmp_path)
            if path.suffix == ".safetensors"
            else hostile.attributes_that_shadow(tmp_path)
        )
        made.rename(path)
        assert read_checkpoint(path).tensors


def whole_yaml() -> dict[str, Any]:
    """A YAML with all keys of a model."""
    return read_yaml(ROOT / "configs" / "tiny.yaml")


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_wrong_value_of_every_field_is_refused_or_harmless(every: int) -> None:
    """As metadata or with --config: at once, and an accepted config is built at once."""
    file = read_checkpoint(EMBEDDED)
    good = build_config(Settings, whole_yaml(), "good")
    counts = {"fields": len(list(wrong_values.paths(whole_yaml()))), "refused": 0, "accepted": 0}
    for name, values in wrong_values.configs(whole_yaml(), every):
        start = time.process_time()
        try:
            settings = build_config(Settings, values, "some.yaml")
            if settings.model != good.model:
                raise_unless_whole(file, settings.model)
            counts["accepted"] += 1
        except UserError as error:
            assert len(str(error)) < 1500, name
            counts["refused"] += 1
        assert time.process_time() - start < SECONDS, name
    assert counts["refused"] + counts["accepted"] == -(-counts["fields"] * len(wrong_values.WRONG) // every)
    assert counts["refused"] > 3 * counts["accepted"]


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("model.unet.num_res_blocks", 10**7, "num_res_blocks should be from 1 to 32"),
        ("model.unet.transformer_depth", 10**7, "transformer_depth should be from 1 to 32"),
        ("model.text_encoder.num_hidden_layers", 10**7, "num_hidden_layers should be from 1 to 256"),
        ("model.unet.channel_mult", [1] * 2000, "should be a list of 1000 values at most"),
        ("model.unet.channel_mult", [1] * 20, "channel_mult should hold 1 to 8 values"),
        ("model.unet.channel_mult", [], "channel_mult should hold 1 to 8 values"),
        ("model.unet.num_heads", 0, "num_heads should be from 1"),
        ("model.text_encoder.num_attention_heads", 0, "num_attention_heads should be from 1"),
        ("model.text_encoder.vocab_size", -5, "vocab_size should be from 1"),
        ("model.schedule.num_timesteps", 0, "num_timesteps should be from 1 to 10000"),
        ("model.schedule.num_timesteps", 10**15, "num_timesteps should be from 1 to 10000"),
        ("model.schedule.num_timesteps", 5, "sampling.num_steps should be at most"),
        ("model.schedule.linear_start", -0.5, "betas should be above 0"),
        ("model.schedule.linear_end", math.nan, "linear_end should be a finite number"),
        ("model.scale_factor", 0.0, "scale_factor should be from"),
        ("model.autoencoder.out_ch", 1, "should be 3"),
        ("sampling.height", 10**15, "height should be from 1 to 100000"),
        ("sampling.width", 0, "width should be from 1"),
        ("sampling.guidance_scale", math.inf, "guidance_scale should be a finite number"),
        ("sampling.sampler", "euler-maruyama", "sampler should be one of"),
        ("dreambooth.class_sampler", "euler-maruyama", "class_sampler should be one of"),
        ("dreambooth.save_every", 0, "save_every should be from 1"),
    ],
)
def test_the_message_says_what_is_allowed(where: str, value: Any, words: str) -> None:
    values = wrong_values.with_value(whole_yaml(), tuple(where.split(".")), value)
    with pytest.raises(UserError, match=words):
        build_config(Settings, values, "some.yaml")


@pytest.mark.parametrize("layers", [32, 2])
def test_a_model_of_more_layers_than_the_file_has_tensors_is_not_built(layers: int) -> None:
    """A file of few tensors whose config is within its bounds, but slow to build."""
    shape = whole_yaml()["model"]
    shape["unet"] |= {"num_res_blocks": layers, "transformer_depth": layers, "num_heads": 1}
    with quickly(), pytest.raises(UserError, match=r"tensors, and the file holds|missing: "):
        raise_unless_whole(read_checkpoint(EMBEDDED), build_config(LatentDiffusionConfig, shape, "x"))


def test_the_least_number_of_tensors_is_nearly_the_number() -> None:
    for name in ("tiny.yaml", "sd-v1.yaml"):
        config = build_config(Settings, read_yaml(ROOT / "configs" / name), name).model
        with torch.device("meta"):
            count = len(LatentDiffusion(config).state_dict())
        assert 0.8 * count <= config.least_tensors <= count


def test_a_judge_of_more_layers_than_the_file_has_tensors_is_not_built(tmp_path: Path) -> None:
    judge_writer(tmp_path / "judge.safetensors", build_tiny_judge(), "abc")()
    metadata = read_checkpoint(tmp_path / "judge.safetensors").metadata
    values = {**json.loads(metadata[CONFIG]), "text_layers": 64, "widths": [65536], "depths": [64], "size": 1024}
    tensors = load((tmp_path / "judge.safetensors").read_bytes())
    save_file(tensors, tmp_path / "other.safetensors", {**metadata, CONFIG: json.dumps(values)})
    with quickly(), pytest.raises(UserError, match="its config describes at least"):
        load_judge(tmp_path / "other.safetensors")
