"""The options of sampling and each of their names: one table for flags, records, texts of images and tables.

Height and width are not in it: one flag, `--hw`, sets both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingOption:
    """One option. Its names are in files on disk: do not change them."""

    field: str
    """Its name in `SamplingConfig`, the model's YAML and `comparison.json`."""
    flag: str
    """Its name on the command line (`ddim_steps` is `--ddim-steps`) and in `run.yaml`."""
    column: str
    """Its name in the text of a PNG file and in `pictures.csv`."""


SAMPLING_OPTIONS = (
    SamplingOption("sampler", "sampler", "sampler"),
    SamplingOption("num_steps", "ddim_steps", "steps"),
    SamplingOption("guidance_scale", "scale", "scale"),
    SamplingOption("eta", "ddim_eta", "eta"),
    SamplingOption("spacing", "spacing", "spacing"),
    SamplingOption("guidance_rescale", "guidance_rescale", "guidance_rescale"),
)
