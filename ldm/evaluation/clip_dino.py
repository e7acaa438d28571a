"""DINO ViT-S/16 and CLIP ViT-B/32: the two networks that the DreamBooth paper (2208.12242, section 4) measures with.

Both are read from folders in the Hugging Face Hub's layout, as `download/eval-weights.sh` fetches them. Nothing in them
is executed, nothing is fetched, and every weight must come from the file: transformers alone would go on with random
ones.
"""

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
from ldm.evaluation.preprocessing import Preprocessing, read_json, read_preprocessing
from ldm.files import ROOT
from ldm.nn.memory import in_batches
from ldm.nn.tokenizer import FILES as TOKENIZER_FILES
from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer

CLIP_DINO = "clip-dino"
DIRECTORY = ROOT / "weights" / "eval"
DINO, CLIP = "dino-vits16", "clip-vit-base-patch32"
"""The folders in it."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that is there; the second is read without executing what is in it, too."""
TOLERATED = re.compile(r"(.+\.)?position_ids|(vit\.)?pooler\..+")
"""Keys that files may have beyond those that are needed: 0, 1, 2, ...; a layer that only classifiers use."""
AT_A_TIME = 32


class ClipDino:
    """Looks at images (b 3 h w) in [-1, 1] of any size; results are unit vectors, float32, on the CPU."""

    name = CLIP_DINO
    title = "DINO ViT-S/16 and CLIP ViT-B/32"
    measures = {  # noqa: RUF012 (read only)
        "subject": "DINO",
        "image": "CLIP-I",
        "prompt": "CLIP-T",
        "diversity": "CLIP-I",
        "leakage": "DINO; the paper's PRES",
        "drift": "CLIP-I",
    }

    def __init__(
        self,
        dino: Any,
        dino_preprocessing: Preprocessing,
        clip: Any,
        clip_preprocessing: Preprocessing,
        tokenizer: PromptTokenizer,
        device: torch.device,
    ) -> None:
        self.dino, self.clip = (network.to(device).eval().requires_grad_(False) for network in (dino, clip))
        self.dino_preprocessing, self.clip_preprocessing = dino_preprocessing, clip_preprocessing
        self.tokenizer = tokenizer
        self.device = device

    def unknown_words(self, caption: str) -> list[str]:
        """None: both were trained on the web's images."""
        return []

    def is_familiar(self, images: Tensor) -> bool:
        """Whatever they show."""
        return True

    def embed_subjects(self, images: Tensor) -> Tensor:
        """DINO's class token after the last layer (b 384): which thing it is."""
        return self._each(images, lambda part: self.dino(self.dino_preprocessing(part)).last_hidden_state[:, 0])

    def embed_images(self, images: Tensor) -> Tensor:
        """CLIP's projected image (b 512): what the whole image shows."""

        def look(part: Tensor) -> Tensor:
            seen = self.clip.vision_model(pixel_values=self.clip_preprocessing(part))
            return self.clip.visual_projection(seen.pooler_output)

        return self._each(images, look)

    def embed_captions(self, captions: list[str]) -> Tensor:
        """CLIP's projected text (c 512), near fitting images; a warning quotes what didn't fit into 77 tokens."""

        def read(ids: Tensor) -> Tensor:
            return self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)

        return self._each(self.tokenizer(captions), read)

    @torch.inference_mode()
    def _each(self, inputs: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        found = in_batches(inputs, AT_A_TIME, lambda part: embed(part.to(self.device)))
        return F.normalize(found.float(), dim=-1).cpu()


def load_clip_dino(device: torch.device, directory: Path = DIRECTORY) -> ClipDino:
    """Reads both networks. Raises `UserError` if a file is missing, damaged or another network's."""
    dino, clip = directory / DINO, directory / CLIP
    for folder, names in ((dino, ()), (clip, TOKENIZER_FILES)):
        _raise_if_missing(folder, ("config.json", "preprocessor_config.json", *names))
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    clip_network = _load(CLIPModel, CLIPConfig, clip)
    return ClipDino(
        _load(ViTModel, ViTConfig, dino, add_pooling_layer=False),
        read_preprocessing(dino / "preprocessor_config.json", one_number_is_a_square=True),
        clip_network,
        read_preprocessing(clip / "preprocessor_config.json", one_number_is_a_square=False),
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
    values = read_json(folder / "config.json")
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
