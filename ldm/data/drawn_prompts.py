"""Prompts that are drawn anew for each photo and step: from several templates, with the photo's caption or without."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

CAPTION = "{caption}"
"""What a template has in place of the photo's caption."""
BEFORE_CAPTION = re.compile(r"\s*[,;:.]?\s*\{caption\}")


@dataclass(frozen=True)
class DrawnPrompts:
    """All prompts of a run, and which of them a photo may have."""

    texts: tuple[str, ...]
    """Each prompt once; the first is that of class images."""
    captioned: tuple[tuple[tuple[int, ...], ...], ...]
    """captioned[photo][template]: indices of the prompts with each of the photo's captions."""
    bare: tuple[int, ...]
    """bare[template]: index of the prompt without a caption."""
    dropout: float
    """Share of captions that are left out."""

    def draw(self, photo: int, generator: torch.Generator) -> int:
        """The index of a prompt for a photo. As many numbers are drawn whatever they are."""
        numbers = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        template = int(numbers[0] * len(self.bare))
        choices = self.captioned[photo][template]
        if not choices or numbers[1] < self.dropout:
            return self.bare[template]
        return choices[int(numbers[2] * len(choices))]


def drawn_prompts(
    templates: Sequence[str], captions: Sequence[Sequence[str]], class_prompt: str, dropout: float
) -> DrawnPrompts:
    """The prompts of photos with these captions, which may be none, by `templates` in which the class is filled in."""
    places: dict[str, int] = {class_prompt: 0}

    def place(text: str) -> int:
        return places.setdefault(text, len(places))

    captioned = tuple(
        tuple(
            tuple(place(template.replace(CAPTION, one)) for one in some) if CAPTION in template else ()
            for template in templates
        )
        for some in captions
    )
    bare = tuple(place(without_caption(template)) for template in templates)
    return DrawnPrompts(tuple(places), captioned, bare, dropout)


def without_caption(template: str) -> str:
    """A template without its caption and the comma before it: "sks can" of "sks can, {caption}"."""
    return BEFORE_CAPTION.sub("", template).strip(" ,;:")
