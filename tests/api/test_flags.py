"""Keyword arguments mean what the flags of the same name mean, and mistakes name the keyword."""

from pathlib import Path
from typing import Any

import pytest

from ldm.api.flags import parse_keywords
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.sampling import txt2img_parser
from ldm.errors import UserError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": "a cat"}, ["-p", "a cat"]),
        ({"prompts": ["a cat", "-a dog", "a=b"]}, ["-p", "a cat", "--prompt=-a dog", "-p", "a=b"]),
        ({"negative_prompt": ""}, ["-n", ""]),
        ({"hw": 64}, ["--hw", "64"]),
        ({"hw": (64, 96)}, ["--hw", "64", "96"]),
        ({"steps": 7, "eta": 0.5, "scale": -1e-05}, ["--ddim-steps", "7", "--ddim-eta", "0.5", "--scale=-1e-05"]),
        ({"score": True, "no_base": False}, ["--score"]),
        ({"ckpt_path": Path("ckpts"), "device": None}, ["-c", "ckpts"]),
    ],
)
def test_a_keyword_is_its_flag(given: dict[str, Any], words: list[str]) -> None:
    options, flags = parse_keywords(txt2img_parser(), given)
    assert options == txt2img_parser().parse_args(words) == txt2img_parser().parse_args(flags)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train_text_encoder": True, "flip": False}, ["-t", "--no-flip"]),
        ({"gradient_checkpointing": True}, ["--gradient-checkpointing"]),
        ({"gradient_checkpointing": "attention"}, ["--gradient-checkpointing", "attention"]),
        ({"gb": 2, "preview_prompt": "a {class}"}, ["--gb", "2", "--preview-prompt", "a {class}"]),
        ({"generation_batch_size": 2, "preview_prompts": ["a", "b"]}, ["--gb", "2", "--preview-prompt", "a", "b"]),
    ],
)
def test_switches_levels_and_every_name_of_a_flag(given: dict[str, Any], words: list[str]) -> None:
    assert parse_keywords(dreambooth_parser(), given)[0] == dreambooth_parser().parse_args(words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stepz": 3}, "there is no option 'stepz'; did you mean 'steps'?"),
        ({"quite_another": 3}, "there is no option 'quite_another'"),
        ({"steps": 0}, "steps should be a whole number from 1 to 1000, not '0'"),
        ({"steps": True}, "steps should be text, a number or a path, not True"),
        ({"steps": 3, "ddim_steps": 3}, "steps and ddim_steps are the same option: leave one out"),
        ({"sampler": "none"}, "sampler invalid choice: 'none'"),
        ({"negative_prompt": ["a"]}, "negative_prompt should be text, a number or a path, not ['a']"),
        ({"prompts": []}, "prompts is empty: give at least one value, or leave it out"),
        ({"score": "yes"}, "score should be True or False, not 'yes'"),
        ({"base": "a.safetensors", "no_base": True}, "no_base not allowed with argument --base"),
    ],
)
def test_a_mistake_is_the_users_error_and_names_the_keyword(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_keywords(txt2img_parser(), given)
    assert str(error.value).startswith(message)
