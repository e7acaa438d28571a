"""Converts checkpoints: the official layout, diffusers' directories, LoRA files: python convert.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.convert import convert_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = convert_parser().parse_args()
    from ldm.commands.convert import convert  # torch is not imported for --help

    convert(options)


if __name__ == "__main__":
    launch(main)
