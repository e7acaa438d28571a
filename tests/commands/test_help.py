"""`--help` and usage: every flag, the real defaults of both models, no torch, and short errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ldm import choices
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth.config import config_from
from ldm.commands.dreambooth.plan import used_options
from ldm.commands.options.defaults import as_text
from ldm.commands.options.recorded import PARSERS
from ldm.commands.options.resumable import flag_of
from ldm.commands.options.train import STAGE_FLAGS
from ldm.commands.sampling.job import sampling_from
from ldm.config import build_config, read_yaml
from ldm.files import ROOT
from ldm.runtime.models import DEFAULT_CONFIG, EMBEDDED, Settings, settings_of
from tests.commands.calls import call
from tests.commands.test_options import FLAGS

FIXED = ("seed", "variations", "strength", "precision", "compile", "save_dtype", "logger", "vram", "devices", "device")
"""Flags whose default is no model's."""


def help_of(script: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The help's text of each flag, in one line."""
    monkeypatch.setenv("COLUMNS", "9999")
    parts = re.split(r"\n  (?=-)", PARSERS[script]().format_help())[1:]
    texts = {}
    for part in parts:
        typed, text = re.split(r"\s{2,}", part.partition("\n\n")[0], maxsplit=1)
        texts[re.findall(r"--[a-z][\w-]*", typed)[0]] = " ".join(text.split())
    return texts


def used_without_flags(script: str, settings: Settings) -> dict[str, object]:
    """What a run on this model uses if no flag is given, by flag."""
    options = PARSERS[script]().parse_args([])
    own = settings.sampling
    sampling = sampling_from(options, own, own.height, own.width)
    used: dict[str, object] = {
        "--hw": [sampling.height, sampling.width],
        "--sampler": sampling.sampler,
        "--ddim-steps": sampling.num_steps,
        "--scale": sampling.guidance_scale,
        "--ddim-eta": sampling.eta,
        "--spacing": sampling.spacing,
        "--guidance-rescale": sampling.guidance_rescale,
    }
    if script != "dreambooth.py":
        return {**used, "--batch-size": own.batch_size, "--prompt": own.prompt}
    options.instance_img_dir = Path()
    config = config_from(options, settings.dreambooth, sampling)
    recorded = vars(used_options(options, config, sampling, Path(), "full"))
    elsewhere = {"class_name", "instance_img_dir", "resume_dir", "ckpt_path", "config", "drop_resume_state"}
    elsewhere |= {"class_img_dir", "prompt_templates", "embedding", "initial_words"}
    names = [name for name, value in vars(options).items() if value is None and name not in elsewhere]
    flags = {name: flag_of(name) for name in names}
    used |= {flags[name]: recorded[name] for name in names if name != "generation_batch_size"}
    return {**used, "--generation-batch-size": own.batch_size}


@pytest.fixture(scope="module")
def models() -> list[Settings]:
    """Stable Diffusion's and the embedded tiny model's."""
    return [build_config(Settings, read_yaml(DEFAULT_CONFIG), "sd"), settings_of(read_checkpoint(EMBEDDED), None)[1]]


@pytest.mark.parametrize("script", ["dreambooth.py", "txt2img.py", "img2img.py", "evaluate.py"])
def test_help_shows_what_a_run_without_the_flag_uses(
    script: str, models: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of(script, monkeypatch)
    sd, tiny = (used_without_flags(script, settings) for settings in models)
    if script == "evaluate.py":
        del sd["--prompt"]  # the protocol's
        sd["--encoder"], tiny["--encoder"] = (settings.evaluation.encoder for settings in models)
    for flag, value in sd.items():
        texts = [as_text(value), as_text(tiny[flag])]
        both = texts[0] if texts[0] == texts[1] else f"{texts[0]}; tiny model {texts[1]}"
        words = r"(default: |else |of ddim |of a base model )"
        assert re.search(rf"{words}{re.escape(both)}(, of the others 1)?$", shown[flag]), (flag, shown[flag])


def test_help_of_train_shows_the_recipes_of_the_tiny_model(
    models: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of("train.py", monkeypatch)
    for name in ("iterations", "save_every", "learning_rate", "batch_size"):
        stages = {stage: getattr(models[1], f"{stage}_training") for stage in ("autoencoder", "diffusion", "judge")}
        text = ", ".join(f"{stage} {as_text(getattr(config, name))}" for stage, config in stages.items())
        assert shown[f"--{name.replace('_', '-')}"].endswith(f"configs/tiny.yaml: {text}")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "2e-4"), (1.5e-3, "0.0015"), (4.0, "4"), (True, "on"), ([512, 64], "512 64"), (["a b", "c"], '"a b" c')],
)
def test_a_value_is_shown_as_it_is_typed(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("script", PARSERS)
def test_help_names_exactly_these_flags_and_imports_no_torch(script: str, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / script), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0
    positional = {"train.py": f"{{{','.join(STAGE_FLAGS)}}} ", "convert.py": "IN OUT "}.get(script, "")
    assert process.stdout.startswith(f"usage: {script} {positional}[options]\n\n")
    described = re.split(r"\nexamples?:|\nthe stages", process.stdout.partition("\noptions:")[2])[0]
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", described))
    assert flags - {"-h", "--help"} == set(FLAGS[script.removesuffix(".py")])
    imported = set(re.findall(r"\|\s+([\w.]+)$", process.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert not {"torch", "numpy", "transformers", "pytorch_lightning", "yaml"} & imported


def test_a_wrong_flag_prints_one_line_of_usage_and_the_error() -> None:
    outcome = call("dreambooth", "--hw", "0", "-c", "a can")
    assert outcome.status == 2
    assert outcome.said == (
        "usage: dreambooth.py [options]\n"
        "error: argument --hw: should be a whole number from 1 to 100000, not '0'\n"
        "see python dreambooth.py --help\n"
    )


def test_typed_words_can_not_forge_lines() -> None:
    output = call("txt2img", "--sampler", "a\nerror: all fine").said
    assert len(output.splitlines()) == 3 and "\\n" in output


def test_flags_choose_from_the_tables_of_choices() -> None:
    tables = [table for table in vars(choices).values() if isinstance(table, dict | tuple)]
    for script, parser in PARSERS.items():
        for action in parser()._actions:
            if action.option_strings and action.choices is not None:
                assert any(action.choices is table for table in tables), (script, action.dest)


def test_fixed_defaults_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for script, parser in PARSERS.items():
        shown = help_of(script, monkeypatch)
        for action in parser()._actions:
            if isinstance(action.default, str | int | float) and action.nargs != 0 and action.dest in FIXED:
                assert f"default: {action.default}" in shown[action.option_strings[-1]], (script, action.dest)


@pytest.mark.parametrize("flag", ["--iteration", "--iterationss"])
def test_a_flag_is_not_guessed(flag: str) -> None:
    outcome = call("dreambooth", "-c", "can", "-i", ROOT / "data" / "bottle", flag, "1")
    assert outcome.status == 2
    assert f"error: unrecognized arguments: {flag} 1" in outcome.said
