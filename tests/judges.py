"""A judge of random weights that is small enough to train within a second, and images to train it on."""

import json
from pathlib import Path

import torch
from PIL import Image

from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer
from ldm.toyworld import CLASSES, SETTINGS
from ldm.toyworld.judge.data import HEADS
from ldm.toyworld.judge.network import Judge, JudgeConfig
from ldm.toyworld.words import COLOURS, PATTERNS
from tests.tiny import write_tokenizer

SIZE = 16
VIEWS = 3
TINY_JUDGE = JudgeConfig(
    HEADS,
    size=SIZE,
    vocab_size=514,
    max_length=32,
    widths=(8, 16),
    depths=(0, 1),
    place_width=4,
    embedding_dim=8,
    text_width=16,
    text_layers=1,
)


def build_tiny_judge(seed: int = 0) -> Judge:
    """For images of 16 x 16."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(seed)
        return Judge(TINY_JUDGE)


class MeanColours:
    """A judge to whom things of the same mean colour are the same."""

    def subject_similarity(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(images.mean((2, 3))[:, None], others.mean((2, 3))[None], dim=-1)


def of_colours(*colours: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 8, 8)


def judge_tokenizer(directory: Path) -> PromptTokenizer:
    """Each byte is a token."""
    return load_tokenizer(write_tokenizer(directory), TINY_JUDGE.max_length)


def write_things(directory: Path, things: int = 4, views: int = VIEWS) -> Path:
    """Images of one colour each, with captions and columns; odd things are unusual."""
    directory.mkdir(parents=True)
    lines = []
    for index in range(things * views):
        thing, view = divmod(index, views)
        shown = {"class": list(CLASSES)[thing % 12], "setting": list(SETTINGS)[view % 12]}
        if thing % 2:
            shown |= {"pattern": "spiral"}
        else:
            shown |= {"pattern": list(PATTERNS)[thing % 4], "colour": list(COLOURS)[thing % 11]}
        if views > 1:
            shown |= {"subject": thing}
        name = f"{index:03d}.png"
        Image.new("RGB", (SIZE, SIZE), (20 + 60 * thing % 200, 80 * view, 128)).save(directory / name)
        lines.append(json.dumps({"file_name": name, "text": [f"thing {thing}", f"thing {thing} view {view}"], **shown}))
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
