"""convert.py and LoRA files: extracted from two checkpoints, in another dialect or rank, merged into a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoint.lora import LowRank, read_lora
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_file
from tests.commands.calls import call, info_of, metadata_of, refused, tensors_of
from tests.commands.fixtures import Sample
from tests.commands.test_convert import convert, same_weights
from tests.full_disk import entries
from tests.loras import assert_read_everywhere, write_lora
from tests.tiny import TINY_YAML, build_tiny_model, write_tiny_checkpoint

ABOUT = CheckpointInfo(config=TINY_YAML, class_name="can", instance_prompt="a photo of sks can", step=7).to_metadata()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a LoRA of it with our metadata, and a DoRA by inputs. Nothing is written to it."""
    folder = tmp_path_factory.mktemp("loras")
    base = write_tiny_checkpoint(folder / "base")
    tensors = tensors_of(write_lora(folder / "can.safetensors", base, **ABOUT))
    inputs = {key.removesuffix("lora_down.weight"): len(one[0]) for key, one in tensors.items() if "lora_down" in key}
    scales = {f"{module}dora_scale": torch.ones(1, width) for module, width in inputs.items()}
    save_file({**tensors, **scales}, folder / "dora.safetensors", metadata=ABOUT)
    return folder


@pytest.fixture
def base(shared: Path) -> Path:
    return shared / "base" / "tiny.safetensors"


@pytest.fixture
def lora(shared: Path) -> Path:
    return shared / "can.safetensors"


def changes_of(lora: Path, base: Path) -> dict[str, LowRank]:
    return dict(read_lora(read_checkpoint(lora), read_checkpoint(base)).changes)


def change(one: LowRank, shape: torch.Size) -> torch.Tensor:
    return one.delta(torch.zeros(shape))


def test_what_is_merged_samples_as_with_the_files_and_says_what_was_merged(
    txt2img: Sample, base: Path, lora: Path, tmp_path: Path
) -> None:
    other = write_lora(tmp_path / "b.safetensors", base, seed=1)
    said = convert(base, tmp_path / "whole.safetensors", "--merge", f"{lora}:0.5", other)
    assert f"{lora}: a LoRA with kohya's names, float32\n  UNet: " in said and "rank 2" in said
    convert(base, tmp_path / "whole", "--merge", f"{lora}:0.5", other)
    words = ("-p", "a cat", "-v", 1)
    expected = txt2img("-c", base, *words, "--lora", f"{lora}:0.5", other).images[0]
    assert np.array_equal(txt2img("-c", tmp_path / "whole.safetensors", *words).images[0], expected)
    info = info_of(tmp_path / "whole.safetensors")
    named = [f"can.safetensors:0.5 {hash_file(lora)}", f"b.safetensors:1 {hash_file(other)}"]
    assert (info.merged, info.class_name, info.step, info.base_sha256) == (named, "can", 7, hash_file(base))
    assert info.parts["unet"] != info_of(base).parts["unet"]
    assert info.parts["autoencoder"] == info_of(base).parts["autoencoder"]
    again = convert(tmp_path / "whole", tmp_path / "again.safetensors")
    assert f"merged into it: {', '.join(named)}" in again
    assert same_weights(tmp_path / "whole.safetensors", tmp_path / "again.safetensors")
    assert info_of(tmp_path / "again.safetensors") == info


