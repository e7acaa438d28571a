"""An adapter merged into a checkpoint: loading, digests and samples need to know nothing of it."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import Placement, checkpoint_info, load_model, load_part, part_digests, raise_unless_whole
from ldm.checkpoint.merging import merged
from ldm.checkpoint.reading import ALIGNMENT, CheckpointFile, read_checkpoint
from ldm.commands.sampling.checkpoints import checkpoint_of
from ldm.commands.sampling.loop import ReadAhead
from ldm.errors import UserError
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot, settings_of
from tests.tiny import build_tiny_model, tiny_config, write_tiny_checkpoint

CPU = Placement(torch.device("cpu"))
QUERY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@dataclass
class LowRank:
    """W + strength * up @ down (LoRA, arXiv 2106.09685, section 4.1), by official key."""

    path: Path
    weights: dict[str, tuple[Tensor, Tensor]]

    @property
    def digest(self) -> str:
        pairs = [tensor.numpy().tobytes() for key in sorted(self.weights) for tensor in self.weights[key]]
        return hashlib.sha256(b"".join([*map(str.encode, sorted(self.weights)), *pairs])).hexdigest()

    @property
    def keys(self) -> Collection[str]:
        return self.weights.keys()

    def fits(self, key: str, weight: Tensor) -> bool:
        up, down = self.weights[key]
        return weight.shape == (up.shape[0], down.shape[1])

    def delta(self, key: str, weight: Tensor) -> Tensor:
        up, down = self.weights[key]
        return up @ down


def low_rank(*keys: str, seed: int = 0, width: int = 64) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    inputs = {QUERY: 64, TEXT: 32}
    weights = {
        key: (torch.randn(width, 2, generator=generator), torch.randn(2, inputs.get(key, 64), generator=generator))
        for key in keys
    }
    return LowRank(Path("my-lora.safetensors"), weights)


def digests(file: CheckpointFile) -> dict[str, str]:
    return part_digests(file.path, checkpoint_info(file))


@pytest.fixture(params=[torch.float32, torch.float16], ids=["float32", "float16"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointFile:
    return read_checkpoint(write_tiny_checkpoint(tmp_path, request.param, class_name="can"))


def test_a_model_is_loaded_with_the_merged_weights_and_no_other_changes(file: CheckpointFile) -> None:
    adapter = low_rank(QUERY)
    plain, changed = (load_model(one, tiny_config(), CPU).state_dict() for one in (file, merged(file, adapter, 0.5)))
    up, down = adapter.weights[QUERY]
    expected = (file.tensors[QUERY].float() + 0.5 * (up @ down)).to(file.tensors[QUERY].dtype)
    assert torch.equal(changed[QUERY], expected.float())
    assert [key for key in plain if not torch.equal(plain[key], changed[key])] == [QUERY]


def test_a_comparison_samples_with_the_adapter_that_a_checkpoint_was_found_with(file: CheckpointFile) -> None:
    """The checkpoint of a plan holds no tensors; its file is read, and merged, when its turn comes."""
    first, second = low_rank(QUERY, seed=1), low_rank(TEXT, seed=2)
    changed = merged(merged(file, first, 0.5), second)
    checkpoint = checkpoint_of(changed, None, set())
    with ReadAhead([checkpoint]) as reader:
        taken = reader.take()
    assert checkpoint.digests != checkpoint_of(file, None, set()).digests
    for key in (QUERY, TEXT):
        assert torch.equal(taken.tensors[key], changed.tensors[key])
        assert not torch.equal(taken.tensors[key], file.tensors[key])


def test_several_adapters_add_up(file: CheckpointFile) -> None:
    one, other = low_rank(QUERY, seed=1), low_rank(QUERY, TEXT, seed=2)
    both = merged(merged(file, one, 0.25), other, -1.0)
    raise_unless_whole(both, tiny_config())
    weight = file.tensors[QUERY].float()
    expected = weight + 0.25 * one.delta(QUERY, weight) - other.delta(QUERY, weight)
    torch.testing.assert_close(both.tensors[QUERY].float(), expected, rtol=2e-3, atol=2e-3)
    assert both.tensors[TEXT].dtype == file.tensors[TEXT].dtype
    assert not torch.equal(both.tensors[TEXT], file.tensors[TEXT])


def test_the_digests_of_changed_parts_include_adapter_and_strength(file: CheckpointFile) -> None:
    plain = digests(file)
    adapter = low_rank(QUERY)
    ways = [(adapter, 1.0), (adapter, 0.5), (low_rank(QUERY, seed=1), 1.0)]
    unets = {digests(merged(file, *way))["unet"] for way in ways} | {plain["unet"]}
    assert len(unets) == 4
    assert digests(merged(file, adapter)) == {**plain, "unet": digests(merged(file, adapter, 1))["unet"]}
    both = digests(merged(file, low_rank(QUERY, TEXT)))
    assert [part for part in PARTS if both[part] != plain[part]] == ["unet", "text_encoder"]
    twice = merged(merged(file, adapter), adapter)
    assert digests(twice)["unet"] not in unets
    assert checkpoint_info(twice).class_name == "can"


def test_a_file_of_another_program_gets_digests_too(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path)
    torch.save(dict(read_checkpoint(path).tensors), tmp_path / "other.ckpt")
    file = read_checkpoint(tmp_path / "other.ckpt")
    changed = digests(merged(file, low_rank(QUERY)))
    assert {part for part in PARTS if changed[part] != digests(file)[part]} == {"unet"}


def test_the_slot_takes_a_merged_checkpoint_and_the_plain_one_again(tmp_path: Path) -> None:
    file = read_checkpoint(write_tiny_checkpoint(tmp_path))
    settings = settings_of(file, None)[1]
    slot = ModelSlot(Compute(torch.device("cpu")))
    plain = slot.use(file, settings).unet.state_dict()[QUERY.removeprefix(PARTS["unet"])].clone()
    text = next(slot.use(file, settings).text_encoder.parameters())
    changed = slot.use(merged(file, low_rank(QUERY)), settings).state_dict()[QUERY].clone()
    assert not torch.equal(changed, plain)
    assert torch.equal(slot.use(file, settings).state_dict()[QUERY], plain)
    assert next(slot.use(file, settings).text_encoder.parameters()) is text


def test_shapes_are_compared_without_computing_a_weight_and_each_part_is_merged(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = low_rank(QUERY, TEXT)
    model = build_tiny_model()
    computed: list[str] = []
    delta = LowRank.delta
    monkeypatch.setattr(LowRank, "delta", lambda self, key, weight: computed.append(key) or delta(self, key, weight))
    both = merged(file, adapter)
    raise_unless_whole(both, tiny_config())
    assert not computed
    load_part(model.text_encoder, "text_encoder", both)
    assert computed == [TEXT]
    assert torch.equal(model.state_dict()[TEXT], both.tensors[TEXT].float())


def test_reading_into_memory_computes_no_merged_weight_before_it_is_looked_up(
    file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of several adapters, one over the other; the numbers stay the same."""
    both = merged(merged(file, low_rank(QUERY, TEXT, seed=1)), low_rank(QUERY, seed=2), 0.5)
    expected = {key: both.tensors[key] for key in (QUERY, TEXT)}
    computed: list[str] = []
    delta = LowRank.delta
    monkeypatch.setattr(LowRank, "delta", lambda self, key, weight: computed.append(key) or delta(self, key, weight))
    read = both.in_memory((PARTS["unet"],))
    assert not computed
    assert {key for key in file.tensors if read.tensors[key].data_ptr() % ALIGNMENT} <= {
        key for key in file.tensors if not key.startswith(PARTS["unet"])
    }
    computed.clear()
    assert torch.equal(read.tensors[TEXT], expected[TEXT])
    assert computed == [TEXT]
    assert torch.equal(read.tensors[QUERY], expected[QUERY])
    assert computed == [TEXT, QUERY, QUERY]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (low_rank("model.diffusion_model.none.weight"), "which has no model.diffusion_model.none.weight"),
        (low_rank(QUERY, width=60), rf"in which {QUERY} has shape \(64, 64\)"),
    ],
)
def test_an_adapter_for_another_model_is_refused(adapter: LowRank, words: str, file: CheckpointFile) -> None:
    with pytest.raises(UserError, match=rf"my-lora\.safetensors does not fit .*tiny\.safetensors, {words}"):
        merged(file, adapter)
