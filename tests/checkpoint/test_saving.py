"""From a model to a file: the official layout, every bit of it, and whole or not at all."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ldm.checkpoint.keys import PARTS, POSITION_IDS
from ldm.checkpoint.loading import Placement, checkpoint_info, load_model
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer, hash_file, hash_part, official_state_dict, part_writer
from ldm.errors import UserError
from tests.checkpoint.files import same_tensors
from tests.oracle import facts, tensors
from tests.tiny import build_tiny_model, tiny_config

SOME_WEIGHT = "model.diffusion_model.out.2.weight"
SCHEDULE = [key for key, _, _ in facts("sd-v1-keys")["keys"] if "." not in key]


def save(path: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **info: Any) -> Path:
    checkpoint_writer(path, build_tiny_model(seed), CheckpointInfo(**info), dtype)()
    return path


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("dtype", SAVE_DTYPES.values(), ids=list(SAVE_DTYPES))
def test_weights_come_back_as_the_type_holds_them(dtype: torch.dtype, tmp_path: Path) -> None:
    path, model = save(tmp_path / "a.safetensors", dtype), build_tiny_model()
    loaded = load_model(path, tiny_config(), Placement(torch.device("cpu")))
    for (name, actual), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(actual, expected.to(dtype).float()), name
        tolerance = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
        assert torch.allclose(actual, expected, rtol=tolerance, atol=1e-7), name


@pytest.mark.parametrize("dtype", SAVE_DTYPES.values(), ids=list(SAVE_DTYPES))
def test_a_writer_writes_the_weights_of_its_making(dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_tiny_model()
    write = checkpoint_writer(tmp_path / "later.safetensors", model, CheckpointInfo(), dtype)
    expected = save(tmp_path / "now.safetensors", dtype)
    for tensor in model.state_dict().values():
        tensor.add_(1.0)
    assert names(tmp_path) == ["now.safetensors"]
    write()
    later, now = read_checkpoint(tmp_path / "later.safetensors"), read_checkpoint(expected)
    assert same_tensors(later.tensors, now.tensors)
    assert later.metadata == now.metadata  # in any order: the library's is random


def test_saving_what_was_loaded_gives_the_same_again(tmp_path: Path) -> None:
    first = save(tmp_path / "a.safetensors", torch.float16, class_name="can", step=3)
    file = read_checkpoint(first)
    loaded = load_model(file, tiny_config(), Placement(torch.device("cpu")))
    checkpoint_writer(tmp_path / "b.safetensors", loaded, checkpoint_info(file), torch.float16)()
    again = read_checkpoint(tmp_path / "b.safetensors")
    assert same_tensors(again.tensors, file.tensors)
    assert again.metadata == file.metadata


@pytest.mark.parametrize("dtype", SAVE_DTYPES.values(), ids=list(SAVE_DTYPES))
def test_a_file_holds_the_official_keys_and_no_others(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = load_file(save(tmp_path / "a.safetensors", dtype))
    weights = {name: tensor.shape for name, tensor in build_tiny_model().state_dict().items()}
    assert stored.keys() == {*weights, *SCHEDULE, POSITION_IDS}
    assert all("." not in key or key.startswith(tuple(PARTS.values())) for key in stored)
    assert not any(key.startswith("cond_stage_model.transformer.") and ".text_model." not in key for key in stored)
    for key, shape in weights.items():
        assert stored[key].dtype == dtype
        assert stored[key].shape == shape
    assert len(SCHEDULE) == 12
    oracle = tensors("schedule")
    for key in SCHEDULE:
        assert stored[key].dtype == torch.float32
        torch.testing.assert_close(stored[key], oracle[key], rtol=1e-6, atol=0)
    assert stored[POSITION_IDS].dtype == torch.int64
    assert stored[POSITION_IDS].tolist() == [list(range(77))]


def test_saving_leaves_the_model_alone() -> None:
    model = build_tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = official_state_dict(model, torch.float32)
    stored[SOME_WEIGHT].mul_(1.0)
    official_state_dict(model, torch.float16)[SOME_WEIGHT].zero_()
    assert model.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_weight_that_is_not_contiguous_is_saved_right(tmp_path: Path) -> None:
    model = build_tiny_model().to(memory_format=torch.channels_last)
    weight = model.unet.out[2].weight
    assert not weight.is_contiguous()
    checkpoint_writer(tmp_path / "a.safetensors", model, CheckpointInfo(), torch.float32)()
    assert torch.equal(load_file(tmp_path / "a.safetensors")[SOME_WEIGHT], weight)


def test_metadata_tell_other_tools_what_they_look_for(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", class_name="can")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["ldm.class_name"] == '"can"'
    assert all(key == "format" or key.startswith("ldm.") for key in metadata)


def test_the_parts_hashes_are_those_of_what_is_in_the_file(tmp_path: Path) -> None:
    file = read_checkpoint(save(tmp_path / "a.safetensors", torch.float16, parts={"unet": "an old one", "x": "y"}))
    assert checkpoint_info(file).parts == {part: hash_part(file.tensors, part) for part in PARTS}


def broken_model(value: float, key: str = SOME_WEIGHT) -> Any:
    model = build_tiny_model()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name == key).view(-1)[-1] = value
    return model


@pytest.mark.parametrize(
    ("key", "value", "dtype"),
    [
        (SOME_WEIGHT, 70000.0, torch.float16),
        (SOME_WEIGHT, float("nan"), torch.float32),
        (SOME_WEIGHT, float("inf"), torch.bfloat16),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", float("-inf"), torch.float16),
    ],
)
def test_a_weight_that_the_type_cannot_hold_is_named_and_nothing_is_written(
    key: str, value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError) as error:
        checkpoint_writer(path, broken_model(value, key), CheckpointInfo(), dtype)()
    assert key in str(error.value)
    assert str(path) in str(error.value)
    assert names(tmp_path) == []
    path.write_text("old")
    with pytest.raises(UserError):
        checkpoint_writer(path, broken_model(value, key), CheckpointInfo(), dtype)()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(("value", "dtype"), [(65000.0, torch.float16), (1e30, torch.bfloat16), (3e38, torch.float32)])
def test_a_large_weight_that_the_type_holds_is_saved(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint_writer(tmp_path / "a.safetensors", broken_model(value), CheckpointInfo(), dtype)()
    stored = load_file(tmp_path / "a.safetensors")[SOME_WEIGHT].view(-1)[-1]
    assert stored == torch.tensor(value).to(dtype)


def test_equal_parts_have_equal_hashes() -> None:
    first, second = (official_state_dict(build_tiny_model(), torch.float16) for _ in range(2))
    shuffled = dict(reversed(second.items()))
    hashes = [hash_part(first, part) for part in PARTS]
    assert hashes == [hash_part(shuffled, part) for part in PARTS]
    assert len(set(hashes)) == len(PARTS)
    assert all(len(one) == 64 for one in hashes)


@pytest.mark.parametrize("part", PARTS)
def test_one_weight_changes_the_hash_of_its_part_and_no_other(part: str) -> None:
    before = official_state_dict(build_tiny_model(), torch.float16)
    hashes = {one: hash_part(before, one) for one in PARTS}
    key = next(key for key in reversed(before) if key.startswith(PARTS[part]) and key != POSITION_IDS)
    changed = before[key].clone()
    changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(9.0, dtype=torch.float16))
    after = {**before, key: changed}
    assert {one for one in PARTS if hash_part(after, one) != hashes[one]} == {part}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.float(),
        lambda t: t.view(3, 2),
        lambda t: t.view(6),
        lambda t: t.view(torch.bfloat16),
        lambda t: t + 1,
    ],
    ids=["type", "shape", "dimensions", "type of the same bits", "values"],
)
def test_type_shape_and_values_count(change: Any) -> None:
    key = "model.diffusion_model.x"
    tensor = torch.arange(6.0).view(2, 3).half()
    assert hash_part({key: change(tensor)}, "unet") != hash_part({key: tensor}, "unet")
    assert hash_part({key + "y": tensor}, "unet") != hash_part({key: tensor}, "unet")


def test_a_files_hash_is_the_published_kind(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = bytes(range(256)) * 70_000  # more than one block
    path.write_bytes(content)
    assert hash_file(path) == hashlib.sha256(content).hexdigest()


# One part alone


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_part_alone_is_what_the_whole_checkpoint_has_of_it(part: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_tiny_model()
    part_writer(tmp_path / "part.safetensors", getattr(model, part), part, CheckpointInfo(step=3), dtype)()
    whole = {k: t for k, t in official_state_dict(model, dtype).items() if k.startswith(PARTS[part])}
    whole.pop(POSITION_IDS, None)
    file = read_checkpoint(tmp_path / "part.safetensors")
    assert file.tensors.keys() == whole.keys()
    assert all(tensor.dtype == dtype and torch.equal(tensor, whole[key]) for key, tensor in file.tensors.items())
    info = checkpoint_info(file)
    assert (info.step, info.parts) == (3, {part: hash_part(whole, part)})


def test_a_part_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    autoencoder = build_tiny_model().autoencoder
    torch.nn.init.constant_(autoencoder.quant_conv.weight, 1e6)
    with pytest.raises(UserError, match=r"first_stage_model\.quant_conv\.weight is not finite as torch\.float16"):
        part_writer(tmp_path / "part.safetensors", autoencoder, "autoencoder", CheckpointInfo(), torch.float16)()
    assert not list(tmp_path.iterdir())
