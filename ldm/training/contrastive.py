"""Losses that pull together what belongs together and push apart all else in a batch. Embeddings have length 1."""

import torch
import torch.nn.functional as F
from torch import Tensor


def caption_loss(images: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Images (b d) and their captions (b d), each to be picked out of b by the other (2103.00020, figure 3)."""
    logits = scale * images @ captions.mT
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def pair_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Two photographs (p d) each of p things, each to be picked out of the 2p - 1 others by its twin.

    NT-Xent (2002.05709, eq. 1).
    """
    embeddings = torch.cat([first, second])
    similarity = embeddings @ embeddings.mT / temperature
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    twin = torch.arange(len(embeddings), device=embeddings.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), twin)
