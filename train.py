"""Trains a model from scratch, stage by stage: python train.py --help."""

from ldm.commands.app import launch
from ldm.commands.options.train import train_parser


def main() -> None:
    """Parses the flags and runs the command."""
    options = train_parser().parse_args()
    from ldm.commands.train import train  # torch is not imported for --help

    train(options)


if __name__ == "__main__":
    launch(main)
