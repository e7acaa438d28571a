"""DINO ViT-S/16 and CLIP ViT-B/32: the two networks that the DreamBooth paper (2208.12242, section 4) measures with.

Both are read from folders in the Hugging Face Hub's layout, which `download/eval-weights.sh` writes. transformers
builds the networks and prepares their images; the files are read here, so that nothing in them is executed, nothing is
downloaded, and every weight comes from the file (transformers alone would fill in random ones).
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.nn.memory import apply_in_batches
from ldm.nn.tokenizer import FILES as TOKENIZER_FILES
from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer

CLIP_DINO = "clip-dino"
DIRECTORY = ROOT / "weights" / "eval"
DINO, CLIP = "dino-vits16", "clip-vit-base-patch32"
"""The folders of the two networks in `DIRECTORY`."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that exists is read; the second is read without executing its pickle, too."""
TOLERATED = re.compile(r"(.+\.)?position_ids|(vit\.)?pooler\..+")
"""Keys that files may hold besides the needed ones: 0, 1, 2, ...; a layer that only classifiers use."""
AT_A_TIME = 32

PREPARATION = ("do_resize", "do_rescale", "do_normalize")
"""Steps of `preprocessor_config.json` that must be on: images come in any size, as 8-bit values."""
LARGEST_RESIZE = 4096
"""Pixels on a side to resize to; a larger number in the file is a fault."""


class ClipDino:
    """An `ImageEncoder` of real photos: float32 unit vectors on the CPU, of images (b 3 h w) in [-1, 1] of any size."""

    name = CLIP_DINO
    title = "DINO ViT-S/16 and CLIP ViT-B/32"
    spaces = {"things": "DINO", "images": "CLIP-I", "captions": "CLIP-T"}  # noqa: RUF012 (read only)

    def __init__(
        self,
        dino: Any,
        dino_processor: Any,
        clip: Any,
        clip_processor: Any,
        tokenizer: PromptTokenizer,
        device: torch.device,
    ) -> None:
        self.dino, self.clip = (network.to(device).eval().requires_grad_(False) for network in (dino, clip))
        self.dino_processor, self.clip_processor = dino_processor, clip_processor
        self.tokenizer = tokenizer
        self.device = device

    def unknown_words(self, caption: str) -> list[str]:
        """None: both were trained on images and texts of the web."""
        return []

    def is_familiar(self, images: Tensor) -> bool:
        """True for all images."""
        return True

    def embed_subjects(self, images: Tensor) -> Tensor:
        """DINO's class token after the last layer (b 384): which thing it is."""

        def embed(part: Tensor) -> Tensor:
            pixels = prepared(self.dino_processor, part).to(self.device)
            return self.dino(pixel_values=pixels).last_hidden_state[:, 0]

        return self._each(images, embed)

    def embed_images(self, images: Tensor) -> Tensor:
        """CLIP's projected image (b 512): what the whole image shows."""

        def embed(part: Tensor) -> Tensor:
            pixels = prepared(self.clip_processor, part).to(self.device)
            return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)

        return self._each(images, embed)

    def embed_captions(self, captions: list[str]) -> Tensor:
        """CLIP's projected text (c 512), near fitting images; a warning quotes what exceeds 77 tokens."""

        def embed(ids: Tensor) -> Tensor:
            return self.clip.text_projection(self.clip.text_model(input_ids=ids.to(self.device)).pooler_output)

        return self._each(self.tokenizer(captions), embed)

    @torch.inference_mode()
    def _each(self, inputs: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        found = apply_in_batches(inputs, AT_A_TIME, embed)
        return F.normalize(found.float(), dim=-1).cpu()


def prepared(processor: Any, images: Tensor) -> Tensor:
    """Images (b 3 h w) in [-1, 1] as the processor's network expects them: (b 3 side side) float32 on the CPU.

    They are rounded to 8 bits first, as if they had been saved and read again.
    """
    levels = ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).cpu()
    found = processor(list(levels), input_data_format="channels_first", return_tensors="pt")
    pixels: Tensor = found["pixel_values"]
    return pixels


