"""The judge's network: classifies images, and compares them with captions and with each other.

Images and captions share one embedding space ("Learning Transferable Visual Models From Natural Language Supervision",
arXiv 2103.00020, figure 3). In another one, photos of the same thing are near each other whatever its surroundings ("A
Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709, figure 2).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.bounds import LARGEST_WIDTH, check_length, check_list, check_range
from ldm.nn.layers import conv1x1, conv3x3

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""CLIP's (2103.00020, section 2.5) factor of the cosines of images and captions."""


@dataclass(frozen=True)
class Head:
    """One question about an image and its possible answers."""

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        check_length("labels", self.labels, 1000)
        # The names of its methods would be overwritten in the module that holds the heads.
        if not self.name.isidentifier() or len(self.name) > 60 or hasattr(nn.ModuleDict, self.name):
            raise ValueError(f"a head should have a plain name, not {self.name!r:.60}")


@dataclass(frozen=True)
class JudgeConfig:
    """The judge's heads and shape."""

    heads: tuple[Head, ...]
    size: int = 64
    """Pixels on a side of its images."""
    vocab_size: int = 1024
    """The last entry is the end of text, which also pads."""
    max_length: int = 32
    """Tokens of a caption."""
    widths: tuple[int, ...] = (32, 64, 128, 160)
    """Channels at a half, a quarter, an eighth and a sixteenth of the image's size."""
    depths: tuple[int, ...] = (0, 2, 2, 1)
    """Residual blocks at each."""
    place_width: int = 48
    """Channels of each place at the smallest scale."""
    embedding_dim: int = 128
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4

    def __post_init__(self) -> None:
        check_list(self, 8, 1, LARGEST_WIDTH, "widths")
        check_list(self, 8, 0, 64, "depths")
        check_range(self, 1, 1024, "size")
        check_range(self, 1, LARGEST_WIDTH, "vocab_size", "place_width", "embedding_dim", "text_width", "text_heads")
        check_range(self, 2, 4096, "max_length")
        check_range(self, 1, 64, "text_layers")
        if self.text_width % self.text_heads:
            raise ValueError(f"text_width should be a multiple of text_heads: {self.text_width}, {self.text_heads}")
        if len(self.widths) != len(self.depths):
            raise ValueError("widths and depths should be of one length")
        if self.size % 2 ** len(self.widths):
            raise ValueError(f"size should be a multiple of {2 ** len(self.widths)}")
        check_length("heads", self.heads, 64)
        if len({head.name for head in self.heads}) < len(self.heads):
            raise ValueError("heads should have different names")

    @property
    def least_tensors(self) -> int:
        """The least number of tensors of a judge of this shape, known without building it."""
        return 14 * sum(self.depths) + 12 * self.text_layers + 2 * len(self.heads)


@dataclass(frozen=True)
class Opinion:
    """The judge's outputs for images."""

    logits: dict[str, Tensor]
    """By head: (b labels)."""
    image: Tensor
    """Unit vectors (b d) in the space of captions."""
    subject: Tensor
    """Unit vectors (b d) in the space of things."""


class Judge(nn.Module):
    """`judge(images (b 3 size size) in [-1, 1]) -> Opinion`."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        features = config.widths[-1]
        self.image_network = ImageNetwork(config)
        self.text_network = TextNetwork(config)
        self.heads = nn.ModuleDict({head.name: nn.Linear(features, len(head.labels)) for head in config.heads})
        self.image_projection = nn.Linear(features, config.embedding_dim, bias=False)
        self.text_projection = nn.Linear(config.text_width, config.embedding_dim, bias=False)
        self.subject_projection = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, config.embedding_dim, bias=False)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def forward(self, images: Tensor) -> Opinion:
        features = self.image_network(images)
        return Opinion(
            logits={name: head(features).float() for name, head in self.heads.items()},
            image=_unit(self.image_projection(features)),
            subject=_unit(self.subject_projection(features)),
        )

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (b d) of images (b 3 h w), to be compared with captions."""
        return self(images).image

    def embed_captions(self, input_ids: Tensor) -> Tensor:
        """Unit vectors (b d) of captions (b max_length) int64, to be compared with images."""
        return _unit(self.text_projection(self.text_network(input_ids)))

    def embed_subjects(self, images: Tensor) -> Tensor:
        """Unit vectors (b d) of the things in images (b 3 h w), to be compared with each other."""
        return self(images).subject

    def scale(self) -> Tensor:
        """The factor that turns cosines of images and captions into logits."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)


class ImageNetwork(nn.Module):
    """A residual network with its activations before the convolutions: (b 3 size size) -> (b features).

    Its last layer keeps the places in the image: it learns to tell shapes apart several times sooner than from a mean
    over the image, and with batch normalisation sooner than with group normalisation.
    """

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        widths, last = config.widths, config.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], kernel_size=4, stride=2, padding=1)]
        for stage, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            if stage > 0:
                before = widths[stage - 1]
                layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, width, kernel_size=2, stride=2)]
            layers.extend(ResidualBlock(width) for _ in range(depth))
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(last), nn.ReLU(), conv1x1(last, config.place_width))
        self.features = nn.Linear(config.place_width * (config.size // 2 ** len(widths)) ** 2, last)

    def forward(self, images: Tensor) -> Tensor:
        places = F.relu(self.layers(images))
        return F.relu(self.features(rearrange(places, "b c h w -> b (c h w)")))


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))): (b c h w) -> (b c h w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv3x3(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TextNetwork(nn.Module):
    """A transformer whose outputs are averaged over the words: (b n) int64 -> (b text_width)."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        width = config.text_width
        self.end_of_text = config.vocab_size - 1
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.zeros(config.max_length, width))
        # Small, so that a token that is in no training caption, such as that of a made-up word, has little effect.
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        layer = nn.TransformerEncoderLayer(
            width, config.text_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.text_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor) -> Tensor:
        padding = (input_ids == self.end_of_text).cumsum(dim=1) > 1  # the first end of text belongs to the text
        longest = int((~padding).sum(dim=1).max())
        input_ids, padding = input_ids[:, :longest], padding[:, :longest]
        hidden = self.tokens(input_ids) + self.positions[:longest]
        hidden = self.norm(self.transformer(hidden, src_key_padding_mask=padding))
        words = (~padding)[..., None].to(hidden)
        return (hidden * words).sum(dim=1) / words.sum(dim=1)


def _unit(vectors: Tensor) -> Tensor:
    """The vectors at length 1, in float32."""
    return F.normalize(vectors.float(), dim=-1)
