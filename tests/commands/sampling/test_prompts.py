"""Files of prompts, alternatives, weights and clip skip in the commands."""

from pathlib import Path

from PIL import Image

from tests.commands.calls import call, difference, refused
from tests.commands.fixtures import Sample


def test_files_and_alternatives_are_columns_and_are_recorded(txt2img: Sample, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\na cat\n\na (red:1.3) dog BREAK sat\n", encoding="utf-8")
    flags = ("--prompt-syntax", "a1111", "--clip-skip", 2, "-v", 1, "--seed", 3)
    sampled = txt2img("-p", f"@{file}", "a {can|mug}", *flags)
    prompts = ["a cat", "a (red:1.3) dog BREAK sat", "a can", "a mug"]
    texts = [Image.open(path).info for path in sampled.paths]
    assert [text["ldm.prompt"] for text in texts] == prompts
    assert {(text["ldm.prompt_syntax"], text["ldm.clip_skip"]) for text in texts} == {("a1111", "2")}
    assert sampled.record["options"]["prompt"] == prompts
    before = sampled.images
    sampled.paths[1].unlink()
    again = txt2img("-r", sampled.directory)
    assert difference(again.images[1], before[1]) == 0
    assert call("txt2img", "-r", sampled.directory, "-p", f"@{file}", "a {can|mug}").status == 0
    others = txt2img("--from-image", sampled.paths[0], "-p", "a {can|mug}")
    assert others.record["options"]["prompt"] == ["a can", "a mug"]
    plain = txt2img("-p", "a cat", "-v", 1, "--seed", 3)
    assert "ldm.clip_skip" not in Image.open(plain.paths[0]).info
    assert difference(plain.images[0], before[0]) > 0
    syntax = txt2img("-p", "a cat", "-v", 1, "--seed", 3, "--prompt-syntax", "a1111")
    assert "without a partner" not in syntax.said
    assert difference(plain.images[0], syntax.images[0]) == 0


def test_brackets_without_a_partner_are_warned_of(txt2img: Sample) -> None:
    said = txt2img("-p", "a cat", "-n", "a (dog", "-v", 1, "--prompt-syntax", "a1111").said
    assert "'a (dog' has brackets without a partner: (." in said


def test_what_can_not_be_read_is_refused(tiny_checkpoint: Path) -> None:
    weights = ("-c", tiny_checkpoint)
    refused(call("txt2img", "-p", "@nowhere.txt", *weights), "there is no file nowhere.txt")
    refused(call("txt2img", "--clip-skip", 3, *weights), "--clip-skip 3 is more than the text encoder's 2 layers")
    many = call("txt2img", "-p", "{a|b}" * 30, "--prompt-syntax", "a1111", *weights)
    refused(many, "--prompt: 1,073,741,824 prompts are more than")
    scored = call("txt2img", "--score", "-p", "sks can", "--prompt-syntax", "a1111", *weights)
    heavy = call("txt2img", "--prompt-syntax", "a1111", "-p", f"a (red ball:1{'0' * 67})", *weights)
    refused(heavy, "'red ball' has the weight 1e+67")
    refused(scored, "scores read prompts as plain text")
