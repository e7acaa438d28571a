"""The flags: all of the original project's with their names and short forms, and errors that name them."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from ldm.commands.options.recorded import PARSERS
from ldm.commands.options.train import STAGE_FLAGS, train_parser
from tests.commands.calls import call, refused
from tests.scratch import write_captioned

SAMPLING: dict[str, tuple[list[str], str, Any]] = {
    "--hw": (["32", "48"], "hw", [32, 48]),
    "--sampler": (["plms"], "sampler", "plms"),
    "--ddim-steps": (["7"], "ddim_steps", 7),
    "--scale": (["1.5"], "scale", 1.5),
    "--ddim-eta": (["0.5"], "ddim_eta", 0.5),
    "--spacing": (["karras"], "spacing", "karras"),
    "--guidance-rescale": (["0.7"], "guidance_rescale", 0.7),
}
ALL_SAMPLING: dict[str, tuple[list[str], str, Any]] = {
    "-p --prompt": (["a cat", "a dog"], "prompt", ["a cat", "a dog"]),
    "-n --negative-prompt": (["blurry"], "negative_prompt", "blurry"),
    "--prompt-syntax": (["a1111"], "prompt_syntax", "a1111"),
    "--clip-skip": (["2"], "clip_skip", 2),
    "-v --variations": (["3"], "variations", 3),
    "--seed": (["9"], "seed", 9),
    "-c --ckpt-path": (["runs"], "ckpt_path", Path("runs")),
    "--config": (["a.yaml"], "config", Path("a.yaml")),
    "--vae": (["vae.pt"], "vae", Path("vae.pt")),
    "-r --resume-dir": (["outputs/txt2img-1"], "resume_dir", Path("outputs/txt2img-1")),
    "--base": (["a.ckpt"], "base", Path("a.ckpt")),
    "--no-base": ([], "no_base", True),
    "--lora": (["a.safetensors:0.5", "b.safetensors"], "lora", ["a.safetensors:0.5", "b.safetensors"]),
    "--embedding": (["a.pt:cat", "b.bin"], "embedding", ["a.pt:cat", "b.bin"]),
    "--subject": (["tin can"], "subject", "tin can"),
    "--instance-img-dir": (["photos"], "instance_img_dir", Path("photos")),
    **SAMPLING,
    "-o --output-dir": (["out"], "output_dir", Path("out")),
    "-b --batch-size": (["2"], "batch_size", 2),
    "-d --device": (["cuda:1"], "device", "cuda:1"),
    "--precision": (["autocast"], "precision", "autocast"),
    "--compile": (["graphs"], "compile", "graphs"),
}
BY_COMMAND: dict[str, dict[str, tuple[list[str], str, Any]]] = {
    "txt2img": {
        **ALL_SAMPLING,
        "--score": ([], "score", True),
        "--from-image": (["a.png"], "from_image", Path("a.png")),
    },
    "evaluate": {
        **{flag: case for flag, case in ALL_SAMPLING.items() if flag != "--prompt-syntax"},
        "-i": (["photos"], "instance_img_dir", Path("photos")),
        "--protocol": (["dreambooth"], "protocol", "dreambooth"),
        "--encoder": (["clip-dino"], "encoder", "clip-dino"),
    },
    "img2img": {
        **ALL_SAMPLING,
        "-i --init-img": (["a.png"], "init_img", Path("a.png")),
        "--seed-per-image": ([], "seed_per_image", True),
        "-s --strength": (["0.5"], "strength", 0.5),
        "--image-scale": (["1.2", "1.5"], "image_scale", [1.2, 1.5]),
        "--mask": (["m.png"], "mask", Path("m.png")),
        "--invert-mask": ([], "invert_mask", True),
        "--mask-blur": (["2.5"], "mask_blur", 2.5),
        "--extend": (["32,0, 64,0"], "extend", "32,0,64,0"),
    },
    "dreambooth": {
        "-c --class-name": (["water bottle"], "class_name", "water bottle"),
        "-i --instance-img-dir": (["data/bottle"], "instance_img_dir", Path("data/bottle")),
        "-d --devices": (["0,1"], "devices", "0,1"),
        "-o --output-dir": (["out"], "output_dir", Path("out")),
        "-r --resume-dir": (["ckpts/can-1"], "resume_dir", Path("ckpts/can-1")),
        "--class-img-dir": (["images"], "class_img_dir", Path("images")),
        "--instance-prompt": (["a sks {class}"], "instance_prompts", ["a sks {class}"]),
        "--prompt-templates": (["dreambooth"], "prompt_templates", "dreambooth"),
        "--class-prompt": (["a {class}"], "class_prompt", "a {class}"),
        "--caption-dropout": (["0.5"], "caption_dropout", 0.5),
        "--check": ([], "check", True),
        "--strict": ([], "strict", True),
        "--precision": (["bf16-mixed"], "precision", "bf16-mixed"),
        "--ema-decay": (["0.999"], "ema_decay", 0.999),
        "--min-snr-gamma": (["5", "1"], "min_snr_gamma", [5.0, 1.0]),
        "--noise-offset": (["0.05"], "noise_offset", 0.05),
        "--input-perturbation": (["0.1"], "input_perturbation", 0.1),
        "--timesteps": (["logit-normal"], "timesteps", "logit-normal"),
        "--timestep-range": (["0", "500"], "timestep_range", [0, 500]),
        "--train-layers": (["cross-attention"], "train_layers", "cross-attention"),
        "--lr-cycles": (["2"], "lr_cycles", 2),
        "--lr-power": (["1.5"], "lr_power", 1.5),
        "--lora": (["4"], "lora", 4),
        "--lora-alpha": (["2.5"], "lora_alpha", 2.5),
        "--lora-targets": (["all+conv"], "lora_targets", "all+conv"),
        "--lora-dropout": (["0.1"], "lora_dropout", 0.1),
        "--dora": ([], "dora", True),
        "--no-dora": ([], "dora", False),
        "--train": (["embedding"], "train", "embedding"),
        "--vectors": (["4"], "vectors", 4),
        "--initial-words": (["red can"], "initial_words", "red can"),
        "--embedding": (["a.pt"], "embedding", ["a.pt"]),
        "--prior": (["l2"], "prior", "l2"),
        "--l2-share": (["0.02"], "l2_share", 0.02),
        "--base-predictions": (["50"], "base_predictions", 50),
        "--text-encoder-learning-rate": (["5e-5"], "text_encoder_learning_rate", 5e-5),
        "--generation-batch-size --gb": (["8"], "generation_batch_size", 8),
        **SAMPLING,
        "--class-img-count": (["0"], "class_img_count", 0),
        "--compile": (["full"], "compile", "full"),
        "--class-sampler": (["plms"], "class_sampler", "plms"),
        "--class-steps": (["30"], "class_steps", 30),
        "--learning-rate": (["1e-5"], "learning_rate", 1e-5),
        "-l --lamb": (["1.5"], "lamb", 1.5),
        "--iterations": (["3000"], "iterations", 3000),
        "-s --save-every": (["200"], "save_every", 200),
        "-t --train-text-encoder": ([], "train_text_encoder", True),
        "--no-train-text-encoder": ([], "train_text_encoder", False),
        "--ckpt-path": (["a.ckpt"], "ckpt_path", Path("a.ckpt")),
        "--config": (["a.yaml"], "config", Path("a.yaml")),
        "--seed": (["9"], "seed", 9),
        "--batch-size": (["2"], "batch_size", 2),
        "--logger": (["csv"], "logger", "csv"),
        "--lr-schedule": (["cosine"], "lr_schedule", "cosine"),
        "--warmup-steps": (["0"], "warmup_steps", 0),
        "--weight-decay": (["0.1"], "weight_decay", 0.1),
        "--max-grad-norm": (["0"], "max_grad_norm", 0.0),
        "--flip": ([], "flip", True),
        "--no-flip": ([], "flip", False),
        "--gradient-checkpointing": ([], "gradient_checkpointing", "all"),
        "--optimizer": (["adamw8bit"], "optimizer", "adamw8bit"),
        "--train-dtype": (["bf16"], "train_dtype", "bf16"),
        "--fused-backward": ([], "fused_backward", True),
        "--no-fused-backward": ([], "fused_backward", False),
        "--clip": (["tensor"], "clip", "tensor"),
        "--gradient-accumulation": (["2"], "gradient_accumulation", 2),
        "--vram": (["8"], "vram", "8"),
        "--memory-table": ([], "memory_table", True),
        "--preview-prompt": (["sks {class}", "a {class}"], "preview_prompts", ["sks {class}", "a {class}"]),
        "--no-previews": ([], "no_previews", True),
        "--save-dtype": (["bf16"], "save_dtype", "bf16"),
        "--drop-resume-state": ([], "drop_resume_state", True),
        "--no-drop-resume-state": ([], "drop_resume_state", False),
    },
    "train": {
        "-i --image-dir": (["images"], "image_dir", Path("images")),
        "--config": (["a.yaml"], "config", Path("a.yaml")),
        "--autoencoder": (["a.safetensors"], "autoencoder", Path("a.safetensors")),
        "--ckpt-path": (["a.ckpt"], "ckpt_path", Path("a.ckpt")),
        "-r --resume-dir": (["runs/autoencoder-1"], "resume_dir", Path("runs/autoencoder-1")),
        "--iterations": (["3000"], "iterations", 3000),
        "-s --save-every": (["200"], "save_every", 200),
        "--learning-rate": (["1e-5"], "learning_rate", 1e-5),
        "--batch-size": (["2"], "batch_size", 2),
        "--seed": (["9"], "seed", 9),
        "-o --output-dir": (["out"], "output_dir", Path("out")),
        "-d --devices": (["0,1"], "devices", "0,1"),
        "--precision": (["bf16-mixed"], "precision", "bf16-mixed"),
        "--compile": (["off"], "compile", "off"),
        "--workers": (["4"], "workers", 4),
        "--save-dtype": (["bf16"], "save_dtype", "bf16"),
        "--drop-resume-state": ([], "drop_resume_state", True),
        "--no-drop-resume-state": ([], "drop_resume_state", False),
        "--logger": (["csv"], "logger", "csv"),
    },
    "convert": {
        "--to": (["diffusers"], "to", "diffusers"),
        "--half": ([], "half", True),
        "--variant": (["fp16"], "variant", "fp16"),
        "--ema": ([], "ema", True),
        "--vae": (["vae.pt"], "vae", Path("vae.pt")),
        "--merge": (["a.pt:0.5", "b.pt"], "merge", ["a.pt:0.5", "b.pt"]),
        "--base": (["a.ckpt"], "base", Path("a.ckpt")),
        "--rank": (["4"], "rank", 4),
        "--keep": (["0.95"], "keep", 0.95),
        "--dialect": (["peft"], "dialect", "peft"),
        "--token": (["cat"], "token", "cat"),
        "--config": (["a.yaml"], "config", Path("a.yaml")),
    },
}
"""Every flag with its short form, words that it takes, its option, and the value."""
FLAGS = {
    command: {flag: case for flags, case in cases.items() for flag in flags.split()}
    for command, cases in BY_COMMAND.items()
}

ORIGINAL = {
    "dreambooth": "-c --class-name -i --instance-img-dir -d --devices -o --output-dir -r --resume-dir --precision "
    "--generation-batch-size --gb --hw --ddim-steps --scale --ddim-eta --class-img-count --learning-rate -l --lamb "
    "--iterations -s --save-every -t --train-text-encoder",
    "txt2img": "-p --prompt -d --device -b --batch-size -c --ckpt-path -v --variations -o --output-dir --precision "
    "--hw --ddim-steps --scale --ddim-eta",
    "img2img": "-d --device -p --prompt -v --variations -i --init-img -o --output-dir --precision -s --strength",
}
"""The flags of the original project."""

EACH_FLAG = [(command, flag) for command, flags in FLAGS.items() for flag in flags]


def parse(command: str, *arguments: str) -> argparse.Namespace:
    required = {"img2img": ["-i", "a.png"], "train": ["diffusion"], "convert": ["IN", "OUT"]}.get(command, [])
    return PARSERS[f"{command}.py"]().parse_args([*required, *arguments])


@pytest.mark.parametrize(("command", "flag"), EACH_FLAG)
def test_flag_is_parsed(command: str, flag: str) -> None:
    words, name, expected = FLAGS[command][flag]
    value = getattr(parse(command, flag, *words), name)
    assert value == expected
    assert type(value) is type(expected)
    if flag not in ("-i", "--init-img"):
        assert getattr(parse(command), name) != expected or expected == "cpu"


@pytest.mark.parametrize("command", ORIGINAL)
def test_every_flag_of_the_original_is_there(command: str) -> None:
    assert set(ORIGINAL[command].split()) <= set(FLAGS[command])


def test_img2img_has_everything_that_txt2img_has() -> None:
    assert set(FLAGS["txt2img"]) - {"--score", "--from-image"} <= set(FLAGS["img2img"])
    txt2img, img2img = vars(parse("txt2img")), vars(parse("img2img"))
    del txt2img["typed"], txt2img["score"], txt2img["from_image"]
    assert {name: img2img[name] for name in txt2img} == txt2img


@pytest.mark.parametrize(
    ("margins", "words"),
    [
        ("64,-8,0,0", "adds pixels, and -8 would take some away"),
        ("64,0,0,100001", "can add 100,000 pixels to a side at most, not 100001"),
        ("64,0", "should be four whole numbers of pixels for left, top, right and bottom"),
        ("64,0,1.5,0", "should be four whole numbers"),
    ],
)
def test_margins_that_can_not_be_say_what_is_wrong(
    margins: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("img2img", f"--extend={margins}")
    assert words in capsys.readouterr().err


def test_prompts_add_up() -> None:
    assert parse("txt2img", "-p", "a", "b", "-p", "c").prompt == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("command", "arguments", "flag"),
    [
        ("txt2img", ["--hw", "0"], "--hw"),
        ("txt2img", ["--hw", "32", "32", "32"], "--hw"),
        ("txt2img", ["--sampler", "euler-maruyama"], "--sampler"),
        ("txt2img", ["--ddim-steps", "1001"], "--ddim-steps"),
        ("txt2img", ["--scale", "nan"], "--scale"),
        ("txt2img", ["--ddim-eta", "1.1"], "--ddim-eta"),
        ("txt2img", ["--ddim-eta", "0.5", "--sampler", "plms"], "--ddim-eta"),
        ("txt2img", ["-v", "0"], "--variations"),
        ("txt2img", ["-p", "a caf\udce9"], "--prompt"),
        ("txt2img", ["-n", "a caf\udce9"], "--negative-prompt"),
        ("txt2img", ["-b", "-1"], "--batch-size"),
        ("txt2img", ["--seed", "99999999999999999999"], "--seed"),
        ("txt2img", ["--precision", "bf16-mixed"], "--precision"),
        ("txt2img", ["-d", "cpu", "--precision", "fp16"], "--precision"),
        ("txt2img", ["-d", "cpu,cpu"], "--device"),
        ("txt2img", ["--compile", "on"], "--compile"),
        ("txt2img", ["-d", "cpu", "--compile", "graphs"], "--compile"),
        ("img2img", ["-s", "1.01"], "--strength"),
        ("img2img", ["--image-scale", "-1"], "--image-scale"),
        ("dreambooth", ["--iterations", "0"], "--iterations"),
        ("dreambooth", ["-c", "caf\udce9"], "--class-name"),
        ("dreambooth", ["--preview-prompt", "caf\udce9"], "--preview-prompt"),
        ("dreambooth", ["-s", "0"], "--save-every"),
        ("dreambooth", ["--learning-rate", "-1e-5"], "--learning-rate"),
        ("dreambooth", ["--lr-schedule", "cosin"], "--lr-schedule"),
        ("dreambooth", ["--warmup-steps", "-1"], "--warmup-steps"),
        ("dreambooth", ["--weight-decay", "inf"], "--weight-decay"),
        ("dreambooth", ["--max-grad-norm", "-1"], "--max-grad-norm"),
        ("dreambooth", ["--batch-size", "0"], "--batch-size"),
        ("dreambooth", ["-l", "-0.5"], "--lamb"),
        ("dreambooth", ["--class-img-count", "-1"], "--class-img-count"),
        ("dreambooth", ["--gb", "0"], "--gb"),
        ("dreambooth", ["--class-sampler", "euler-maruyama"], "--class-sampler"),
        ("dreambooth", ["--class-steps", "1001"], "--class-steps"),
        ("dreambooth", ["--precision", "fp16-mixed", "-d", "cpu"], "--precision"),
        ("dreambooth", ["--save-dtype", "fp8"], "--save-dtype"),
        ("dreambooth", ["--logger", "wandb"], "--logger"),
    ],
)
def test_an_error_names_the_flag(
    command: str,
    arguments: list[str],
    flag: str,
    tiny_checkpoint: Path,
    subject_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = {
        "txt2img": ["-v", 1],
        "img2img": ["-i", subject_dir / "0.png"],
        "dreambooth": ["-c", "can", "-i", subject_dir, "--iterations", 1, "--class-img-count", 1],
    }[command]
    refused(call(command, *needed, "--ckpt-path", tiny_checkpoint, *arguments), flag)


def test_img2img_needs_an_image() -> None:
    refused(call("img2img"), "--init-img")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [([], "--class-name"), (["-c", "can"], "--instance-img-dir"), (["-i", "x"], "--class-name")],
)
def test_dreambooth_needs_a_class_and_photos(arguments: list[str], missing: str) -> None:
    refused(call("dreambooth", *arguments), f"{missing} is needed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "autoencoder", "-i", "loop"],
        ["train", "autoencoder", "-i", "photos", "--config", "loop"],
        ["train", "autoencoder", "-i", "photos", "-o", "loop"],
        ["train", "diffusion", "-i", "captioned", "--autoencoder", "loop"],
        ["train", "publish", "--ckpt-path", "loop"],
        ["dreambooth", "-c", "can", "-i", "loop"],
        ["dreambooth", "-c", "can", "-i", "photos", "-o", "loop", "--ckpt-path", "model"],
        ["dreambooth", "-r", "loop"],
        ["txt2img", "-o", "loop", "--ckpt-path", "model"],
        ["img2img", "-i", "loop", "--ckpt-path", "model"],
        ["evaluate", "--ckpt-path", "loop"],
        ["convert", "loop", "out"],
        ["convert", "model", "loop"],
        ["convert", "model", "out", "--vae", "loop"],
    ],
    ids=" ".join,
)
def test_a_link_to_itself_is_named(
    arguments: list[str], tiny_checkpoint: Path, subject_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    write_captioned(Path("captioned"), 2)
    places = {"photos": subject_dir, "model": tiny_checkpoint}
    refused(call(*(str(places.get(one, one)) for one in arguments)), "loop")


@pytest.mark.parametrize("stage", STAGE_FLAGS)
def test_each_stage_has_known_flags(stage: str) -> None:
    assert STAGE_FLAGS[stage] <= {name for _, name, _ in FLAGS["train"].values()}


def test_every_flag_of_train_is_for_some_stage() -> None:
    assert set.union(*STAGE_FLAGS.values()) == {name for _, name, _ in FLAGS["train"].values()}


def test_the_examples_in_the_help_of_train_can_be_parsed() -> None:
    examples = re.findall(r"python train\.py (.*?)(?: +#.*)?$", train_parser().format_help(), re.MULTILINE)
    assert {train_parser().parse_args(example.split()).stage for example in examples} >= {"tokenizer", "diffusion"}
