"""Samples from an image and a prompt: python img2img.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.sampling import img2img_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = img2img_parser().parse_args()
    from ldm.commands.sampling import img2img  # torch is not imported for --help

    img2img(options)


if __name__ == "__main__":
    launch(main)
