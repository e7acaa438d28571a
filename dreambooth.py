"""Fine-tunes the model on a few photos of a subject: python dreambooth.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.dreambooth import dreambooth_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = dreambooth_parser().parse_args()
    from ldm.commands.dreambooth import dreambooth, memory_table  # torch is not imported for --help

    if options.memory_table:
        memory_table(options)
    else:
        dreambooth(options)


if __name__ == "__main__":
    launch(main)
