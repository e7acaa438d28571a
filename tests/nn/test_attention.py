"""Attention and the transformer block: the plain formulae."""

import math

import pytest
import torch
from torch import Tensor

from ldm.nn.attention import GEGLU, BasicTransformerBlock, CrossAttention, FeedForward, SpatialTransformer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_attention(attention: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, one image and one head at a time."""
    q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
    width = q.shape[-1] // attention.num_heads
    images = []
    for i in range(len(x)):
        heads = []
        for head in range(attention.num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[i, :, part] @ k[i, :, part].T / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            heads.append(weights @ v[i, :, part])
        images.append(torch.cat(heads, dim=1))
    return attention.to_out(torch.stack(images))


@pytest.mark.parametrize("num_heads", [1, 2, 6])
@pytest.mark.parametrize(("queries", "keys"), [(5, 9), (9, 5), (1, 1), (6, 1)])
def test_cross_attention_is_the_plain_softmax_formula(num_heads: int, queries: int, keys: int) -> None:
    attention = CrossAttention(12, 7, num_heads).double()
    x, context = noise(2, queries, 12), noise(2, keys, 7, seed=1)
    torch.testing.assert_close(attention(x, context), plain_attention(attention, x, context))


def test_a_context_projected_beforehand_changes_no_bit_and_projects_nothing_again() -> None:
    attention = CrossAttention(12, 7, 3)
    x, context = noise(2, 5, 12).float(), noise(2, 9, 7, seed=1).float()
    expected, projected = attention(x, context), attention.project(context)
    attention.to_k = attention.to_v = None  # type: ignore[assignment]
    assert torch.equal(attention(x, projected), expected)


def test_without_a_context_attention_reads_its_own_input() -> None:
    attention = CrossAttention(12, 12, 3).double()
    x = noise(2, 5, 12)
    torch.testing.assert_close(attention(x), plain_attention(attention, x, x))


def test_cross_attention_is_independent_of_the_order_of_the_context() -> None:
    attention = CrossAttention(12, 7, 3).double()
    x, context = noise(2, 5, 12), noise(2, 9, 7, seed=1)
    torch.testing.assert_close(attention(x, context.flip(1)), attention(x, context))


def test_geglu_gates_its_first_half_with_the_exact_gelu_of_its_second() -> None:
    layer = GEGLU(3, 4).double()
    x = noise(2, 5, 3)
    value, gate = layer.proj(x)[..., :4], layer.proj(x)[..., 4:]
    gelu = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    torch.testing.assert_close(layer(x), value * gelu)


def test_feed_forward_is_four_times_wider_inside_and_works_token_by_token() -> None:
    layer = FeedForward(8).double()
    x = noise(2, 5, 8)
    assert layer.net[2].weight.shape == (8, 32)
    torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))


def test_transformer_block_normalises_before_each_part_and_adds_its_input_after() -> None:
    block = BasicTransformerBlock(8, 6, 2).double()
    for index, norm in enumerate((block.norm1, block.norm2, block.norm3)):
        norm.weight.data = 1 + 0.1 * noise(8, seed=index)
    x, context = noise(2, 5, 8), noise(2, 4, 6, seed=1)
    one = x + block.attn1(block.norm1(x))
    two = one + block.attn2(block.norm2(one), context)
    torch.testing.assert_close(block(x, context), two + block.ff(block.norm3(two)))


def test_a_new_spatial_transformer_is_the_identity() -> None:
    x, context = noise(2, 32, 4, 6), noise(2, 3, 8, seed=1)
    assert torch.equal(SpatialTransformer(32, 8, 4, depth=2).double()(x, context), x)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_spatial_transformer_takes_the_keys_and_values_of_each_of_its_blocks(depth: int) -> None:
    transformer = SpatialTransformer(32, 8, 4, depth).double()
    torch.nn.init.normal_(transformer.proj_out.weight, generator=torch.Generator().manual_seed(2))
    x, context = noise(2, 32, 4, 6), noise(2, 3, 8, seed=1)
    projected = transformer.project_context(context)
    assert [[tuple(one.shape) for one in pair] for pair in projected] == [[(2, 4, 3, 8)] * 2] * depth
    assert torch.equal(transformer(x, projected), transformer(x, context))


@pytest.mark.parametrize("depth", [1, 2])
def test_spatial_transformer_moves_with_its_pixels(depth: int) -> None:
    transformer = SpatialTransformer(32, 8, 4, depth).double()
    torch.nn.init.normal_(transformer.proj_out.weight, generator=torch.Generator().manual_seed(2))
    x, context = noise(2, 32, 4, 6), noise(2, 3, 8, seed=1)
    out = transformer(x, context)
    assert len(transformer.transformer_blocks) == depth
    assert (out - x).abs().max() > 0.1
    torch.testing.assert_close(transformer(x.flip(3), context), out.flip(3))
    torch.testing.assert_close(transformer(x.transpose(2, 3), context), out.transpose(2, 3))
