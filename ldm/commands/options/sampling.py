"""The flags of the commands that sample images. Defaults that aren't here are in the model's YAML."""

import argparse
from pathlib import Path

from ldm.choices import ENCODERS, PROMPT_SYNTAXES, PROTOCOLS, SAMPLING_PRECISIONS, described
from ldm.commands.options.common import (
    BATCH,
    CLIP_SKIP,
    IMAGES,
    SHARE,
    add_compile,
    add_sampling,
    class_name,
    command_parser,
    margins,
    number,
    seed,
    words,
)
from ldm.commands.options.defaults import model_default, yaml_value
from ldm.commands.options.places import CHECKPOINT, DIRECTORY, EMBEDDING, FILE, LORA, OUTPUT, place

OWN_SUBJECT = f'"a photo of sks {{class}}"; of a base model {yaml_value("sampling.prompt")}'


def _add_sampling_flags(
    parser: argparse.ArgumentParser, command: str, own_prompts: str = OWN_SUBJECT, weights: Path | None = None
) -> None:
    """Flags of all commands that sample. `own_prompts`, `weights`: this command's defaults."""
    _add_prompts(parser.add_argument_group("what to sample"), own_prompts)
    _add_checkpoints(parser.add_argument_group("with which weights"), weights)
    add_sampling(parser.add_argument_group("how to sample"))
    _add_placement(parser.add_argument_group("where and how fast"), command)


def _add_prompts(group: argparse._ArgumentGroup, own_prompts: str) -> None:
    group.add_argument(
        "-p",
        "--prompt",
        type=words,
        action="extend",
        nargs="+",
        metavar="TEXT",
        help="one or several, or @FILE.txt with one a line, with {class} for each checkpoint's class; "
        f"default: {own_prompts}",
    )
    group.add_argument("-n", "--negative-prompt", type=words, default="", metavar="TEXT", help="what not to show")
    group.add_argument(
        "--prompt-syntax",
        choices=PROMPT_SYNTAXES,
        default="plain",
        help=f"how prompts are read. {described(PROMPT_SYNTAXES)} (default: plain)",
    )
    group.add_argument(
        "--clip-skip",
        type=CLIP_SKIP,
        default=1,
        metavar="N",
        help="from which layer of the text encoder the prompt comes, counted from the last, 1 (default: 1)",
    )
    group.add_argument(
        "-v",
        "--variations",
        type=IMAGES,
        default=4,
        metavar="N",
        help="images per prompt, with the seeds SEED, SEED+1, ... (default: 4)",
    )
    group.add_argument(
        "--seed",
        type=seed,
        default=42,
        help="the first image's seed, -1 for a random one; the same seed gives the same image whatever the batch "
        "size (default: 42)",
    )


def _add_checkpoints(group: argparse._ArgumentGroup, weights: Path | None) -> None:
    group.add_argument(
        "-c",
        "--ckpt-path",
        type=place,
        default=weights,
        metavar="PATH",
        help="a checkpoint (a file or a diffusers directory), a LoRA file or an embedding, or a directory: all of them "
        "below it are compared "
        f"(default: {f'{weights}/' if weights else 'the downloaded weights, else the embedded tiny model'})",
    )
    group.add_argument(
        "-r",
        "--resume-dir",
        type=DIRECTORY,
        metavar="DIR",
        help="resume the call of this directory with its own options: samples what is missing or no longer valid, "
        "and with checkpoints that are new",
    )
    group.add_argument(
        "--lora",
        type=LORA,
        action="extend",
        nargs="+",
        metavar="FILE[:WEIGHT]",
        help="LoRA files of any program, merged into every checkpoint; WEIGHT is 1 unless it is given (docs/lora.md)",
    )
    group.add_argument(
        "--embedding",
        type=EMBEDDING,
        action="extend",
        nargs="+",
        metavar="FILE[:TOKEN]",
        help="textual inversions of any program; TOKEN is the word that stands for it in prompts, by default the one "
        "that the file names, else the file's name (docs/embeddings.md)",
    )
    group.add_argument(
        "--vae",
        type=place,
        metavar="PATH",
        help="another autoencoder for all checkpoints: a file, diffusers' directory of one, or a whole checkpoint "
        "(default: the checkpoint's own)",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--base",
        type=CHECKPOINT,
        metavar="PATH",
        help="the base model of compared checkpoints, their first row, and of LoRA files and embeddings (default: the "
        "one that their run or their metadata name)",
    )
    either.add_argument("--no-base", action="store_true", help="compare without the base model")
    _add_compared(group, *(["-i"] if weights else []))
    group.add_argument(
        "--config",
        type=FILE,
        metavar="YAML",
        help="the model's YAML, for a checkpoint that doesn't carry its own (default: configs/sd-v1.yaml)",
    )


def _add_compared(group: argparse._ArgumentGroup, *short: str) -> None:
    group.add_argument(
        *short,
        "--instance-img-dir",
        type=DIRECTORY,
        metavar="DIR",
        help="photos of the subject, shown beside the images and compared with them (default: those of its training)",
    )
    group.add_argument(
        "--subject",
        type=class_name,
        metavar="WORDS",
        help="the class of the subject of checkpoints that don't name it, such as LoRA files of other programs",
    )


