"""The paper's two networks, small and random, in the Hub's layout."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ViTModel

import ldm.evaluation.clip_dino as clip_dino
from ldm.data.images import to_tensor
from ldm.errors import UserError
from ldm.evaluation.clip_dino import CLIP, DINO, ClipDino, load_clip_dino, prepared
from tests.evaluation.networks import CLIP_PREPROCESSING, SIZE, write_networks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def networks(original: Path) -> ClipDino:
    return load_clip_dino(CPU, original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    return Path(shutil.copytree(original, tmp_path / "eval"))


def random_images(count: int) -> Tensor:
    return torch.rand(count, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embeddings_are_those_of_transformers(networks: ClipDino, original: Path) -> None:
    images = random_images(3)
    with torch.inference_mode():
        dino = ViTModel.from_pretrained(original / DINO, add_pooling_layer=False)
        subjects = dino(prepared(networks.dino_processor, images)).last_hidden_state[:, 0]
        clip = CLIPModel.from_pretrained(original / CLIP)
        captions = ["a dog", "a photo of a dog in the snow"]
        tokens = CLIPTokenizer.from_pretrained(original / CLIP)(captions, padding=True, return_tensors="pt")
        both = clip(**tokens, pixel_values=prepared(networks.clip_processor, images))
    assert torch.allclose(networks.embed_subjects(images), F.normalize(subjects, dim=-1), atol=1e-5)
    assert torch.allclose(networks.embed_images(images), F.normalize(both.image_embeds, dim=-1), atol=1e-5)
    assert torch.allclose(networks.embed_captions(captions), F.normalize(both.text_embeds, dim=-1), atol=1e-5)
    assert (networks.embed_captions(captions) @ networks.embed_captions(captions).mT)[0, 1] < 0.999


def test_results_are_unit_vectors_on_the_cpu_whatever_the_type(networks: ClipDino) -> None:
    for images in (random_images(2), random_images(2).half(), random_images(2).double()):
        for vectors in (networks.embed_subjects(images), networks.embed_images(images)):
            assert vectors.dtype == torch.float32 and vectors.device == CPU
            assert torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_many_images_are_embedded_in_parts(networks: ClipDino, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = networks.embed_images(random_images(5)), networks.embed_subjects(random_images(5))
    monkeypatch.setattr(clip_dino, "AT_A_TIME", 2)
    assert torch.allclose(networks.embed_images(random_images(5)), whole[0], atol=1e-5)
    assert torch.allclose(networks.embed_subjects(random_images(5)), whole[1], atol=1e-5)


def test_a_caption_that_is_too_long_is_cut_with_a_warning(networks: ClipDino, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vectors = networks.embed_captions(["a dog " * 50])
    assert vectors.shape == (1, 8)
    assert "longer than 77 tokens" in caplog.text


def test_a_pickle_is_read_where_there_is_no_safetensors_file(folder: Path, networks: ClipDino) -> None:
    for name in (DINO, CLIP):
        tensors = load_file(folder / name / "model.safetensors")
        torch.save(tensors, folder / name / "pytorch_model.bin")
        (folder / name / "model.safetensors").unlink()
    again = load_clip_dino(CPU, folder)
    assert torch.equal(again.embed_subjects(random_images(2)), networks.embed_subjects(random_images(2)))
    assert torch.equal(again.embed_images(random_images(2)), networks.embed_images(random_images(2)))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/never"),)  # type: ignore[return-value]


def test_nothing_in_a_pickle_is_executed(folder: Path) -> None:
    (folder / DINO / "model.safetensors").unlink()
    torch.save({"embeddings.cls_token": Trap()}, folder / DINO / "pytorch_model.bin")
    with pytest.raises(UserError, match="could run code"):
        load_clip_dino(CPU, folder)


def test_half_precision_weights_are_used_in_full_precision(folder: Path, networks: ClipDino) -> None:
    path = folder / DINO / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    vectors = load_clip_dino(CPU, folder).embed_subjects(random_images(2))
    assert torch.allclose(vectors, networks.embed_subjects(random_images(2)), atol=1e-2)


def test_a_pooler_and_position_ids_are_ignored(folder: Path, networks: ClipDino) -> None:
    for name, extra in ((DINO, "pooler.dense.weight"), (CLIP, "text_model.embeddings.position_ids")):
        path = folder / name / "model.safetensors"
        save_file(load_file(path) | {extra: torch.zeros(16, 16)}, path)
    again = load_clip_dino(CPU, folder)
    assert torch.equal(again.embed_subjects(random_images(1)), networks.embed_subjects(random_images(1)))


@pytest.mark.parametrize(
    "missing", ["", CLIP, f"{DINO}/config.json", f"{DINO}/preprocessor_config.json", f"{CLIP}/vocab.json"]
)
def test_a_missing_file_is_named_with_the_command_that_downloads_it(folder: Path, missing: str) -> None:
    path = folder / missing
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(UserError, match=r"bash download/eval-weights\.sh") as error:
        load_clip_dino(CPU, folder)
    assert (path.name if path.suffix else missing) in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (CLIP, lambda tensors: tensors.pop(sorted(tensors)[3]), "1 missing"),
        (DINO, lambda tensors: tensors.update({"encoder.layer.7.junk": torch.zeros(1)}), "unexpected"),
        (DINO, lambda tensors: tensors.update({"layernorm.weight": torch.zeros(3)}), "does not hold the weights that"),
    ],
    ids=["missing", "unexpected", "of another shape"],
)
def test_other_weights_are_an_error(
    folder: Path, name: str, change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    path = folder / name / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(UserError, match=words):
        load_clip_dino(CPU, folder)


def test_a_network_in_the_other_ones_folder_is_an_error(folder: Path) -> None:
    shutil.copy(folder / CLIP / "config.json", folder / DINO / "config.json")
    with pytest.raises(UserError, match="'clip', not of a 'vit'"):
        load_clip_dino(CPU, folder)


@pytest.mark.parametrize("change", [{"hidden_size": "wide"}, {"num_attention_heads": 3}, {"patch_size": 0}])
def test_an_impossible_shape_is_an_error(folder: Path, change: dict[str, object]) -> None:
    path = folder / DINO / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="does not hold the weights that"):
        load_clip_dino(CPU, folder)


def photo_like(height: int, width: int) -> Image.Image:
    """Soft blobs with noise on them, as a photo has; some values are at the ends of the range."""
    generator = np.random.default_rng(height * 1000 + width)
    blobs = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    soft = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((soft + generator.integers(-25, 26, soft.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("shape", [(64, 64), (32, 32), (300, 451), (100, 33), (31, 30)])
def test_images_are_prepared_as_their_processor_prepares_files(networks: ClipDino, shape: tuple[int, int]) -> None:
    image = photo_like(*shape)
    images = torch.stack([to_tensor(image), to_tensor(image).flip(-1)])
    for processor in (networks.dino_processor, networks.clip_processor):
        pixels = prepared(processor, images)
        assert pixels.dtype == torch.float32 and pixels.shape == (2, 3, SIZE, SIZE)
        assert torch.equal(pixels[:1], processor(image, return_tensors="pt")["pixel_values"])
        assert torch.equal(pixels[1:], prepared(processor, images[1:].double()))
    squeezed, cropped = prepared(networks.dino_processor, images), prepared(networks.clip_processor, images)
    assert torch.allclose(squeezed * 0.229, cropped * 0.268, atol=0.1) is (shape[0] == shape[1])


def test_sizes_by_name_are_those_by_number(folder: Path, networks: ClipDino) -> None:
    newer = CLIP_PREPROCESSING | {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    (folder / CLIP / "preprocessor_config.json").write_text(json.dumps(newer))
    again = load_clip_dino(CPU, folder)
    assert torch.equal(again.embed_images(random_images(2)), networks.embed_images(random_images(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "'do_resize' should be true"),
        ({"resample": 77}, "can't be used"),
        ({"size": 10**9}, "from 1 to 4096"),
        ({"size": "large"}, "can't be used"),
        ({"crop_size": SIZE - 1}, "does not make images of 32 x 32"),
        ({"do_center_crop": False}, "does not make images of 32 x 32"),
        ({"image_std": [1, 1, 0]}, "can't be used"),
        ({"image_mean": [0.5, 0.5]}, "can't be used"),
    ],
)
def test_other_preprocessing_is_an_error(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / CLIP / "preprocessor_config.json"
    path.write_text(json.dumps(CLIP_PREPROCESSING | change))
    with pytest.raises(UserError, match=rf"{CLIP}/preprocessor_config\.json.*{message}"):
        load_clip_dino(CPU, folder)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_without_a_json_object_is_an_error(folder: Path, content: bytes) -> None:
    (folder / CLIP / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"preprocessor_config\.json can't be read as JSON"):
        load_clip_dino(CPU, folder)
