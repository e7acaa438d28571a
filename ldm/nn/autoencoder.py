"""The KL autoencoder between images and latents, eight times smaller on each side in Stable Diffusion v1.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), section 3.1 and appendix G; the
convolutional networks are those of "Taming Transformers" (arXiv 2012.09841). The attribute paths are the official keys
below `first_stage_model.`.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.bounds import LARGEST_WIDTH, check_list, check_range
from ldm.nn.layers import Upsample, conv1x1, conv3x3, group_norm


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder; the defaults are Stable Diffusion v1's."""

    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    num_groups: int = 32
    """The groups of every group normalisation."""

    def __post_init__(self) -> None:
        check_range(self, 1, LARGEST_WIDTH, "in_channels", "out_ch", "ch", "z_channels", "embed_dim", "num_groups")
        check_range(self, 1, 32, "num_res_blocks")
        check_list(self, 8, 1, 64, "ch_mult")
        if self.ch % self.num_groups:
            raise ValueError(f"ch should be a multiple of num_groups: {self.ch} channels, {self.num_groups} groups")

    @property
    def least_tensors(self) -> int:
        """A lower bound of how many tensors an autoencoder of this shape has, known without building it."""
        return 8 * (len(self.ch_mult) * (2 * self.num_res_blocks + 1) + 4)

    @property
    def downsampling_factor(self) -> int:
        """f: pixels per latent on each side."""
        return 2 ** (len(self.ch_mult) - 1)


class DiagonalGaussian:
    """The posterior q(z|x), from `parameters` (b 2c h w): mean and log-variance, the latter clamped to [-30, 20]."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        """Standard deviation (b c h w)."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """z = mean + std * noise (b c h w): the reparametrisation trick (arXiv 1312.6114, section 2.4)."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) in nats, summed per image (b,) (arXiv 1312.6114, appendix B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around a residual: (b in h w) -> (b out h w)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, 1e-6, num_groups)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = group_norm(out_channels, 1e-6, num_groups)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.nin_shortcut = nn.Identity() if in_channels == out_channels else conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Self-attention of one head over all pixels, around a residual: (b c h w) -> (b c h w)."""

    def __init__(self, channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, 1e-6, num_groups)
        self.q = conv1x1(channels, channels)
        self.k = conv1x1(channels, channels)
        self.v = conv1x1(channels, channels)
        self.proj_out = conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c h w -> b 1 (h w) c") for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(out, "b 1 (h w) c -> b c h w", h=x.shape[2], w=x.shape[3]))


class Downsample(nn.Module):
    """A strided convolution, padded on the right and below only: (b c h w) -> (b c h/2 w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class MidBlock(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(self, channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, num_groups)
        self.attn_1 = AttnBlock(channels, num_groups)
        self.block_2 = ResnetBlock(channels, channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The residual blocks of one resolution, then the change to the next resolution, if any."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        num_groups: int,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, num_groups) for a, b in pairwise(widths))
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """Images (b 3 h w) -> features (b 2z h/f w/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.ch] + [config.ch * mult for mult in config.ch_mult]
        last = len(config.ch_mult) - 1
        self.conv_in = conv3x3(config.in_channels, config.ch)
        self.down = nn.ModuleList(
            Level(a, b, config.num_res_blocks, config.num_groups, downsample=Downsample(b) if level < last else None)
            for level, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = MidBlock(widths[-1], config.num_groups)
        self.norm_out = group_norm(widths[-1], 1e-6, config.num_groups)
        self.conv_out = conv3x3(widths[-1], 2 * config.z_channels)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Features (b z h/f w/f) -> images (b 3 h w). `up` counts from the full resolution and is run in reverse."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, blocks = [config.ch * mult for mult in config.ch_mult], config.num_res_blocks + 1
        self.conv_in = conv3x3(config.z_channels, widths[-1])
        self.mid = MidBlock(widths[-1], config.num_groups)
        self.up = nn.ModuleList(
            Level(above, width, blocks, config.num_groups, upsample=Upsample(width) if level > 0 else None)
            for level, (width, above) in enumerate(pairwise([*widths, widths[-1]]))
        )
        self.norm_out = group_norm(widths[0], 1e-6, config.num_groups)
        self.conv_out = conv3x3(widths[0], config.out_ch)

    def forward(self, h: Tensor) -> Tensor:
        h = self.mid(self.conv_in(h))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    """`encode(images) -> posterior`, `decode(latents) -> images`; latents here are unscaled (b z h/f w/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = conv1x1(2 * config.z_channels, 2 * config.embed_dim)
        self.post_quant_conv = conv1x1(config.embed_dim, config.z_channels)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of images (b 3 h w) in [-1, 1]."""
        return DiagonalGaussian(self.quant_conv(self.encoder(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (b 3 h w), nominally in [-1, 1], of unscaled latents."""
        return self.decoder(self.post_quant_conv(latents))
