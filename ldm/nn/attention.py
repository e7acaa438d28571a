"""Attention for the UNet: within the image, and from the image to the prompt.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), section 3.3 and appendix E.2.1.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.nn.layers import conv1x1, group_norm, zero_init

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of the heads, (b heads m c/heads) each."""


class CrossAttention(nn.Module):
    """Multi-head attention from `x` (b n c) to `context` (b m d), or to `x` itself without one -> (b n c).

    Instead of a context it takes the result of `project`.
    """

    def __init__(self, query_dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_dim, query_dim, bias=False)
        self.to_k = nn.Linear(context_dim, query_dim, bias=False)
        self.to_v = nn.Linear(context_dim, query_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(query_dim, query_dim))

    def forward(self, x: Tensor, context: Tensor | KeysValues | None = None) -> Tensor:
        q = self._heads(self.to_q(x))
        k, v = context if isinstance(context, tuple) else self.project(x if context is None else context)
        # softmax(q k^T / sqrt(d)) v
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b heads n d -> b n (heads d)"))

    def project(self, context: Tensor) -> KeysValues:
        """The keys and values of a context (b m d), to be computed once for a context that stays the same."""
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

    def _heads(self, projected: Tensor) -> Tensor:
        return rearrange(projected, "b n (heads d) -> b heads n d", heads=self.num_heads)


class GEGLU(nn.Module):
    """A gated linear unit with GELU as its gate (arXiv 2002.05202, eq. 5): (b n c) -> (b n out)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """The transformer's per-token network, four times wider inside: (b n c) -> (b n c)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; each behind a LayerNorm and around a residual."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, num_heads)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Treats a feature map as a sequence of pixels: (b c h w), context (b m d) -> (b c h w).

    Instead of a context it takes the result of `project_context`.
    """

    def __init__(self, channels: int, context_dim: int, num_heads: int, depth: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, 1e-6, num_groups)
        self.proj_in = conv1x1(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, context_dim, num_heads) for _ in range(depth)
        )
        self.proj_out = zero_init(conv1x1(channels, channels))

    def forward(self, x: Tensor, context: Tensor | tuple[KeysValues, ...]) -> Tensor:
        h = self.proj_in(self.norm(x))
        tokens = rearrange(h, "b c h w -> b (h w) c")
        for index, block in enumerate(self.transformer_blocks):
            tokens = block(tokens, context[index] if isinstance(context, tuple) else context)
        h = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2], w=x.shape[3])
        return x + self.proj_out(h)

    def project_context(self, context: Tensor) -> tuple[KeysValues, ...]:
        """The keys and values of a context (b m d), a pair per transformer block."""
        blocks = (block for block in self.transformer_blocks if isinstance(block, BasicTransformerBlock))
        return tuple(block.attn2.project(context) for block in blocks)
