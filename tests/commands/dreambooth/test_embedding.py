"""dreambooth.py --train embedding: vectors of "sks" are trained, saved as small files, resumed, and compared."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.checkpoint.embedding import read_embedding
from ldm.checkpoint.embedding_saving import embedding_writer
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.config import read_yaml
from tests.commands.calls import call, equal, info_of, metadata_of, pixels, refused, tensors_of
from tests.commands.dreambooth.fine_tuning import FineTune, Plan, interrupted
from tests.commands.fixtures import Sample
from tests.report.tables import table_of

EMBEDDING = ("--train", "embedding", "--vectors", 2, "--class-img-count", 0)
SHORT = ("--iterations", 4, "-s", 2, "--save-dtype", "fp32")


@pytest.mark.slow
def test_a_run_saves_small_files_that_a_comparison_reads_and_a_resumed_one_the_same_bits(
    fine_tune: FineTune, txt2img: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fine_tune.__class__(fine_tune.root.parent / "whole", fine_tune.subject_dir, fine_tune.checkpoint)(
        *EMBEDDING, *SHORT, "--no-previews")  # fmt: skip
    file = whole.step(4)
    assert {key: tensor.shape for key, tensor in tensors_of(file).items()} == {"emb_params": (2, 32)}
    assert file.stat().st_size < 12_000
    assert (info_of(file).class_name, info_of(file).step) == ("can", 4)
    assert not [name for name in metadata_of(file) if name.startswith("modelspec")], "the tiny model is not SD v1"
    assert read_embedding(read_checkpoint(file)).token == "sks"
    assert read_yaml(whole.directory / "report.yaml")["relative_movement"]["embedding"] > 0
    assert not (whole.root / "class-images").exists()
    stopped = interrupted(fine_tune, monkeypatch, 4, *EMBEDDING, *SHORT, "--no-previews")
    assert call("dreambooth", "-r", stopped).status == 0
    for step in (2, 4):
        assert equal(whole.step(step), stopped / whole.step(step).name)
    assert not torch.equal(*(tensors_of(whole.step(step))["emb_params"] for step in (2, 4)))


@pytest.mark.slow
def test_the_comparison_samples_what_the_previews_show(fine_tune: FineTune, txt2img: Sample) -> None:
    trained = fine_tune(*EMBEDDING, "--save-dtype", "fp32", "--learning-rate", 1.0)
    sampled = txt2img("-c", trained.directory, "-p", "a photo of sks {class}", "-v", 1)
    assert [row.label for row in table_of(sampled).rows] == ["base model", "step 2"]
    previews = [pixels(trained.directory / f"samples/pictures/step-0000{step}_00.png") for step in (0, 2)]
    images = [pixels(next(sampled.directory.glob(f"*{name}*.png"))) for name in ("base-can", "step-2")]
    # The untrained vectors are the class's: "a photo of can can" of the base model.
    assert np.abs(images[1] - previews[1]).max() <= 1
    assert np.abs(previews[1] - previews[0]).max() > 10


def test_only_the_vectors_are_trained_and_every_step_encodes_them(plan: Plan) -> None:
    module = plan(*EMBEDDING, "--initial-words", "ab").module
    (vectors,) = module.trained_parameters()
    table = module.ldm.text_encoder.embeddings.token_embedding.weight
    ids = module.ldm.tokenizer.token_ids("ab") if module.ldm.tokenizer else []
    assert torch.equal(vectors.data, table[ids])
    assert module.config.class_img_count == 0
    (group,) = module.build_optimizer().param_groups
    assert group["lr"] == pytest.approx(25 * 1e-3)
    assert list(module.trained_parts()) == ["embedding"]


@pytest.mark.slow
def test_fixed_networks_are_in_half_precision_where_arithmetic_is(plan: Plan) -> None:
    module = plan(*EMBEDDING, "--precision", "bf16-mixed").module
    for network in (module.ldm.unet, module.ldm.text_encoder.transformer["text_model"].encoder):
        assert {one.dtype for one in network.parameters() if one.ndim > 1} == {torch.bfloat16}
    assert {one.dtype for one in module.trained_parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--vectors", 2], "--vectors is for textual inversion: add --train embedding"),
        ([*EMBEDDING, "-t"], "--train embedding keeps all networks as they are: leave out -t"),
        ([*EMBEDDING, "--lora", 2], "leave out --lora"),
        ([*EMBEDDING, "--embedding", "x.pt"], "leave out --embedding"),
        (["--embedding", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--train", "embedding", "--class-img-count", 2], "class images have no effect on an embedding"),
        ([*EMBEDDING, "--vectors", 70], "--vectors 70: with so many 'a photo of sks can' is longer"),
        ([*EMBEDDING, "--train-dtype", "bf16"], "--train-dtype should be fp32 with train embedding"),
    ],
)
def test_flags_that_do_not_go_together(fine_tune: FineTune, flags: list[object], words: str) -> None:
    refused(fine_tune.call(*flags), words)
    assert not fine_tune.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("--lora", 2), ()], ids=["lora", "whole"])
def test_a_training_that_begins_with_it_carries_it_in_its_checkpoints(
    kind: tuple[object, ...], fine_tune: FineTune, txt2img: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file of the embedding may be gone: the record and the checkpoints have its vectors."""
    pivot = tmp_path / "pivot.safetensors"
    embedding_writer(pivot, torch.randn(2, 32), "sks", CheckpointInfo(), torch.float32, {})()
    flags = (*kind, "--embedding", pivot, "--class-img-count", 2, "--save-dtype", "fp32", "--learning-rate", 1e-3)
    stopped = interrupted(fine_tune, monkeypatch, 4, *flags, "--iterations", 4, "-s", 2)
    pivot.unlink()
    resumed = call("dreambooth", "-r", stopped)
    assert resumed.status == 0, resumed.said
    assert [*info_of(stopped / "step-00004.safetensors").words] == ["sks"]
    assert str(tmp_path) not in str(info_of(stopped / "step-00004.safetensors").options)
    sampled = txt2img("-c", stopped / "step-00004.safetensors", "-p", "a photo of sks can", "-v", 1)
    preview = pixels(stopped / "samples/pictures/step-00004_00.png")
    assert np.abs(pixels(sampled.paths[0]) - preview).max() <= 1
    if kind:
        merged = txt2img("--lora", stopped / "step-00004.safetensors", "-p", "a photo of sks can", "-v", 1)
        assert np.array_equal(merged.images[0], sampled.images[0])
    plain = txt2img("-c", fine_tune.checkpoint, "-p", "a photo of sks can", "-v", 1)
    assert np.abs(pixels(plain.paths[0]) - pixels(stopped / "samples/pictures/step-00000_00.png")).max() > 3
