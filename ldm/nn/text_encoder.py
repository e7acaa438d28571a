"""CLIP's text transformer as Stable Diffusion v1 uses it: the hidden states after the final LayerNorm are the context.

"Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020), section 2.4: GPT-2's
transformer (pre-norm, causal) with another activation. Pad tokens are attended to, as in the original. The
attribute paths are the official keys below `cond_stage_model.`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.bounds import LARGEST_WIDTH, check_range


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI's approximation of the GELU (arXiv 1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TextEncoderConfig:
    """Shape of the text transformer; the defaults are CLIP ViT-L/14's."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_range(self, 1, 10_000_000, "vocab_size")
        check_range(self, 1, LARGEST_WIDTH, "hidden_size", "intermediate_size", "num_attention_heads")
        check_range(self, 1, 256, "num_hidden_layers")
        check_range(self, 2, 4096, "max_position_embeddings")
        check_range(self, 0, 1, "layer_norm_eps")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act should be one of {', '.join(ACTIVATIONS)}, not {self.hidden_act!r:.60}")

    @property
    def least_tensors(self) -> int:
        """A lower bound of how many tensors a text encoder of this shape has, known without building it."""
        return 16 * self.num_hidden_layers + 4


class Embeddings(nn.Module):
    """Token ids (b n) -> vectors (b n d): the token's plus the position's."""

    learned: Tensor | None
    """(k d), vectors of the ids from the vocabulary's size on: textual inversion (arXiv 2208.01618)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.register_buffer("learned", None, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.of_tokens(input_ids) + self.position_embedding(positions)

    def of_tokens(self, input_ids: Tensor) -> Tensor:
        """The vectors of the tokens alone."""
        if self.learned is None:
            return self.token_embedding(input_ids)
        size = self.token_embedding.num_embeddings
        is_learned = input_ids >= size
        known = self.token_embedding(input_ids.masked_fill(is_learned, 0))
        learned = F.embedding((input_ids - size).clamp(min=0), self.learned)
        return torch.where(is_learned[..., None], learned.to(known.dtype), known)


class SelfAttention(nn.Module):
    """Causal self-attention: each token attends to itself and earlier ones: (b n d) -> (b n d)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b n (heads d) -> b heads n d", heads=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(rearrange(out, "b heads n d -> b n (heads d)"))


class MLP(nn.Module):
    """Two layers applied to each token: (b n d) -> (b n d)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention and MLP, each around a residual and after a LayerNorm: (b n d) -> (b n d)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextTransformer(nn.Module):
    """Token ids (b n) -> hidden states (b n d), after all layers but the last `skip`."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, skip: int = 0) -> Tensor:
        x = self.embeddings(input_ids)
        layers = [*self.encoder["layers"]]  # type: ignore[misc]
        for layer in layers[: len(layers) - skip]:
            x = layer(x)
        return self.final_layer_norm(x)


class TextEncoder(nn.Module):
    """`text_encoder(input_ids (b 77) int64) -> context (b 77 hidden_size)`; `skip` leaves out the last layers."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({"text_model": TextTransformer(config)})

    @property
    def embeddings(self) -> Embeddings:
        """The first layer."""
        return self.transformer["text_model"].embeddings  # type: ignore[return-value]

    def forward(self, input_ids: Tensor, skip: int = 0) -> Tensor:
        return self.transformer["text_model"](input_ids, skip)
