"""Records of strangers: an option that no command line takes is an error before anything is computed."""

from pathlib import Path
from typing import Any

import pytest

from ldm.bounds import LARGEST_SCALE, MOST_CLASS_IMAGES, MOST_STEPS, MOST_TOGETHER, MOST_UPDATES
from ldm.commands.options.recorded import PARSERS, check_recorded
from ldm.commands.record import plain
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.runtime.models import SamplingDefaults
from ldm.training.dreambooth_config import DreamBoothConfig
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample, Trained

WRONG: list[tuple[str, Any]] = [
    ("seed", "abc"),
    ("seed", -5),
    ("seed", True),
    ("seed", [1]),
    ("hw", 64),
    ("hw", [64, "x"]),
    ("hw", [10**30, 64]),
    ("ddim_steps", 0),
    ("scale", {}),
    ("sampler", "euler-maruyama"),
    ("sampler", ["ddim"]),
    ("class_name", 7),
    ("class_name", "x" * 5000),
    ("class_name", "a\x1b[2J"),
    ("class_name", "\udce9"),
    ("instance_img_dir", 3),
    ("instance_img_dir", "x" * 300),
    ("ckpt_path", "a\0b"),
    ("output_dir", None),
    ("iterations", 10**30),
    ("iterations", 1.5),
    ("train_text_encoder", "yes"),
    ("preview_prompts", "a cat"),
    ("preview_prompts", [1]),
    ("preview_prompts", ["x" * 10**6]),
    ("devices", 0),
    ("vram", 8),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_an_invalid_recorded_option_is_named_with_its_file(name: str, value: Any, trained: Trained) -> None:
    options = read_yaml(trained.directory / "run.yaml")["options"]
    check_recorded(options, "dreambooth.py", Path("run.yaml"))
    with pytest.raises(UserError) as error:
        check_recorded({**options, name: value}, "dreambooth.py", Path("run.yaml"))
    assert f"run.yaml is damaged: options.{name} " in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("script", PARSERS)
def test_a_record_may_hold_what_a_command_line_gives(script: str) -> None:
    words = {"train.py": ["diffusion"], "convert.py": ["IN", "OUT"]}.get(script, [])
    options = vars(PARSERS[script]().parse_args(words))
    if script == "dreambooth.py":
        options["class_name"] = "a can"  # as it was before articles were left out
    check_recorded(plain(options), script, Path("run.yaml"))


@pytest.mark.parametrize(
    "yaml",
    [
        DreamBoothConfig(
            iterations=MOST_UPDATES,
            lr_schedule="cooldown",
            batch_size=MOST_TOGETHER,
            class_img_count=MOST_CLASS_IMAGES,
            class_steps=MOST_STEPS,
        ),
        SamplingDefaults(guidance_scale=-LARGEST_SCALE, batch_size=MOST_TOGETHER),
    ],
    ids=lambda yaml: type(yaml).__name__,
)
def test_a_record_may_hold_what_a_models_yaml_may(yaml: DreamBoothConfig | SamplingDefaults) -> None:
    flags = {"guidance_scale": "scale", "prompt": "no flag's"}
    options = {flags.get(name, name): value for name, value in vars(yaml).items()}
    script = "dreambooth.py" if isinstance(yaml, DreamBoothConfig) else "txt2img.py"
    check_recorded(plain(options), script, Path("run.yaml"))


@pytest.mark.parametrize(
    "content",
    ["a: !!timestamp 2024-01-01", "options: {class_name: can, seed: x}", "options: [class_name]", "[" * 5000, ""],
)
def test_a_strangers_run_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(content)
    refused(call("dreambooth", "-r", tmp_path), str(tmp_path))
    refused(call("txt2img", "-r", tmp_path), str(tmp_path))
    refused(call("train", "diffusion", "-r", tmp_path), str(tmp_path))


def test_a_record_of_options_alone_can_be_resumed(txt2img: Sample) -> None:
    sampled = txt2img("-p", "a cat", "-v", 1)
    path = sampled.directory / "run.yaml"
    path.write_text(to_yaml({"options": read_yaml(path)["options"]}))
    assert call("txt2img", "-r", sampled.directory).status == 0


def test_a_strangers_record_beside_a_checkpoint_is_ignored(txt2img: Sample, trained: Trained, tmp_path: Path) -> None:
    directory = tmp_path / "stranger"
    directory.mkdir()
    (directory / "tokenizer").symlink_to(trained.directory / "tokenizer")
    (directory / trained.step(3).name).symlink_to(trained.step(3))
    options = {"class_name": "can", "instance_img_dir": "x" * 5000, "ckpt_path": ["a"]}
    for content in (to_yaml({"options": options, "photos": {"a": 1}}), "a: !!int abc", "[" * 5000):
        (directory / "run.yaml").write_text(content)
        sampled = txt2img("-c", directory, "-v", 1, "-p", "a cat")
        assert len(sampled.paths) == 1
