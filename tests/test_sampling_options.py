"""The table of sampling options: complete, and each name is one that its place knows."""

from dataclasses import fields

from ldm.commands.options.sampling import txt2img_parser
from ldm.diffusion.sampling import SamplingConfig
from ldm.sampling_options import SAMPLING_OPTIONS


def test_every_sampling_option_but_the_size_is_in_the_table_with_a_flag() -> None:
    names = {field.name for field in fields(SamplingConfig)} - {"height", "width"}
    assert {option.field for option in SAMPLING_OPTIONS} == names
    assert {option.flag for option in SAMPLING_OPTIONS} <= set(vars(txt2img_parser().parse_args([])))
