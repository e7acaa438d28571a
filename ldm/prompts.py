"""What prompts and class names may contain, from flags, captions or strangers' files."""

import re
from collections.abc import Iterable

from ldm.terminal import visible

TOKEN = "sks"
"""The rare word that stands for the subject, as in "a photo of sks dog" (DreamBooth, section 3.1)."""

INSTANCE_PROMPT, CLASS_PROMPT = f"a photo of {TOKEN} {{class}}", "a photo of a {class}"
"""The prompts of photos and class images, unless others are given."""

MOST_CHARACTERS = 4_000
"""The length of a prompt, at most; a text encoder reads 77 tokens."""
MOST_CLASS_CHARACTERS = 200

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Not allowed in text: control characters except tabs and line breaks, and surrogates."""
ARTICLES = re.compile(rf"(?:(?:a|an|the|{TOKEN})\s+)+", re.IGNORECASE)
"""Words that prompts add before a class name."""


def prompt_fault(text: str) -> str | None:
    """What is wrong with a prompt, for an error message; None if it can be encoded."""
    if len(text) > MOST_CHARACTERS:
        return f"should be at most {MOST_CHARACTERS:,} characters, not {len(text):,}"
    if found := CONTROL.search(text):
        return f"holds {visible(found[0])}, which no text may hold"
    return None


def raise_for_prompts(name: str, prompts: Iterable[str]) -> None:
    """Raises `ValueError` for a prompt of the option `name` that can't be encoded."""
    for prompt in prompts:
        if fault := prompt_fault(prompt):
            raise ValueError(f"{name} {fault}")


def class_name_fault(name: str) -> str | None:
    """What is wrong with a class name, which follows "a photo of a"; None if nothing is."""
    if not name.strip():
        return 'should be a word, such as "can", not empty'
    if len(name) > MOST_CLASS_CHARACTERS:
        return f"should be at most {MOST_CLASS_CHARACTERS} characters, not {len(name):,}"
    if found := re.search(rf"{CONTROL.pattern}|[\t\n\r\x80-\x9f\u2028\u2029]", name):
        return f"should be one line of text, and holds {visible(found[0])}"
    if re.search(rf"\b{TOKEN}\b", name, re.IGNORECASE):
        return f'should not hold "{TOKEN}", which stands for the subject and is added automatically'
    return None


def bare_class_name(words: str) -> str:
    """A class name without the words that prompts add: "water bottle" from "a  water bottle" or "sks water bottle"."""
    words = re.sub(" +", " ", words).strip()
    return words[match.end() :] if (match := ARTICLES.match(words)) else words
