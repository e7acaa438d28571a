"""Fine-tunes the model on a few photos of a subject: python dreambooth.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.dreambooth import dreambooth_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = dreambooth_parser().parse_args()
    from ldm.commands.dreambooth import dreambooth  # torch is not imported for --help

    dreambooth(options)


if __name__ == "__main__":
    launch(main)
