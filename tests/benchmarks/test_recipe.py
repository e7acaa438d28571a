"""The whole recipe: both sides get the same options, the reference does all the work, file times give the phases."""

from pathlib import Path

import pytest

import benchmarks.diffusers_peer.reference as reference
import benchmarks.recipe as recipe
from benchmarks.tools.contest import contest_parser, place_from
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.errors import UserError

QUICK = ["--size", "tiny", "--device", "cpu", "--runs", "1"]


def test_both_sides_get_the_same_options_and_their_times_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, calls = [100.0], []

    def run(arguments: list[object]) -> None:
        """Takes 10 s as ours, 40 s as the reference."""
        words = [str(argument) for argument in arguments]
        calls.append(words)
        ours = words[0] == "dreambooth.py"
        output = Path(words[words.index("-o" if ours else "--output") + 1])
        files = ["class-images/x/0.png", "can-1/step-00200.safetensors"] if ours else ["class/0.jpg", "checkpoint-2/a"]
        for file in files:
            (output / file).parent.mkdir(parents=True)
            (output / file).touch()
        now[0] += 10 if ours else 40

    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(recipe.time, "time", lambda: now[0])
    monkeypatch.setattr(recipe, "_finished", lambda path: now[0] - 1)
    amounts = ["--class-images", "3", "--iterations", "4", "--save-every", "2", "--steps", "3"]
    assert recipe.main([*QUICK, *amounts, "--compile-peer", "default", "--strict"]) == 0
    output = capsys.readouterr().out
    assert "| reference, tuned | 40 (40 to 40) | 39 | 0 | 0 | 1 | 4 (4 to 4) |" in output and "1 of 1 met" in output

    typed = dreambooth_parser().parse_args(calls[0][1:])
    assert (typed.class_img_count, typed.iterations, typed.save_every, typed.no_previews) == (3, 4, 2, True)
    assert "--tuned" in calls[2] and "--tuned" not in calls[1]
    assert calls[2][calls[2].index("--compile") + 1] == "default" and "--compile" not in calls[1]


@pytest.mark.slow
def test_the_reference_does_all_of_it(tmp_path: Path) -> None:
    files = recipe.write_files(tmp_path, place_from(contest_parser(None, peaks=False).parse_args(QUICK)))
    place = place_from(contest_parser(None, peaks=False).parse_args(QUICK))
    calls = recipe.Recipe(class_images=5, iterations=4, save_every=2, steps=2, train_text_encoder=True)
    output = tmp_path / "out"
    reference.main([str(word) for word in calls.reference(files, place, output, tuned=True)[1:]])
    assert len(list((output / "class").glob("*.jpg"))) == 5
    states = [output / f"checkpoint-{step}" for step in (2, 4)]
    assert all((state / "optimizer.bin").exists() and (state / "model.safetensors").exists() for state in states)
    assert (output / "pipeline" / "unet").is_dir()
    assert recipe.phases(0.0, (output / "pipeline").stat().st_mtime + 1, output)[1] > 0


def test_a_process_that_fails_or_writes_nothing_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="status 3"):
        recipe.run(["-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="0 class images"):
        recipe.phases(0.0, 1.0, tmp_path)
