"""Samples images from prompts, or compares checkpoints: python txt2img.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.sampling import txt2img_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = txt2img_parser().parse_args()
    from ldm.commands.sampling import txt2img  # torch is not imported for --help

    txt2img(options)


if __name__ == "__main__":
    launch(main)
