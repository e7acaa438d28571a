"""Scores checkpoints and recommends one: python evaluate.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.sampling import evaluate_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = evaluate_parser().parse_args()
    from ldm.commands.sampling import evaluate  # torch is not imported for --help

    evaluate(options)


if __name__ == "__main__":
    launch(main)
