"""train.py publish: a training's weights become the embedded model."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.commands.calls import call, info_of, refused, tensors_of
from tests.commands.train.stages import LAST, Scratch
from tests.scratch import build_scratch_model


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
