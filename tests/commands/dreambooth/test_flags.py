"""Each flag of dreambooth.py and what it does."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.sampling import txt2img_parser
from ldm.config import read_yaml, to_yaml
from ldm.files import ROOT
from tests.commands.calls import call, difference, equal, pixels, refused
from tests.commands.dreambooth.fine_tuning import STOPPED, FineTune, Plan, scalars
from tests.commands.fixtures import write_photos
from tests.tiny import TINY_YAML, write_tiny_checkpoint

FLAGS: list[tuple[tuple[object, ...], str, object]] = [
    (("--iterations", 9), "iterations", 9),
    (("-s", 5), "save_every", 5),
    (("--learning-rate", "3e-6"), "learning_rate", 3e-6),
    (("--lr-schedule", "cosine"), "lr_schedule", "cosine"),
    (("--warmup-steps", 3), "warmup_steps", 3),
    (("--weight-decay", 0), "weight_decay", 0.0),
    (("--max-grad-norm", 0.5), "max_grad_norm", 0.5),
    (("--batch-size", 4), "batch_size", 4),
    (("-l", 1.5), "prior_loss_weight", 1.5),
    (("-t",), "train_text_encoder", True),
    (("--no-flip",), "flip", False),
    (("--gradient-checkpointing",), "gradient_checkpointing", "all"),
    (("--optimizer", "adamw8bit"), "optimizer", "adamw8bit"),
    (("--train-dtype", "bf16"), "train_dtype", "bf16"),
    (("--fused-backward",), "fused_backward", True),
    (("--clip", "tensor"), "clip", "tensor"),
    (("--class-img-count", 1), "class_img_count", 1),
    (("--ema-decay", 0.9), "ema_decay", 0.9),
    (("--min-snr-gamma", 5, 1), "min_snr_gamma", (5.0, 1.0)),
    (("--noise-offset", 0.05), "noise_offset", 0.05),
    (("--input-perturbation", 0.1), "input_perturbation", 0.1),
    (("--timesteps", "logit-normal"), "timesteps", "logit-normal"),
    (("--timestep-range", 0, 500), "timestep_range", (0, 500)),
    (("--train-layers", "cross-attention"), "train_layers", "cross-attention"),
]
"""Flags, what they set, and to what; none of it is the tiny model's default."""


def test_flags_reach_the_training(plan: Plan) -> None:
    planned = plan(*(word for words, _, _ in FLAGS for word in words), "--logger", "csv")
    config = planned.module.config
    assert planned.options.logger == "csv"
    assert {name: getattr(config, name) for _, name, _ in FLAGS} == {name: value for _, name, value in FLAGS}


def test_defaults_are_the_models(plan: Plan, tmp_path: Path) -> None:
    own = {"iterations": 11, "batch_size": 2, "flip": False, "class_img_count": 1, "learning_rate": 0.5}
    base = write_tiny_checkpoint(tmp_path / "base", config={**TINY_YAML, "dreambooth": own})
    outcome = call("dreambooth", "-c", "can", "-i", write_photos(tmp_path / "can"), "--ckpt-path", base)
    assert outcome.status == 0, outcome.said
    options = read_yaml(tmp_path / "ckpts" / "can-1" / "run.yaml")["options"]
    assert {name: options[name] for name in own} == own


def test_config_overrides_the_checkpoints_yaml(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(to_yaml({**TINY_YAML, "dreambooth": {"learning_rate": 0.25}}))
    assert plan("--config", tmp_path / "my.yaml").module.config.learning_rate == 0.25


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--timestep-range", 500, 400), "--timestep-range should be two rising numbers, such as 0 500, not 500 400"),
        (("--timestep-range", 0, 2000), "--timestep-range should end at 1000, which the model has, not 2000"),
        (("--lr-power", 2), "--lr-power is for --lr-schedule polynomial, not constant"),
        (("--lora", 4, "--train-layers", "attention"), "--train-layers is not for lora, whose layers --lora-targets "),
    ],
)
def test_options_that_do_not_fit_are_refused_by_their_flags(
    flags: tuple[object, ...], message: str, fine_tune: FineTune
) -> None:
    refused(fine_tune.call(*flags), message)
    assert not fine_tune.root.exists()