def _add_placement(group: argparse._ArgumentGroup, command: str) -> None:
    group.add_argument(
        "-o",
        "--output-dir",
        type=OUTPUT,
        default=Path("outputs"),
        metavar="DIR",
        help=f"each call makes a new DIR/{command}-<n> (default: outputs)",
    )
    group.add_argument(
        "-b",
        "--batch-size",
        type=BATCH,
        metavar="N",
        help="images at a time on a GPU; the CPU samples each alone, so that no bit depends on the batch; "
        f"default: on CUDA as many as fit, up to 16, else {yaml_value('sampling.batch_size')}",
    )
    group.add_argument("-d", "--device", default="auto", help="auto, cpu, mps, cuda, cuda:1 or just 1 (default: auto)")
    group.add_argument(
        "--precision",
        choices=SAMPLING_PRECISIONS,
        default="auto",
        help=f"{described(SAMPLING_PRECISIONS)} (default: auto)",
    )
    add_compile(group)


def txt2img_parser() -> argparse.ArgumentParser:
    """Flags of txt2img.py."""
    parser = command_parser(
        "Samples images from prompts, or compares all checkpoints below a directory from the same noise.",
        "examples:\n"
        '  python txt2img.py -p "a photo of a corgi"\n'
        "  python txt2img.py --ckpt-path ckpts/                     # compare: one row per checkpoint\n"
        '  python txt2img.py --ckpt-path ckpts/can-1 -p "sks {class} on the moon" "a {class} on the moon" -v 2\n'
        "  python txt2img.py -r outputs/txt2img-3                   # resume an interrupted call\n",
    )
    _add_sampling_flags(parser, "txt2img")
    parser.add_argument_group("again").add_argument(
        "--from-image",
        type=FILE,
        metavar="FILE",
        help="prompt, seed, size and sampling from the text in an image of this project or of A1111; other flags go "
        "first",
    )
    parser.add_argument_group("scores").add_argument(
        "--score",
        action="store_true",
        help="score the checkpoints and recommend one; without -p with the model's short list of prompts",
    )
    return parser


def evaluate_parser() -> argparse.ArgumentParser:
    """Flags of evaluate.py: those of txt2img.py, the protocol and the encoder."""
    parser = command_parser(
        "Scores checkpoints and recommends one: is it the subject, are prompts followed, are photos copied, has the\n"
        "class changed? Samples the images for that, from the same noise for every checkpoint.",
        "examples:\n"
        "  python evaluate.py                                       # all below ckpts/, the short list of prompts\n"
        "  python evaluate.py --ckpt-path ckpts/water-bottle-1 -i data/bottle\n"
        "  python evaluate.py --protocol dreambooth                 # the paper's 25 prompts\n"
        "  python evaluate.py -r outputs/evaluate-3                 # resume, also with new checkpoints\n"
        "how to read the scores: docs/compare.md\n",
    )
    group = parser.add_argument_group("prompts and encoder of the scores")
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="default",
        help=f"{described(PROTOCOLS)} (default: default)",
    )
    group.add_argument(
        "--encoder",
        choices=ENCODERS,
        help=f"the image encoder to score by. {described(ENCODERS)}; {model_default('evaluation.encoder')}",
    )
    _add_sampling_flags(parser, "evaluate", "the protocol's", Path("ckpts"))
    return parser


def _add_mask(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mask",
        type=FILE,
        metavar="FILE",
        help="paint only where this image, of the shape of the initial one, is white; other pixels stay as they are",
    )
    group.add_argument("--invert-mask", action="store_true", help="paint where the mask is black")
    group.add_argument(
        "--mask-blur",
        type=number(float, 0, 256),
        metavar="PX",
        help="feather the edge of the mask inwards over about so many pixels, 0: a hard edge "
        "(default: 1 for each 128 pixels of the shorter side)",
    )
    group.add_argument(
        "--extend",
        type=margins,
        metavar="L,T,R,B",
        help="paint so many pixels beyond the image at its left, top, right and bottom",
    )


def img2img_parser() -> argparse.ArgumentParser:
    """Flags of img2img.py: those of txt2img.py and the initial image."""
    parser = command_parser(
        "Changes an image as a prompt says, with the base model or with fine-tuned checkpoints.",
        "example:\n"
        '  python img2img.py -i sketch.png -p "a photo of sks can on a rock" -s 0.6 \\\n'
        "      --ckpt-path ckpts/can-1/step-00600.safetensors\n",
    )
    group = parser.add_argument_group("initial image")
    group.add_argument(
        "-i",
        "--init-img",
        type=FILE,
        metavar="FILE",
        help="the initial image; without --hw its shape is kept, at about the model's size",
    )
    group.add_argument(
        "-s",
        "--strength",
        type=SHARE,
        default=0.75,
        metavar="X",
        help="0 keeps the image, 1 makes a new one (default: 0.75; with --mask or --extend 1)",
    )
    _add_mask(parser.add_argument_group("a part of the image"))
    _add_sampling_flags(parser, "img2img")
    return parser
