"""Files of textual inversions, of any program: A1111's, diffusers', kohya's and ours.

All layouts hold the vectors of one word for one text encoder: {"string_to_param": {"*": tensor}} (A1111),
{"<token>": tensor} (diffusers), {"emb_params": tensor} (kohya, and what is written here).
"""

import json
import re
from dataclasses import replace

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.learned_words import Embedding, from_text
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import PREFIX
from ldm.checkpoint.reading import CheckpointFile
from ldm.checkpoint.saving import hash_file
from ldm.checkpoint.torch_zip import LEARNED
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError

VECTORS = "emb_params"
"""The name of the one tensor in files that are written here: every reader takes it."""
TOKEN_KEY = f"{PREFIX}token"
"""In our metadata, as JSON: the word that the vectors stand for."""
XL = ("clip_l", "clip_g")
"""Names of the vectors for Stable Diffusion XL's two text encoders."""
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}
"""Models by the length of a vector."""
WEIGHTS = (".weight", ".bias", ".alpha")
"""Endings of the names of a network's tensors, which no word has."""
LONGEST_TOKEN = 200
MOST_TENSORS = 8
"""Of such a file; it is more than any program writes."""


def is_embedding(file: CheckpointFile) -> bool:
    """Whether a file is a textual inversion's: by its names, or because a short word names its only tensor."""
    keys = [*file.index]
    if any(key.startswith((f"{LEARNED}.", VECTORS)) or key in XL for key in keys):
        return len(keys) <= MOST_TENSORS
    if len(keys) > 1 or keys[0].startswith(tuple(PARTS.values())) or keys[0].endswith(WEIGHTS):
        return False
    tensor = file.index[keys[0]]
    return tensor.ndim in (1, 2) and tensor.is_floating_point() and len(keys[0]) <= LONGEST_TOKEN


def read_embedding(file: CheckpointFile, token: str = "") -> Embedding:
    """The word in a file and its vectors, in memory.

    `token`: the word; by default the one that the file names, else the file's name without its suffix, as in A1111.
    Raises `UserError` if it is no textual inversion, or one of a model with several text encoders.
    """
    if not is_embedding(file):
        raise UserError(f"{file.path} is no embedding: it holds {len(file.index):,} tensors, not the vectors of a word")
    if any(key in XL for key in file.index):
        raise UserError(f"{file.path} is an embedding of Stable Diffusion XL, which has two text encoders")
    if len(file.index) > 1:
        raise UserError(f"{file.path} holds the vectors of {len(file.index)} words; one is read")
    (key, stored), *_ = file.tensors.items()
    vectors = stored[None] if stored.ndim == 1 else stored
    if vectors.ndim != 2 or not vectors.numel() or not vectors.is_floating_point():
        raise UserError(f"{file.path} should hold vectors (n d), not a tensor of the shape {tuple(stored.shape)}")
    if not vectors.float().isfinite().all():
        raise UserError(f"{file.path} is damaged: a number in it is not finite")
    word = _checked(file, token or _own_token(file, key))
    return Embedding(file.path, word, vectors.clone(), hash_file(file.path)[:12])


def _own_token(file: CheckpointFile, key: str) -> str:
    try:
        own = json.loads(file.metadata.get(TOKEN_KEY, '""'))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {str(error)[:200]}") from error
    named = "" if key == VECTORS or key.startswith(f"{LEARNED}.") else key
    return (own if isinstance(own, str) else "") or named or file.path.stem


def _checked(file: CheckpointFile, token: str) -> str:
    if not 0 < len(token) <= LONGEST_TOKEN or token != token.strip() or re.search(r"[\x00-\x1f\x7f]", token):
        raise UserError(f"{file.path} stands for the word {token[:60]!r}, which no prompt holds: name it FILE:TOKEN")
    return token


def raise_unless_fitting(embedding: Embedding, model: LatentDiffusionConfig) -> None:
    """Raises `UserError` if the vectors aren't for this model's text encoder, or are more than a prompt holds."""
    count, width = embedding.vectors.shape
    text = model.text_encoder
    if width != text.hidden_size:
        kind = f", as those of {WIDTHS[width]}" if width in WIDTHS else ""
        raise UserError(
            f"{embedding.path} is an embedding of another model: its vectors have {width} numbers{kind}, and the "
            f"text encoder takes {text.hidden_size}"
        )
    if count > (most := text.max_position_embeddings - 2):
        raise UserError(f"{embedding.path} has {count} vectors, and a prompt has room for {most}")


def with_embeddings(
    file: CheckpointFile, embeddings: tuple[Embedding, ...], model: LatentDiffusionConfig
) -> CheckpointFile:
    """A whole model whose text encoder gets these words, and those that it was trained with.

    Raises `UserError` for one that doesn't fit it.
    """
    known = {one.digest for one in embeddings}
    own = [one for one in from_text(checkpoint_info(file).words, file.path) if one.digest not in known]
    embeddings = (*own, *embeddings)
    for one in embeddings:
        raise_unless_fitting(one, model)
    return replace(file, embeddings=embeddings) if embeddings else file
