"""The flags of convert.py."""

import argparse

from ldm.choices import LAYOUTS, VARIANTS, described
from ldm.commands.options.common import command_parser, words
from ldm.commands.options.places import CHECKPOINT, FILE, place


def convert_parser() -> argparse.ArgumentParser:
    """Flags of convert.py."""
    parser = command_parser(
        "Converts a checkpoint: any that --ckpt-path takes, into one file or a diffusers directory. Says what it is.\n"
        "Weights keep their type and their bits.",
        "examples:\n"
        "  python convert.py ckpts/can-1/step-00400.safetensors can-diffusers   # for diffusers\n"
        "  python convert.py can-diffusers can.safetensors                      # and back: the same bits\n"
        "  python convert.py model.ckpt model.safetensors --half --ema\n"
        "  python convert.py ckpts/can-1/step-00400.safetensors can.pt           # an embedding, for A1111\n"
        "where each kind of file is read: docs/share.md\n",
    )
    parser.add_argument("source", metavar="IN", type=CHECKPOINT, help="a file, or a diffusers directory")
    parser.add_argument(
        "target", metavar="OUT", type=place, help="what to write: NAME.safetensors, or a directory; must not exist"
    )
    group = parser.add_argument_group("how to convert")
    group.add_argument(
        "--to",
        choices=LAYOUTS,
        help=f"{described(LAYOUTS)} (default: embedding if IN is one, official for OUT.safetensors, else diffusers)",
    )
    group.add_argument("--half", action="store_true", help="weights in float16, in half the space of float32")
    group.add_argument(
        "--variant",
        choices=VARIANTS,
        help="of a diffusers directory: weights in float16, in files named so, for from_pretrained(variant='fp16')",
    )
    group.add_argument(
        "--ema", action="store_true", help="the averaged weights of a file that has both: better images, as published"
    )
    group.add_argument(
        "--vae", type=place, metavar="PATH", help="with another autoencoder: a file, or diffusers' directory of one"
    )
    group.add_argument(
        "--token",
        type=words,
        metavar="WORD",
        help="of an embedding: the word that it stands for (default: the one that IN names, else its file's name). A "
        ".safetensors file then names its tensor so, as diffusers expects",
    )
    group.add_argument(
        "--config",
        type=FILE,
        metavar="YAML",
        help="the model's YAML, for a checkpoint that doesn't carry its own (default: configs/sd-v1.yaml)",
    )
    return parser
