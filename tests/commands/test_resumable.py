"""Which flags may change in a resumed run: one table for the commands, their errors and docs/resume.md."""

import argparse
from collections.abc import Mapping

import pytest

from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.resumable import DREAMBOOTH, SAMPLING, TRAIN, Change, Rule, as_markdown, flag_of
from ldm.commands.options.sampling import evaluate_parser, img2img_parser, txt2img_parser
from ldm.commands.options.train import train_parser
from ldm.files import ROOT
from tests.commands.calls import call, refused
from tests.commands.fixtures import Trained

TABLES = [
    ([dreambooth_parser()], DREAMBOOTH),
    ([train_parser()], TRAIN),
    ([txt2img_parser(), img2img_parser(), evaluate_parser()], SAMPLING),
]
PAGE = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("parsers", "rules"), TABLES, ids=["dreambooth", "train", "sampling"])
def test_every_flag_has_a_rule_with_a_reason(parsers: list[argparse.ArgumentParser], rules: Mapping[str, Rule]) -> None:
    flags = {action.dest for parser in parsers for action in parser._actions} - {"help"}
    assert flags == rules.keys()
    assert all(rule.why for rule in rules.values())
    typed = {word for parser in parsers for one in parser._actions for word in one.option_strings or [one.dest]}
    assert {flag_of(name) for name in rules} <= typed


@pytest.mark.parametrize("rules", [DREAMBOOTH, TRAIN, SAMPLING])
def test_docs_resume_has_the_table(rules: Mapping[str, Rule]) -> None:
    assert as_markdown(rules) in PAGE


def test_the_error_gives_the_reason(trained: Trained) -> None:
    assert DREAMBOOTH["learning_rate"].change is Change.FIXED
    outcome = call("dreambooth", "-r", trained.directory, "--learning-rate", 1)
    refused(outcome, "--learning-rate can't change in a resumed run", DREAMBOOTH["learning_rate"].why)
