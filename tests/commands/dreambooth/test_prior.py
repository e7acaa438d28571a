"""`--prior`: what a run is given for it, and which flags contradict each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.prior import with_prior
from ldm.commands.dreambooth.vram import workload_of
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import build_config, read_yaml
from ldm.errors import UserError
from ldm.runtime.devices import Compute
from ldm.runtime.models import Settings
from ldm.training.base_pull import BasePull
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig
from tests.commands.calls import call
from tests.tiny import TINY_YAML

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs dreambooth.py on the tiny model; returns its output."""
    monkeypatch.chdir(tmp_path)

    def succeed(*arguments: object) -> str:
        words = ["-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path / "ckpts"]
        outcome = call("dreambooth", *words, "--no-previews", "--logger", "none", *arguments)
        assert outcome.status == 0, outcome.said
        return outcome.said

    return succeed


@pytest.fixture
def module_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DreamBooth]:
    """The module that a run would train."""
    modules: list[DreamBooth] = []
    monkeypatch.setattr(command, "fit", lambda module, *_: modules.append(module))
    return lambda *arguments: [run(*arguments), modules[-1]][1]


def test_l2_is_given_the_base_weights_apart_from_those_that_train(
    module_of: Callable[..., DreamBooth], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    module = module_of("--prior", "l2", "--l2-share", 0.25, "-t")
    assert module.base_pull is not None and module.base_pull.share == 0.25 and module.images_per_step == 1
    trained = {name: weight for name, weight in module.ldm.named_parameters() if weight.requires_grad}
    assert {*module.base_pull.targets} == {*trained.values()}
    with torch.no_grad():
        for weight in trained.values():
            weight.zero_()
    base = read_checkpoint(tiny_checkpoint).tensors
    assert all(torch.equal(module.base_pull.targets[weight], base[name]) for name, weight in trained.items())
    assert not (tmp_path / "ckpts" / "class-images").exists()


def test_base_prediction_is_given_predictions_and_no_class_images(
    module_of: Callable[..., DreamBooth], tmp_path: Path
) -> None:
    module = module_of("--prior", "base-prediction", "--base-predictions", 3)
    assert module.base_predictions is not None and module.base_predictions.targets.shape == (3, 4, 4, 4)
    assert module.images_per_step == 2
    assert not (tmp_path / "ckpts" / "class-images").exists()
    options = read_yaml(tmp_path / "ckpts" / "can-1" / "run.yaml")["options"]
    assert (options["prior"], options["base_predictions"], options["class_img_count"]) == ("base-prediction", 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("--lora", 2)], ids=["weights", "adapters"])
@pytest.mark.parametrize("prior", ["l2", "base-prediction"])
def test_a_run_trains_and_is_resumed(run: Run, prior: str, lora: tuple[object, ...], tmp_path: Path) -> None:
    few = ("--base-predictions", 9) if prior == "base-prediction" else ()
    run("--prior", prior, "--iterations", 12, "-s", 12, *few, *lora)
    run("--prior", prior, "--iterations", 10, "-s", 10, *few, *lora)
    run("-r", tmp_path / "ckpts" / "can-2", "--iterations", 12)
    whole, resumed = (
        read_checkpoint(tmp_path / "ckpts" / f"can-{number}" / "step-00012.safetensors").tensors for number in (1, 2)
    )
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_check_counts_the_time_of_the_prior(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[int] = []
    monkeypatch.setattr(BasePull, "pull", lambda self, optimizer, step: pulled.append(step))
    assert "updates of" in (said := run("--prior", "l2", "--iterations", 1, "--check"))
    assert pulled and "class images" not in said.split("updates of")[1]
    said = run("--prior", "base-prediction", "--base-predictions", 50, "--iterations", 1, "--check")
    assert "50 predictions of the base model" in said


def chosen(*arguments: str, **defaults: Any) -> tuple[str, int]:
    """The prior and the number of class images that flags and a model's YAML make."""
    options = dreambooth_parser().parse_args(["-c", "can", *arguments])
    config = DreamBoothConfig(
        **{
            **defaults,
            **{
                name: value
                for name, value in (
                    ("prior", options.prior),
                    ("class_img_count", options.class_img_count),
                    ("prior_loss_weight", options.lamb),
                    ("l2_share", options.l2_share),
                )
                if value is not None
            },
        }
    )
    made = with_prior(config, options)
    return made.prior, made.class_img_count


@pytest.mark.parametrize(
    ("words", "prior", "count"),
    [
        ("", "class-images", 200),
        ("--class-img-count 0", "none", 0),
        ("--lamb 0", "none", 0),
        ("--lamb 0 --class-sampler ddim", "none", 0),
        ("--prior none --lamb 0", "none", 0),
        ("--prior l2", "l2", 0),
        ("--prior base-prediction --lamb 0.5", "base-prediction", 0),
    ],
)
def test_what_flags_choose(words: str, prior: str, count: int) -> None:
    assert chosen(*words.split()) == (prior, count)


def test_a_models_own_prior_can_be_turned_off() -> None:
    assert chosen(prior="l2") == ("l2", 0)
    assert chosen("--class-img-count", "0", prior="l2") == ("none", 0)
    assert chosen(class_img_count=0) == ("none", 0)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--prior l2 --class-img-count 0", "--class-img-count 0 is --prior none, not l2"),
        ("--prior class-images --lamb 0", "--lamb 0 is --prior none, not class-images"),
        ("--prior l2 --class-img-count 9", "--class-img-count is for --prior class-images, not l2"),
        ("--prior none --class-steps 9", "--class-steps is for --prior class-images, not none"),
        ("--prior l2 --lamb 2", "--lamb is the weight of a loss on the class, which --prior l2 doesn't have"),
        ("--l2-share 0.1", "--l2-share is for --prior l2, not class-images"),
        ("--lamb 0 --l2-share 0.1", "--l2-share is for --prior l2, not none"),
        ("--prior l2 --base-predictions 9", "--base-predictions is for --prior base-prediction, not l2"),
        ("--prior l2 --l2-share 0", "--prior l2 needs --l2-share above 0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words: str, error: str) -> None:
    with pytest.raises(UserError) as refusal:
        chosen(*words.split())
    assert error in str(refusal.value)


@pytest.mark.parametrize(
    ("prior", "has_class_half"), [("class-images", True), ("l2", False), ("base-prediction", True), ("none", False)]
)
def test_the_predicted_memory_has_a_class_half_where_the_training_has_one(prior: str, has_class_half: bool) -> None:
    options = dreambooth_parser().parse_args(["-c", "can", "--prior", prior])
    config = with_prior(DreamBoothConfig(prior=prior), options)
    settings = build_config(Settings, TINY_YAML, "tiny")
    devices = [torch.device("cpu")]
    assert workload_of(settings, config, settings.sampling, devices, Compute(devices[0])).with_class == has_class_half
