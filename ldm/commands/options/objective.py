"""The flags of what an update of dreambooth.py minimises and which weights it changes (docs/training-options.md)."""

import argparse

from ldm.bounds import MOST_TIMESTEPS, MOST_UPDATES
from ldm.choices import TIMESTEPS, TRAIN_LAYERS, described
from ldm.commands.options.common import NON_NEGATIVE, SHARE, number


def add_objective(group: argparse._ArgumentGroup) -> None:
    """Which timesteps, noise and weights of the loss, what is saved, and which layers are trained."""
    group.add_argument(
        "--ema-decay",
        type=SHARE,
        metavar="D",
        help="save an average of the weights: each update keeps this share of it, such as 0.999, and less in the "
        "first updates; 0: save the weights themselves; default: 0",
    )
    group.add_argument(
        "--min-snr-gamma",
        type=NON_NEGATIVE,
        nargs="+",
        metavar="G",
        help="weight the loss of each image by min(SNR, G) / SNR of its timestep, such as 5; a second number is for "
        "the class half (docs/prior.md); 0: don't; default: 0",
    )
    group.add_argument(
        "--noise-offset",
        type=NON_NEGATIVE,
        metavar="X",
        help="add a random constant to each channel of the noise, such as 0.05, for darker and brighter images; "
        "default: 0",
    )
    group.add_argument(
        "--input-perturbation",
        type=NON_NEGATIVE,
        metavar="X",
        help="add further noise to the UNet's input that it doesn't have to predict, such as 0.1; default: 0",
    )
    group.add_argument(
        "--timesteps",
        choices=TIMESTEPS,
        help=f"how often each timestep is trained. {described(TIMESTEPS)}; default: uniform",
    )
    group.add_argument(
        "--timestep-range",
        type=number(int, 0, MOST_TIMESTEPS),
        nargs="+",
        metavar="T",
        help="train the timesteps from the first number to below the second one only; 0 has the least noise; "
        "default: 0 1000",
    )
    group.add_argument(
        "--train-layers",
        choices=TRAIN_LAYERS,
        help=f"layers of the UNet that are trained. {described(TRAIN_LAYERS)}; default: all",
    )


def add_schedule_shape(group: argparse._ArgumentGroup) -> None:
    """What two of the learning-rate schedules depend on."""
    group.add_argument(
        "--lr-cycles",
        type=number(int, 1, MOST_UPDATES),
        metavar="N",
        help="cosines of --lr-schedule cosine-restarts; default: 3",
    )
    group.add_argument(
        "--lr-power", type=NON_NEGATIVE, metavar="P", help="of --lr-schedule polynomial; 1: linear; default: 2"
    )
