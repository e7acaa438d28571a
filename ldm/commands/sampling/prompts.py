"""The prompts of a call: files of prompts and alternatives become columns; how prompts are read."""

import argparse
import logging
from pathlib import Path

from ldm.commands.options.common import MOST_IMAGES
from ldm.diffusion.prompt_encoding import PromptReading
from ldm.errors import UserError
from ldm.nn.text_encoder import TextEncoderConfig
from ldm.prompt_syntax import alternatives, count_alternatives, parse_prompt, unbalanced_brackets
from ldm.prompts import prompt_fault
from ldm.user_files import read_text

log = logging.getLogger(__name__)

MOST_BYTES = 10_000_000
"""Size of a file of prompts, at most."""
LARGEST_WEIGHT = 100.0
"""Of words in a prompt."""


def with_all_prompts(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the prompts of files (`-p @prompts.txt`), and one for each choice of alternatives."""
    if not options.prompt:
        return options
    prompts = [prompt for text in options.prompt for prompt in _from_file(text)]
    has_syntax = options.prompt_syntax != "plain"
    count = sum(map(count_alternatives, prompts)) if has_syntax else len(prompts)
    if count > MOST_IMAGES:
        shown = f"{count:,}" if count < 10**12 else "over 10^12"
        raise UserError(f"--prompt: {shown} prompts are more than the {MOST_IMAGES:,} images of one call")
    if has_syntax:
        prompts = [one for prompt in prompts for one in alternatives(prompt)]
        for prompt in (*prompts, options.negative_prompt):
            _refuse_extreme_weights(prompt)
            if brackets := unbalanced_brackets(prompt):
                log.warning(
                    "--prompt: '%s' has brackets without a partner: %s. One that is never closed reaches to the end, "
                    "one that closes nothing is text, and \\( and \\[ are always text",
                    *(prompt[:60], " ".join(brackets[:10])),
                )
    return argparse.Namespace(**{**vars(options), "prompt": prompts})


def _refuse_extreme_weights(prompt: str) -> None:
    """Raises `UserError` for a weight of words that no image survives."""
    for piece in (piece for chunk in parse_prompt(prompt) for piece in chunk):
        if abs(piece.weight) > LARGEST_WEIGHT:
            raise UserError(
                f"--prompt: '{piece.text[:40]}' has the weight {piece.weight:.3g}; from -{LARGEST_WEIGHT:g} to "
                f"{LARGEST_WEIGHT:g} is possible"
            )


def _from_file(text: str) -> list[str]:
    """The lines of the file after @; blank ones and those that begin with # are left out. Other text is a prompt."""
    path = Path(text[1:])
    if not text.startswith("@") or not (path.suffix == ".txt" or path.is_file()):
        return [text]
    try:
        lines = read_text(path, MOST_BYTES).split("\n")
    except FileNotFoundError:
        raise UserError(f"--prompt {text}: there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--prompt {text}: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    for number, line in found:
        if fault := prompt_fault(line):
            raise UserError(f"{path}, line {number} {fault}")
    if not found:
        raise UserError(f"--prompt {text}: the file has no prompt")
    return [line for _, line in found]


def reading_from(options: argparse.Namespace, encoder: TextEncoderConfig) -> PromptReading:
    """How the flags say that prompts are read. Raises `UserError` if `--clip-skip` leaves no layer."""
    if options.clip_skip > encoder.num_hidden_layers:
        raise UserError(
            f"--clip-skip {options.clip_skip} is more than the text encoder's {encoder.num_hidden_layers} layers"
        )
    return PromptReading(options.prompt_syntax != "plain", options.clip_skip)