def load_clip_dino(device: torch.device, directory: Path = DIRECTORY) -> ClipDino:
    """Reads both networks. Raises `UserError` if a file is missing, damaged or another network's."""
    dino, clip = directory / DINO, directory / CLIP
    for folder, names in ((dino, ()), (clip, TOKENIZER_FILES)):
        _raise_if_missing(folder, ("config.json", "preprocessor_config.json", *names))
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTImageProcessor, ViTModel

    dino_network = _load(ViTModel, ViTConfig, dino, add_pooling_layer=False)
    clip_network = _load(CLIPModel, CLIPConfig, clip)
    return ClipDino(
        dino_network,
        _load_processor(ViTImageProcessor, dino, dino_network.config.image_size),
        clip_network,
        _load_processor(CLIPImageProcessor, clip, clip_network.config.vision_config.image_size),
        load_tokenizer(clip, clip_network.config.text_config.max_position_embeddings),
        device,
    )


def _raise_if_missing(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in WEIGHTS):
        missing.append(WEIGHTS[0])
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}, which scores are made with; run: bash download/eval-weights.sh")
    if missing:
        raise UserError(f"{', '.join(missing)} is missing in {folder}; run: bash download/eval-weights.sh")


def _load(network: Any, config: Any, folder: Path, **options: bool) -> Any:
    """A network of transformers with the folder's weights, each of them checked."""
    values = _read_json(folder / "config.json")
    kind = values.get("model_type")
    if kind != config.model_type:
        raise UserError(f"{folder / 'config.json'} is of a '{kind}', not of a '{config.model_type}'")
    path = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    tensors = read_checkpoint(path).tensors
    try:
        with _quiet():
            loaded, found = network.from_pretrained(
                None,
                config=config.from_dict(values),
                state_dict=tensors,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever a config of impossible sizes or weights of other shapes make it raise
        raise UserError(f"{path} does not hold the weights that {folder / 'config.json'} describes: {error}") from error
    unexpected = [key for key in found["unexpected_keys"] if not TOLERATED.fullmatch(key)]
    for title, keys in (("missing", found["missing_keys"]), ("unexpected", unexpected)):
        if keys:
            shown = ", ".join(sorted(keys)[:4])
            raise UserError(f"{path} does not hold the weights of this network: {len(keys)} {title}, such as {shown}")
    return loaded.float()


def _load_processor(kind: Any, folder: Path, side: int) -> Any:
    """transformers' image processor with the folder's values, tried on one image: it must give side x side pixels."""
    path = folder / "preprocessor_config.json"
    values = _read_json(path)
    for key in PREPARATION:
        if values.get(key, True) is not True:
            raise UserError(f"{path}: '{key}' should be true")
    try:
        with _quiet():
            processor = kind.from_dict(values)
            sizes = [size for key in ("size", "crop_size") for size in _numbers(values.get(key))]
            if not all(1 <= size <= LARGEST_RESIZE for size in sizes):
                raise ValueError(f"a size should be from 1 to {LARGEST_RESIZE}")
            pixels = prepared(processor, torch.zeros(1, 3, side, 2 * side))
        if pixels.shape != (1, 3, side, side) or not pixels.isfinite().all():
            raise ValueError(f"it does not make images of {side} x {side} finite numbers")
    except Exception as error:  # whatever values of other types make the processor raise
        raise UserError(f"{path} can't be used: {type(error).__name__}: {str(error)[:200]}") from error
    return processor


def _numbers(size: Any) -> list[int]:
    """The sides in a size, which is a number or a mapping of names to numbers."""
    sides = size.values() if isinstance(size, dict) else [] if size is None else [size]
    return [int(side) for side in sides]


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `UserError` if it is something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} can't be read as JSON: {str(error)[:200]}") from error
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its table of keys, which are checked here."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
