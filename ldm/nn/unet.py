"""The denoising UNet: noisy latents, a timestep and the prompt's context in; the predicted noise out.

Topology of "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), which takes its residual
blocks from "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233). The attribute paths are the official
keys below `model.diffusion_model.`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.bounds import LARGEST_WIDTH, check_list, check_range
from ldm.nn.attention import KeysValues, SpatialTransformer
from ldm.nn.layers import Upsample, conv1x1, conv3x3, group_norm, timestep_embedding, zero_init

ProjectedContext = tuple[tuple[KeysValues, ...], ...]
"""Keys and values of a context in each stage, from the first input block to the last output block."""


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the UNet; the defaults are Stable Diffusion v1's. `attention_resolutions` are downsampling factors."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_res_blocks: int = 2
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_heads: int = 8
    transformer_depth: int = 1
    context_dim: int = 768
    num_groups: int = 32
    """The groups of every group normalisation."""

    def __post_init__(self) -> None:
        check_range(self, 1, LARGEST_WIDTH, "in_channels", "out_channels", "model_channels", "context_dim")
        check_range(self, 1, LARGEST_WIDTH, "num_heads", "num_groups")
        check_range(self, 1, 32, "num_res_blocks", "transformer_depth")
        check_list(self, 8, 1, 64, "channel_mult")
        if self.attention_resolutions:
            check_list(self, 16, 1, 2**16, "attention_resolutions")
        width, groups, heads = self.model_channels, self.num_groups, self.num_heads
        if width % groups:
            raise ValueError(f"model_channels should be a multiple of num_groups: {width} channels, {groups} groups")
        attentive = {level for level in range(len(self.channel_mult)) if 2**level in self.attention_resolutions}
        for level in sorted(attentive | {len(self.channel_mult) - 1}):
            if self.channel_mult[level] * width % heads:
                raise ValueError(
                    f"the channels of level {level}, {self.channel_mult[level]} * model_channels, should be a multiple "
                    f"of num_heads: {self.channel_mult[level] * width} channels, {heads} heads"
                )

    @property
    def least_tensors(self) -> int:
        """A lower bound of how many tensors a UNet of this shape has, known without building it."""
        levels, blocks = len(self.channel_mult), 2 * self.num_res_blocks + 1
        attentive = sum(2**level in self.attention_resolutions for level in range(levels))
        return 10 * (levels * blocks + 2) + (6 + 20 * self.transformer_depth) * (attentive * blocks + 1)

    @property
    def size_multiple(self) -> int:
        """Height and width of the latents must be multiples of this: one halving per level but the first."""
        return 2 ** (len(self.channel_mult) - 1)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding is added between: (b c h w), (b e) -> (b out h w)."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm(channels, 1e-5, num_groups), nn.SiLU(), conv3x3(channels, out_channels)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels, 1e-5, num_groups),
            nn.SiLU(),
            nn.Identity(),
            zero_init(conv3x3(out_channels, out_channels)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else conv1x1(channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """A strided convolution, padded on both sides: (b c h w) -> (b c h/2 w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Stage(nn.Sequential):
    """Layers in sequence; each gets the time embedding or the context if it needs one."""

    recomputed: tuple[type[nn.Module], ...] = ()
    """Kinds of layers that the backward pass recomputes instead of keeping their activations."""

    def forward(  # type: ignore[override]
        self, x: Tensor, emb: Tensor, context: Tensor | tuple[KeysValues, ...]
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = self._run(layer, x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = self._run(layer, x, context)
            else:
                x = layer(x)
        return x

    def project_context(self, context: Tensor) -> tuple[KeysValues, ...]:
        """The keys and values of a context (b m d); none if this stage has no cross-attention."""
        transformers = (layer for layer in self if isinstance(layer, SpatialTransformer))
        return tuple(pair for one in transformers for pair in one.project_context(context))

    def _run(self, layer: nn.Module, x: Tensor, condition: Tensor | tuple[KeysValues, ...]) -> Tensor:
        if isinstance(layer, self.recomputed) and torch.is_grad_enabled():
            # No layer is random, and a CUDA graph can't be captured while the random state is read.
            return checkpoint(layer, x, condition, use_reentrant=False, preserve_rng_state=False)
        return layer(x, condition)


CHECKPOINTING: dict[str, tuple[type[nn.Module], ...]] = {
    "none": (),
    "attention": (SpatialTransformer,),
    "all": (SpatialTransformer, ResBlock),
}
"""Levels of gradient checkpointing (arXiv 1604.06174): less memory for activations, more time."""


class UNet(nn.Module):
    """`unet(latents (b 4 h w), timesteps (b,), context (b m d)) -> eps (b 4 h w)`.

    `config.in_channels` and `out_channels` may differ from 4. Height and width are multiples of `config.size_multiple`.
    Calls that share a context may take `project_context(context)` instead: the same result with less work.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, emb_dim, depth = config.model_channels, 4 * config.model_channels, len(config.channel_mult)
        self.time_embed = nn.Sequential(nn.Linear(width, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

        def stage(in_channels: int, channels: int, level: int, resample: nn.Module | None = None) -> Stage:
            layers: list[nn.Module] = [res_block(in_channels, channels)]
            if 2**level in config.attention_resolutions:
                layers.append(transformer(channels))
            return Stage(*layers, *([resample] if resample else []))

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels, config.context_dim, config.num_heads, config.transformer_depth, config.num_groups
            )

        def res_block(in_channels: int, channels: int) -> ResBlock:
            return ResBlock(in_channels, emb_dim, channels, config.num_groups)

        channels = width
        self.input_blocks = nn.ModuleList([Stage(conv3x3(config.in_channels, width))])
        skips = [channels]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(stage(channels, channels := mult * width, level))
                skips.append(channels)
            if level < depth - 1:
                self.input_blocks.append(Stage(Downsample(channels)))
                skips.append(channels)

        self.middle_block = Stage(res_block(channels, channels), transformer(channels), res_block(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                upsample = Upsample(mult * width) if level and index == config.num_res_blocks else None
                self.output_blocks.append(stage(channels + skips.pop(), channels := mult * width, level, upsample))

        self.out = nn.Sequential(
            group_norm(channels, 1e-5, config.num_groups), nn.SiLU(), zero_init(conv3x3(channels, config.out_channels))
        )

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor | ProjectedContext) -> Tensor:
        emb = timestep_embedding(timesteps, self.config.model_channels)
        emb = self.time_embed(emb.to(self.dtype))

        stages = len(self.input_blocks) + 1 + len(self.output_blocks)
        contexts = iter(context if isinstance(context, tuple) else (context,) * stages)
        h, skips = latents, []
        for block in self.input_blocks:
            h = block(h, emb, next(contexts))
            skips.append(h)
        h = self.middle_block(h, emb, next(contexts))
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)  # its own statement: frees h and the skip before the block runs
            h = block(h, emb, next(contexts))
        return self.out(h)

    def project_context(self, context: Tensor) -> ProjectedContext:
        """Everything that the UNet computes from a context (b m d) alone, for any number of calls with this context."""
        stages = [*self.input_blocks, self.middle_block, *self.output_blocks]
        return tuple(stage.project_context(context) for stage in stages)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def set_gradient_checkpointing(self, level: str) -> None:
        """Sets the level of gradient checkpointing, one of `CHECKPOINTING`. Results don't change."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.recomputed = CHECKPOINTING[level]
