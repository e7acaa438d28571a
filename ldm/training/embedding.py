"""Textual inversion: vectors take the place of the word "sks", and they alone are trained; all networks stay fixed.

"An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (arXiv 2208.01618), eq. 2.
"""

import torch
from torch import Tensor, nn

from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.nn.tokenizer import PromptTokenizer
from ldm.prompts import TOKEN
from ldm.training.dreambooth_config import DreamBoothConfig


def learn_word(ldm: LatentDiffusion, class_name: str, config: DreamBoothConfig) -> Tensor:
    """Gives the model `config.vectors` vectors for the word "sks", which begin as those of the initial words.

    Returns a copy of what they begin as (n d).
    """
    assert ldm.tokenizer is not None, "a model to train has a tokenizer"
    embeddings = ldm.text_encoder.embeddings
    ids = torch.tensor(ldm.tokenizer.token_ids(config.initial_words or class_name))
    known = embeddings.token_embedding.weight.detach()[ids.to(embeddings.token_embedding.weight.device)]
    embeddings.learned = nn.Parameter(spread(known.float(), config.vectors))
    ldm.tokenizer = with_subject(ldm.tokenizer, config, embeddings.token_embedding.num_embeddings)
    return embeddings.learned.detach().clone()


def spread(vectors: Tensor, count: int) -> Tensor:
    """Vectors (k d) as `count` of them (count d): each is the mean of its share of the k, or one of them."""
    size = len(vectors)
    bounds = [(i * size // count, max(i * size // count + 1, (i + 1) * size // count)) for i in range(count)]
    return torch.stack([vectors[start:end].mean(dim=0) for start, end in bounds])


def with_subject(tokenizer: PromptTokenizer, config: DreamBoothConfig, vocab_size: int) -> PromptTokenizer:
    """The tokenizer in which "sks" has the vectors that are trained."""
    return tokenizer.with_words({TOKEN: config.vectors}, vocab_size, "")


def learned_vectors(ldm: LatentDiffusion) -> nn.Parameter:
    """The vectors that `learn_word` has made (n d)."""
    vectors = ldm.text_encoder.embeddings.learned
    assert isinstance(vectors, nn.Parameter)
    return vectors


@torch.no_grad()
def vector_movement(ldm: LatentDiffusion, start: Tensor) -> dict[str, float]:
    """|v - v0| / |v0| (l2 norms over all vectors)."""
    now = learned_vectors(ldm)
    return {"embedding": float((now - start.to(now)).norm() / start.norm())}
