"""The flags of convert.py."""

import argparse

from ldm.bounds import HIGHEST_RANK
from ldm.choices import LAYOUTS, LORA_DIALECTS, VARIANTS, described
from ldm.commands.options.common import command_parser, number, words
from ldm.commands.options.places import CHECKPOINT, FILE, LORA, place


def convert_parser() -> argparse.ArgumentParser:
    """Flags of convert.py."""
    parser = command_parser(
        "Converts a checkpoint: any that --ckpt-path takes, into one file, a diffusers directory or a LoRA file.\n"
        "Says what it is. Weights keep their type and their bits.",
        "examples:\n"
        "  python convert.py ckpts/can-1/step-00400.safetensors can-diffusers   # for diffusers\n"
        "  python convert.py can-diffusers can.safetensors                      # and back: the same bits\n"
        "  python convert.py model.ckpt model.safetensors --half --ema\n"
        "  python convert.py v1-5.safetensors castle.safetensors --merge castle-lora.safetensors:0.8\n"
        "  python convert.py castle.safetensors castle-lora.safetensors --to lora --base v1-5.safetensors\n"
        "  python convert.py castle-lora.safetensors renamed.safetensors --to lora --dialect diffusers\n"
        "  python convert.py ckpts/can-1/step-00400.safetensors can.pt           # an embedding, for A1111\n"
        "where each kind of file is read: docs/share.md\n",
    )
    parser.add_argument("source", metavar="IN", type=CHECKPOINT, help="a file, a diffusers directory, or a LoRA file")
    parser.add_argument(
        "target", metavar="OUT", type=place, help="what to write: NAME.safetensors, or a directory; must not exist"
    )
    group = parser.add_argument_group("how to convert")
    group.add_argument(
        "--to",
        choices=LAYOUTS,
        help=f"{described(LAYOUTS)} (default: lora or embedding if IN is one, official for OUT.safetensors, else "
        "diffusers)",
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
        "--merge",
        type=LORA,
        action="extend",
        nargs="+",
        metavar="FILE[:WEIGHT]",
        help="LoRA files of any program, merged into the weights; WEIGHT is 1 unless it is given",
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
    lora = parser.add_argument_group("a LoRA file as OUT (docs/lora.md)")
    lora.add_argument(
        "--base",
        type=CHECKPOINT,
        metavar="PATH",
        help="the checkpoint that IN was fine-tuned from: OUT holds the difference; of a LoRA file as IN: its base "
        "model, for the metadata",
    )
    lora.add_argument(
        "--rank",
        type=number(int, 1, HIGHEST_RANK),
        metavar="N",
        help="ranks of each layer, at most (default: 32, without --keep; of a LoRA file as IN: its own)",
    )
    lora.add_argument(
        "--keep",
        type=number(float, 0.01, 1),
        metavar="SHARE",
        help="in each layer as many ranks as keep this share of the squared norm of its change, such as 0.95",
    )
    lora.add_argument(
        "--dialect", choices=LORA_DIALECTS, help=f"names of its tensors. {described(LORA_DIALECTS)} (default: kohya)"
    )
    return parser
