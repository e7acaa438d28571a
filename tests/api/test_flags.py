"""Keyword arguments mean what the flags of the same name mean, and mistakes name the keyword."""

import logging
from pathlib import Path
from typing import Any

import pytest

from ldm.api.calls import shown_messages
from ldm.api.flags import parsed_keywords
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.sampling import txt2img_parser
from ldm.errors import UserError
from ldm.terminal import Lines
from tests.api.test_calls import forget_logging


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
    with parsed_keywords(txt2img_parser(), given) as (options, flags):
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
    with parsed_keywords(dreambooth_parser(), given) as (options, _):
        assert options == dreambooth_parser().parse_args(words)


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
        ({"base": "a.safetensors", "no_base": True}, "no_base not allowed with argument base"),
    ],
)
def test_a_mistake_is_the_users_error_and_names_the_keyword(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error, parsed_keywords(txt2img_parser(), given):
        pass
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("message", "keywords"),
    [
        ('such as -c "water bottle"', 'such as class_name="water bottle"'),
        ("--no-flip, --vram 10 or --gradient-checkpointing", "flip=False, vram=10 or gradient_checkpointing"),
        ("--generation-batch-size, --preview-prompt", "gb, preview_prompt"),
    ],
)
def test_switches_and_texts_in_messages(message: str, keywords: str) -> None:
    with pytest.raises(UserError) as error, parsed_keywords(dreambooth_parser(), {"gb": 2}):
        raise UserError(message)
    assert str(error.value) == keywords


@pytest.mark.parametrize(
    ("message", "keywords"),
    [
        ("try --precision full", 'try precision="full"'),
        ("--hw 448 320 would fit, or --hw 64", "hw=(448, 320) would fit, or hw=64"),
        ("a smaller --batch-size or --hw needs less", "a smaller batch_size or hw needs less"),
        ("--ddim-eta and --ddim-steps; -p, -b 4", "eta and steps; prompt, batch_size=4"),
        ("(--ckpt-path ckpts/), or --base PATH", '(checkpoint="ckpts/"), or base=PATH'),
        ("--ckpt-path is needed, --seed 5 does", "checkpoint is needed, seed=5 does"),
        ("leave out --no-base", "leave out no_base"),
        ("another call's --vram 10, -q, a-b, /x/-p", "another call's --vram 10, -q, a-b, /x/-p"),
        ("continue with\n  python txt2img.py -r a/b --hw 64", "continue with\n  python txt2img.py -r a/b --hw 64"),
        ("`python txt2img.py -p x`; --seed", "`python txt2img.py -p x`; seed"),
    ],
)
def test_messages_name_keywords_instead_of_flags(
    message: str, keywords: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors and warnings; a command to copy keeps its flags."""
    forget_logging(monkeypatch)
    with (
        pytest.raises(UserError) as error,
        shown_messages(),
        parsed_keywords(txt2img_parser(), {"checkpoint": "ckpts"}, {"checkpoint": "ckpt_path"}),
    ):
        logging.getLogger("ldm.somewhere").warning("%s", Lines(message.split("\n")))
        raise UserError(message)
    assert str(error.value) == keywords
    assert capsys.readouterr().err == f"warning: {keywords}\n"