def test_flip_doubles_the_views_of_each_photo(plan: Plan) -> None:
    both, one = (plan(flag).module._moments for flag in ("--flip", "--no-flip"))
    assert [moments.shape for moments in both if moments is not None] == [(3, 2, 8, 4, 4), (2, 2, 8, 4, 4)]
    assert [moments.shape for moments in one if moments is not None] == [(3, 1, 8, 4, 4), (2, 1, 8, 4, 4)]
    assert torch.equal(both[0][:, :1], one[0])
    assert not torch.equal(both[0][:, :1], both[0][:, 1:])


def test_hw_is_the_size_of_photos_class_images_and_previews(plan: Plan, tmp_path: Path) -> None:
    module = plan("--hw", 32, 48).module
    assert [moments.shape[-2:] for moments in module._moments if moments is not None] == [(4, 6), (4, 6)]
    image = next((tmp_path / "ckpts" / "class-images").rglob("*.png"))
    assert Image.open(image).size == (48, 32)


def test_no_previews_samples_none(stopped_once: Path) -> None:
    assert not (stopped_once / "samples").exists()
    assert not scalars(stopped_once).Tags()["images"]


def test_preview_prompts_are_sampled_with_the_class(fine_tune: FineTune) -> None:
    run = fine_tune("--preview-prompt", "sks {class} in {snow}", "a {class}")
    assert set(scalars(run.directory).Tags()["images"]) == {"sks can in {snow}", "a can", "sweep"}
    assert Image.open(run.directory / "samples" / "step-00002.png").size[0] > 2 * 160


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("full", None)])
def test_precision_is_what_training_computes_in(precision: str, dtype: torch.dtype | None, plan: Plan) -> None:
    options = plan("--precision", precision, "--class-img-count", 0, "--no-previews", "-d", "cpu").options
    assert options.autocast_dtype == dtype


def test_the_seed_decides_everything_random(fine_tune: FineTune, stopped_once: Path) -> None:
    """The same seed's run is the same: see below."""
    other = fine_tune(*STOPPED, "--seed", 8, "--iterations", 2)
    assert not equal(other.step(2), stopped_once / "step-00002.safetensors")
    first, second = (next(root.glob("class-images/*/00000.png")) for root in (other.root, stopped_once.parent))
    assert difference(pixels(first), pixels(second)) > 1


def test_the_commands_of_the_readme_can_be_parsed() -> None:
    """`python dreambooth.py -c "water bottle" -i data/bottle -s 200`, then `python txt2img.py --ckpt-path ckpts/`."""
    options = dreambooth_parser().parse_args(["-c", "water bottle", "-i", "data/bottle", "-s", "200"])
    assert (options.class_name, options.instance_img_dir, options.save_every) == (
        "water bottle",
        Path("data/bottle"),
        200,
    )
    assert options.output_dir == Path("ckpts")
    assert txt2img_parser().parse_args(["--ckpt-path", "ckpts/"]).ckpt_path == options.output_dir
    assert (ROOT / "dreambooth.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "speedup", "precision"), [(True, 4.0, "bf16-mixed"), (False, 4.0, "full")])
def test_a_cpu_that_is_faster_in_bfloat16_trains_in_it_if_the_model_allows(
    allowed: bool, speedup: float, precision: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.runtime.bfloat16.bfloat16_speedup", lambda: speedup)
    (tmp_path / "my.yaml").write_text(to_yaml({**TINY_YAML, "bfloat16_on_cpu": allowed}))
    dtype = plan("--config", tmp_path / "my.yaml", "--class-img-count", 0).options.autocast_dtype
    assert dtype == (torch.bfloat16 if precision == "bf16-mixed" else None)
    assert read_yaml(tmp_path / "ckpts" / "can-1" / "run.yaml")["options"]["precision"] == precision