def test_what_was_merged_is_extracted_again(base: Path, lora: Path, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole.safetensors", tmp_path / "again.safetensors"
    convert(base, whole, "--merge", lora)
    said = convert(whole, again, "--to", "lora", "--base", base, "--rank", 2)
    before, after = changes_of(lora, base), changes_of(again, base)
    index = read_checkpoint(base).index
    assert before.keys() == after.keys()
    assert f"100.0 % of the squared change are in the LoRA: {len(before)} layers, rank 2" in said
    for key in before:
        shape = index[key].shape
        torch.testing.assert_close(change(after[key], shape), change(before[key], shape), rtol=1e-4, atol=1e-5)
    assert len(assert_read_everywhere(tensors_of(again))) == len(before)
    metadata, info = metadata_of(again), info_of(again)
    assert (info.class_name, info.base, info.base_sha256) == ("can", base.name, hash_file(base))
    expected = {"ss_v2": "False", "ss_network_dim": "2", "ss_network_alpha": "2", "ss_network_module": "networks.lora"}
    expected |= {"ss_output_name": "again", "ss_sd_model_name": base.name, "ss_new_sd_model_hash": hash_file(base)}
    assert {name: metadata[name] for name in expected} == expected
    assert "sshs_model_hash" in metadata


def test_of_another_model_every_layer_is_changed_as_far_as_the_ranks_reach(base: Path, tmp_path: Path) -> None:
    """Against a singular-value decomposition, in linear layers and convolutions."""
    tuned, out = write_tiny_checkpoint(tmp_path / "tuned", model=build_tiny_model(1)), tmp_path / "a.safetensors"
    said = convert(tuned, out, "--to", "lora", "--base", base, "--rank", 4)
    assert "tensors (biases, norms, embeddings, the UNet's first and last layers)" in said
    assert "the autoencoders differ, too" in said
    (a, b), found = (read_checkpoint(path).tensors for path in (tuned, base)), changes_of(out, base)
    assert {a[key].ndim for key in found} == {2, 4}
    for key, one in list(found.items())[::15]:
        difference = (a[key] - b[key]).flatten(1)
        u, s, v = torch.linalg.svd(difference.double(), full_matrices=False)
        closest = (u[:, :4] * s[:4]) @ v[:4]
        got = change(one, a[key].shape).flatten(1)
        torch.testing.assert_close(got, closest.float(), rtol=1e-4, atol=1e-5)
    assert_read_everywhere(tensors_of(out))
    convert(tuned, tmp_path / "half.safetensors", "--to", "lora", "--base", base, "--keep", 0.5, "--half")
    kept = changes_of(tmp_path / "half.safetensors", base)
    assert {one.up.dtype for one in kept.values()} == {torch.float16}
    assert len({len(one.down) for one in kept.values()}) > 1
    assert metadata_of(tmp_path / "half.safetensors")["ss_network_dim"] == "Dynamic"
    for key, one in list(kept.items())[::15]:
        squares = torch.linalg.svdvals((a[key] - b[key]).flatten(1).double()).square().cumsum(0)
        rank = len(one.down)
        assert squares[rank - 1] >= 0.5 * squares[-1] * (1 - 1e-9)
        assert rank == 1 or squares[rank - 2] < 0.5 * squares[-1]


def test_a_copy_in_a_smaller_type_is_no_change(base: Path, lora: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "whole.safetensors", "--merge", lora, "--half")
    convert(tmp_path / "whole.safetensors", tmp_path / "a.safetensors", "--to", "lora", "--base", base)
    assert changes_of(tmp_path / "a.safetensors", base).keys() == changes_of(lora, base).keys()


@pytest.mark.parametrize("dialect", ["peft", "diffusers"])
def test_from_dialect_to_dialect_no_bit_changes(dialect: str, base: Path, lora: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    said = convert(lora, there, "--dialect", dialect)
    assert f"{lora}: a LoRA with kohya's names" in said and "trained on 'can', step 7" in said
    names = {"peft": "PEFT's", "diffusers": "diffusers'"}[dialect]
    assert f"{there}: a LoRA with {names} names, float32" in convert(there, back)
    before, after = tensors_of(lora), tensors_of(back)
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert all("lora" in key and not key.startswith("lora_") for key in tensors_of(there))
    assert info_of(back) == info_of(lora)
    assert np.isin(["ss_network_dim", "ss_v2"], list(metadata_of(back))).all()


def test_an_alpha_is_multiplied_in_where_a_dialect_has_no_place_for_it(base: Path, lora: Path, tmp_path: Path) -> None:
    tensors = tensors_of(lora)
    alphas = {key: torch.tensor(0.25) for key in tensors if key.endswith("alpha")}
    save_file({**tensors, **alphas}, tmp_path / "quarter.safetensors", metadata=ABOUT)
    convert(tmp_path / "quarter.safetensors", tmp_path / "a.safetensors", "--dialect", "diffusers", "--base", base)
    before, after = (changes_of(tmp_path / name, base) for name in ("quarter.safetensors", "a.safetensors"))
    index = read_checkpoint(base).index
    assert {one.scale for one in before.values()} == {0.125} and {one.scale for one in after.values()} == {1.0}
    assert all(
        torch.equal(change(after[key], index[key].shape), change(before[key], index[key].shape)) for key in after
    )
    assert metadata_of(tmp_path / "a.safetensors")["ss_new_sd_model_hash"] == hash_file(base)


def test_a_smaller_rank_on_request(base: Path, tmp_path: Path) -> None:
    large = write_lora(tmp_path / "large.safetensors", base, rank=6, **ABOUT)
    said = convert(large, tmp_path / "small.safetensors", "--rank", 3)
    assert "% of the squared norm of its changes are kept, with rank 3" in said
    small, before = changes_of(tmp_path / "small.safetensors", base), changes_of(large, base)
    index = read_checkpoint(base).index
    for key, one in small.items():
        u, s, v = torch.linalg.svd(change(before[key], index[key].shape))
        torch.testing.assert_close(change(one, index[key].shape), (u[:, :3] * s[:3]) @ v[:3], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["base/tiny.safetensors", "a.safetensors", "--to", "lora"], "--base PATH gives the checkpoint that"),
        (["base/tiny.safetensors", "a", "--to", "lora", "--base", "base/tiny.safetensors"], "name OUT with .safetens"),
        (["base/tiny.safetensors", "a.safetensors", "--to", "lora", "--base", "base/tiny.safetensors"], "same weights"),
        (["base/tiny.safetensors", "a.safetensors", "--to", "lora", "--base", "can.safetensors"], "a whole model is"),
        (["base/tiny.safetensors", "a.safetensors", "--rank", "4"], "--rank is for --to lora"),
        (["base/tiny.safetensors", "a.safetensors", "--merge", "base/tiny.safetensors"], "tiny.safetensors is no LoRA"),
        (["can.safetensors", "a.safetensors", "--to", "official"], "is a LoRA, not a model: 'python convert.py BASE"),
        (["can.safetensors", "a.safetensors", "--merge", "can.safetensors"], "--merge is for whole models"),
        (["can.safetensors", "a"], "--to lora writes one file"),
        (["dora.safetensors", "a.safetensors", "--rank", "2"], "is a DoRA, whose rank can't be changed"),
        (["dora.safetensors", "a.safetensors", "--dialect", "peft"], "a DoRA by inputs, which peft's naming can't"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(
    arguments: list[str], words: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared)
    before = entries(shared)
    refused(call("convert", *arguments), words)
    assert entries(shared) == before
