"""The tables of a comparison, and the kinds of its columns."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from ldm.evaluation.results import Interval, Recommendation, Reference, Score
from ldm.report.comparison import Cell, Column, ComparisonData, Group, Row, RunOptions
from ldm.report.table import read_comparison, write_csv, write_json
from tests.commands.calls import Sampled, call, difference, refused
from tests.commands.fixtures import Sample, Trained
from tests.report.tables import lines_of, record, table_of, tuned
from tests.tiny import write_tiny_checkpoint


def test_every_image_has_a_line(txt2img: Sample, trained: Trained) -> None:
    options = ("--ddim-steps", 4, "--scale", 2.5, "--ddim-eta", 0.5, "--hw", 32, 48, "-n", "blurry, grey")
    sampled = txt2img("-c", trained.root, "-v", 2, "--seed", 9, "-p", "a cat", "sks {class}", *options)
    lines = lines_of(sampled)
    assert len(lines) == 16
    assert sorted(line["file"] for line in lines) == sorted(path.name for path in sampled.paths)
    assert lines[6] == {
        "file": "tin-can-1-step-3_01-sks-tin-can_9.png",
        "run": "tin-can-1",
        "step": "3",
        "label": "step 3",
        "checkpoint": str(trained.step(3)),
        "prompt": "sks Tin Can",
        "prompt_index": "1",
        "seed": "9",
        "negative_prompt": "blurry, grey",
        "sampler": "ddim",
        "steps": "4",
        "scale": "2.5",
        "eta": "0.5",
        "spacing": "original",
        "guidance_rescale": "0.0",
        "width": "48",
        "height": "32",
    }
    for line in lines:
        info = Image.open(sampled.directory / line["file"]).info
        for name in ("prompt", "seed", "sampler", "steps", "scale", "eta", "spacing", "negative_prompt"):
            assert info[f"ldm.{name}"] == line[name]
        assert info["ldm.checkpoint"] == Path(line["checkpoint"]).name


def test_the_comparison_is_complete(txt2img: Sample, trained: Trained) -> None:
    sampled = txt2img("-c", trained.root, "-v", 2)
    comparison = table_of(sampled)
    assert comparison.title == trained.root.name
    assert comparison.command == sampled.record["command"]
    assert [(column.prompt, column.seed, column.kind) for column in comparison.columns] == [
        ("a photo of sks {class}", 42, "subject"),
        ("a photo of sks {class}", 43, "subject"),
    ]
    assert [cell and cell.prompt for row in comparison.rows for cell in row.cells] == ["a photo of sks Tin Can"] * 8
    assert [group.subject for group in comparison.groups] == ["Tin Can"]
    assert [(run.name, run.options["iterations"]) for run in comparison.runs] == [("tin-can-1", 7)]
    assert comparison.sampling["num_steps"] == 3
    assert comparison.versions["torch"] == version("torch")
    assert str(trained.root.parent) not in json.dumps([run.options for run in comparison.runs])


def test_one_checkpoint_has_a_table_of_its_images_and_no_comparison(txt2img: Sample) -> None:
    sampled = txt2img("-v", 2)
    assert [line["seed"] for line in lines_of(sampled)] == ["42", "43"]
    assert not (sampled.directory / "comparison.json").exists()


def test_a_column_has_the_same_noise_in_every_row(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """One checkpoint under two names samples the same images, and the record says which noise they began with."""
    for run in ("a-run-of-another-length", "b"):
        tuned(tmp_path / "ckpts" / run, tiny_checkpoint, options={"a": run})
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 3, "--no-base")
    for seed in range(3):
        assert difference(sampled.images[seed], sampled.images[seed + 3]) == 0
    assert difference(sampled.images[0], sampled.images[1]) > 1
    noises = [column.noise for column in table_of(sampled).columns]
    assert len(set(noises)) == 3
    shifted = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--seed", 43, "-p", "a cat", "a dog")
    assert [column.noise for column in table_of(shifted).columns] == [noises[1]] * 2


# Prompts


def kinds(sampled: Sampled) -> list[str]:
    return [column.kind for column in table_of(sampled).columns]


def test_columns_have_the_kind_of_their_prompt(txt2img: Sample, trained: Trained) -> None:
    prompts = ("sks {class} in the snow", "a photo of a {class}", "a photo of a Tin Can", "a {class}", "sksy", "a cat")
    sampled = txt2img("-c", trained.root, "-v", 1, "--no-base", "-p", *prompts)
    assert kinds(sampled) == ["subject", "class", "class", "other", "other", "other"]


def test_the_class_is_filled_in_for_each_checkpoint(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    for run in ("mug", "cup"):
        record(tuned(tmp_path / "ckpts" / run, tiny_checkpoint, class_name=run).parent, tiny_checkpoint)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "-p", "sks {class} in {snow}", "a photo of a mug")
    comparison = table_of(sampled)
    assert [row.cells[0] and row.cells[0].prompt for row in comparison.rows] == ["sks cup in {snow}"] * 2 + [
        "sks mug in {snow}"
    ] * 2
    assert kinds(sampled) == ["subject", "other"]  # a cup is no mug


def test_a_cell_stays_empty_for_a_model_without_a_subject(
    txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    tuned(tmp_path / "ckpts", tiny_checkpoint)
    plain = write_tiny_checkpoint(tmp_path / "ckpts", name="plain.safetensors")
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "-p", "a {class}", "a cat", "--no-base")
    cells = {row.label: [cell and cell.prompt for cell in row.cells] for row in table_of(sampled).rows}
    assert cells == {"plain": [None, "a cat"], "step 5": ["a mug", "a cat"]}
    assert f"the prompt 'a {{class}}' needs a class, and {plain} has no subject" in sampled.said
    refused(call("txt2img", "-c", plain, "-p", "a {class}"), "'a {class}' needs a class", str(plain))


def test_without_prompts_models_without_a_subject_sample_their_own_default(txt2img: Sample, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny_checkpoint(tmp_path / "ckpts", name=f"{name}.safetensors")
    comparison = table_of(txt2img("-c", tmp_path / "ckpts", "-v", 1))
    assert [column.prompt for column in comparison.columns] == ["a photo of a cat"]
    assert [row.label for row in comparison.rows] == ["a", "b"]


# Photos


def test_the_photos_of_the_run_are_copied_small(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    photos = tmp_path / "large"
    photos.mkdir()
    Image.new("RGB", (2000, 1000), "red").save(photos / "wide one.jpg")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut off")
    Image.new("RGB", (40, 50), "blue").save(photos / "tiny.png")
    record(tuned(tmp_path / "ckpts" / "mug-1", tiny_checkpoint).parent, tiny_checkpoint, photos)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1)
    copies = table_of(sampled).groups[0].photos
    assert copies == ["photos/mug-1/01-tiny.png", "photos/mug-1/02-wide-one.png"]
    assert [Image.open(sampled.directory / copy).size for copy in copies] == [(40, 50), (512, 256)]
    assert "left out" in sampled.said and "broken.png" in sampled.said


def test_runs_of_like_names_keep_their_photos_apart(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    for run, colour in (("mug 1", "red"), ("mug-1", "blue")):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / colour / "0.png")
        record(tuned(tmp_path / "ckpts" / run, tiny_checkpoint).parent, tiny_checkpoint, tmp_path / colour)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base", "-p", "a cat")
    copies = [sampled.directory / group.photos[0] for group in table_of(sampled).groups]
    assert [Image.open(copy).getpixel((0, 0)) for copy in copies] == [(255, 0, 0), (0, 0, 255)]


def test_given_photos_for_two_subjects_are_used_with_a_warning(
    txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path, photos: Path
) -> None:
    for run in ("mug", "cup"):
        tuned(tmp_path / "ckpts" / run, tiny_checkpoint, class_name=run)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "--no-base", "--instance-img-dir", photos)
    assert f"warning: the photos in {photos} are taken for those of cup and mug alike" in sampled.said


def test_photos_may_be_given(txt2img: Sample, trained: Trained, photos: Path, tmp_path: Path) -> None:
    sampled = txt2img("-c", trained.root, "-v", 1, "--instance-img-dir", photos, "--no-base")
    assert len(table_of(sampled).groups[0].photos) == 5
    (tmp_path / "empty").mkdir()
    refused(
        call("txt2img", "-c", trained.root, "--instance-img-dir", tmp_path / "empty"),
        "--instance-img-dir",
        f"{tmp_path / 'empty'} holds no readable image",
    )


def test_a_comparison_works_without_photos(txt2img: Sample, tmp_path: Path, tiny_checkpoint: Path) -> None:
    tuned(tmp_path / "ckpts" / "mug-1", tiny_checkpoint)
    (tmp_path / "ckpts" / "mug-1" / "run.yaml").write_text("options: [")
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1)
    assert "no photos of 'mug' were found; --instance-img-dir DIR" in sampled.said
    assert "run.yaml is not a readable YAML file" in sampled.said


# The files themselves

SCORED = ComparisonData(
    title="ckpts",
    command="python txt2img.py",
    created="2024-01-01",
    columns=[Column("a {class}", 0, 1, "class", "ff"), Column("a {class}", 0, 2)],
    rows=[Row("step 2", 0, "can-1", 2, "a.ckpt", False, [Cell("a.png", "a can", {"copy": 0.5}), None],
              {"copy": Interval(0.5, 0.25, 0.75)})],
    groups=[Group("can", ["photos/a.png"], {"copy": Reference(0.5, None)}, Recommendation(None, "no", ["why"]))],
    runs=[RunOptions("can-1", {"flip": True, "lr": 1e-5, "prompts": ["a"]})],
    scores=[Score("copy", "Copies", False, "How near.")],
    rule="the best",
    sampling={"sampler": "ddim", "num_steps": 3, "guidance_scale": 7.5, "eta": 0.0, "width": 8, "height": 8,
              "negative_prompt": ""},
    versions={"ldm": "1"},
)  # fmt: skip


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path, SCORED)
    assert read_comparison(tmp_path / "comparison.json") == SCORED
    assert list(tmp_path.iterdir()) == [tmp_path / "comparison.json"]


def test_scores_are_columns_of_the_table(tmp_path: Path) -> None:
    write_csv(tmp_path, replace(SCORED, rows=[*SCORED.rows, replace(SCORED.rows[0], cells=[None, Cell("b", "a can")])]))
    lines = (tmp_path / "pictures.csv").read_text().splitlines()
    assert lines[0].endswith(",height,score_copy")
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["0.5", ""]
