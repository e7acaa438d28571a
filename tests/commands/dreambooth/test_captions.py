"""Captions, several prompts and a class prompt of one's own, from files and flags to the weights."""

import json
import shutil
from pathlib import Path

import pytest

from ldm.config import read_yaml
from tests.commands.calls import call, equal, info_of, refused
from tests.commands.dreambooth.fine_tuning import FineTune, Plan, interrupted

CAPTIONED = "a photo of sks {class}, {caption}"


@pytest.fixture
def captioned(subject_dir: Path, tmp_path: Path) -> Path:
    """The shared photos, two of them with captions."""
    photos = tmp_path / "captioned"
    shutil.copytree(subject_dir, photos)
    (photos / "0.txt").write_text("on a desk\n")
    (photos / "2.txt").write_text("in the snow\nat night\n")
    return photos


def test_prompts_come_from_text_files_or_metadata(captioned: Path, plan: Plan) -> None:
    texts = (
        *("a photo of a can", "a photo of sks can, on a desk", "a photo of sks can, in the snow"),
        *("a photo of sks can, at night", "a photo of sks can"),
    )
    flags = ("-i", captioned, "--instance-prompt", CAPTIONED, "--no-previews")
    module = plan(*flags).module
    assert module._prompts is not None and module._prompts.texts == texts
    for path in captioned.glob("*.txt"):
        path.unlink()
    rows = [{"file_name": "0.png", "text": "on a desk"}, {"file_name": "2.png", "text": ["in the snow", "at night"]}]
    (captioned / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert plan(*flags).module._prompts == module._prompts


@pytest.mark.slow
def test_the_prompts_change_the_weights_and_a_stopped_run_resumes_bit_for_bit(
    captioned: Path, fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (
        *("-i", captioned, "-t", "--instance-prompt", CAPTIONED, "sks {class}", "--caption-dropout", 0.3),
        *("--iterations", 4, "--save-dtype", "fp32", "--no-previews", "--class-img-count", 2),
    )
    stopped = interrupted(fine_tune, monkeypatch, 4, *flags)
    assert call("dreambooth", "-r", stopped).status == 0
    whole, plain = fine_tune(*flags), fine_tune("-t", *flags[flags.index("--iterations") :])
    assert equal(stopped / "step-00004.safetensors", whole.step(4))
    assert not equal(whole.step(4), plain.step(4))
    info = info_of(whole.step(4))
    assert (info.instance_prompt, info.class_prompt) == ("a photo of sks can", "a photo of a can")
    (captioned / "0.txt").write_text("on a table")
    refused(call("dreambooth", "-r", stopped, "--iterations", 5), "the captions of the photos", "have changed")


@pytest.mark.slow
def test_a_class_prompt_samples_other_class_images(fine_tune: FineTune) -> None:
    run = fine_tune("--class-prompt", "one {class}", "--prompt-templates", "dreambooth", "--no-previews")
    assert [path.name.rsplit("-", 1)[0] for path in (fine_tune.root / "class-images").iterdir()] == ["one-can"]
    assert read_yaml(run.directory / "run.yaml")["options"]["instance_prompts"] == ["a sks {class}"]
    assert info_of(run.step(2)).instance_prompt == "a sks can"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--instance-prompt", CAPTIONED), "no photo in "),
        (("--instance-prompt", "a photo of a {class}"), 'should hold "sks"'),
        (("--class-prompt", "a photo of sks {class}"), 'should hold neither "sks" nor {caption}'),
        (("--instance-prompt", "sks {class}", "--prompt-templates", "dreambooth"), "leave out one of the two"),
    ],
)
def test_what_can_not_work_is_refused(flags: tuple[str, ...], words: str, fine_tune: FineTune) -> None:
    refused(fine_tune.call(*flags), words)
    assert not fine_tune.root.exists()


def test_captions_without_a_place_are_mentioned(captioned: Path, plan: Plan, fine_tune: FineTune) -> None:
    assert plan("-i", captioned, "--no-previews").module._prompts is None
    log = (fine_tune.root / "can-1" / "run.log").read_text()
    assert 'captions are not used; to use them: --instance-prompt "a photo of sks {class}, {caption}"' in log
