"""One interface, two encoders."""

from pathlib import Path

import pytest
import torch

import ldm.evaluation.clip_dino as clip_dino
from ldm.choices import ENCODERS
from ldm.data.photos import read_directory
from ldm.errors import UserError
from ldm.evaluation.clip_dino import CLIP_DINO, DIRECTORY
from ldm.evaluation.encoders import TOYWORLD_JUDGE, ImageEncoder, load_encoder
from ldm.evaluation.scores import SCORES
from ldm.files import ROOT
from ldm.toyworld.judge.encoder import load_evaluator
from tests.evaluation.networks import write_networks

CPU = torch.device("cpu")


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageEncoder:
    load = clip_dino.load_clip_dino
    monkeypatch.setattr(clip_dino, "load_clip_dino", lambda device: load(device, write_networks(tmp_path)))
    return load_encoder(request.param, CPU)


def test_each_has_its_name_and_gives_unit_vectors(encoder: ImageEncoder) -> None:
    assert encoder.name in ENCODERS
    images = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1
    captions = encoder.embed_captions(["a photo of a bottle", "a photo of a duck", "a ball"])
    shown, things = encoder.embed_images(images), encoder.embed_subjects(images)
    assert (len(shown), len(things), len(captions)) == (2, 2, 3)
    assert shown.shape[1] == captions.shape[1]
    for vectors in (captions, shown, things):
        assert vectors.dtype == torch.float32
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)


def test_each_names_the_embedding_of_each_score(encoder: ImageEncoder) -> None:
    assert encoder.spaces.keys() == {one.space for one in SCORES if one.space}
    for one in SCORES:
        explanation = one.described(encoder.spaces).explanation
        assert explanation.startswith(one.score.explanation)
        assert one.space is None or encoder.spaces[one.space] in explanation
        assert not any(name in one.score.explanation for name in ("DINO", "CLIP"))


def test_unknown_words_and_unfamiliar_photos(encoder: ImageEncoder) -> None:
    noise = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    limited = encoder.name == TOYWORLD_JUDGE
    assert encoder.unknown_words("a red ball and a corgi") == (["corgi"] if limited else [])
    assert encoder.is_familiar(noise) is not limited
    assert encoder.is_familiar(read_directory(ROOT / "data" / "bottle", 64, 64)[1])


def test_the_judges_embeddings_are_those_of_its_own_loader() -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(load_encoder(TOYWORLD_JUDGE, CPU).embed_images(images), load_evaluator(CPU).embed_images(images))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no encoder 'dino'; there are: toyworld-judge, clip-dino"):
        load_encoder("dino", CPU)


def test_without_the_downloaded_weights_the_error_names_their_script() -> None:
    if DIRECTORY.exists():
        pytest.skip("they are there")
    with pytest.raises(UserError, match=r"bash download/eval-weights\.sh"):
        load_encoder(CLIP_DINO, CPU)


def test_no_images_give_no_vectors_of_the_right_width(encoder: ImageEncoder) -> None:
    nothing, something = torch.empty(0, 3, 50, 70), torch.zeros(1, 3, 50, 70)
    for embed in (encoder.embed_subjects, encoder.embed_images):
        assert embed(nothing).shape == (0, embed(something).shape[1])
    assert encoder.embed_captions([]).shape == (0, encoder.embed_captions(["a ball"]).shape[1])
