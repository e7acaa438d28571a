"""The flags of the updates of dreambooth.py: length, learning rate, adapters, memory. The YAML has the defaults."""

import argparse

from ldm.choices import (
    CHECKPOINTING_LEVELS,
    CLIPPING,
    EMBEDDING_LEARNING_RATE,
    LORA_LEARNING_RATE,
    LORA_TARGETS,
    LR_SCHEDULES,
    OPTIMIZERS,
    TRAIN_DTYPES,
    TRAINED,
    VRAM,
    described,
)
from ldm.commands.options.common import BATCH, DROPOUT, NON_NEGATIVE, RANK, UPDATES, VECTORS, WARMUP, seed, words
from ldm.commands.options.defaults import dreambooth_default
from ldm.commands.options.places import EMBEDDING


def add_length_and_rate(group: argparse._ArgumentGroup) -> None:
    """How long the training is, and its learning rate."""
    group.add_argument(
        "--iterations", type=UPDATES, metavar="N", help=f"updates of the weights; {dreambooth_default('iterations')}"
    )
    group.add_argument(
        "-s",
        "--save-every",
        type=UPDATES,
        metavar="N",
        help=f"write a checkpoint and previews every N updates; {dreambooth_default('save_every')}",
    )
    group.add_argument(
        "--learning-rate",
        type=NON_NEGATIVE,
        metavar="LR",
        help=f"of LoRA {LORA_LEARNING_RATE} and of an embedding {EMBEDDING_LEARNING_RATE} times the default, unless "
        f"the model's YAML has its own; {dreambooth_default('learning_rate')}",
    )
    group.add_argument(
        "--text-encoder-learning-rate",
        type=NON_NEGATIVE,
        metavar="LR",
        help="of the text encoder, with -t; 0: that of the UNet; " + dreambooth_default("text_encoder_learning_rate"),
    )
    group.add_argument(
        "--lr-schedule", choices=LR_SCHEDULES, help=f"{described(LR_SCHEDULES)}; {dreambooth_default('lr_schedule')}"
    )
    group.add_argument(
        "--warmup-steps",
        type=WARMUP,
        metavar="N",
        help=f"updates until the learning rate is reached; {dreambooth_default('warmup_steps')}",
    )


def add_updates(group: argparse._ArgumentGroup) -> None:
    """What an update is made of."""
    group.add_argument("--weight-decay", type=NON_NEGATIVE, metavar="X", help=dreambooth_default("weight_decay"))
    group.add_argument(
        "--max-grad-norm",
        type=NON_NEGATIVE,
        metavar="X",
        help=f"clip the gradient's norm; 0: don't; {dreambooth_default('max_grad_norm')}",
    )
    group.add_argument(
        "--clip",
        choices=CLIPPING,
        help=f"which norm --max-grad-norm clips. {described(CLIPPING)}; default: auto",
    )
    group.add_argument(
        "--batch-size",
        type=BATCH,
        metavar="N",
        help=f"photos, and as many class images, per update and device; {dreambooth_default('batch_size')}",
    )
    group.add_argument(
        "--gradient-accumulation",
        type=BATCH,
        metavar="N",
        help="compute N batches one after the other for each update: as a batch N times as large, nearly in the memory "
        "of one; default: 1",
    )
    group.add_argument(
        "-t",
        "--train-text-encoder",
        action=argparse.BooleanOptionalAction,
        help=f"train the text encoder too; {dreambooth_default('train_text_encoder')}",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help=f"also train on mirrored images; turn it off for lettering and faces; {dreambooth_default('flip')}",
    )
    group.add_argument("--seed", type=seed, default=42, help="of everything random; -1: a random one (default: 42)")


def add_lora(group: argparse._ArgumentGroup) -> None:
    """Adapters in place of all weights."""
    group.add_argument(
        "--lora",
        type=RANK,
        metavar="RANK",
        help="train adapters of this rank instead of all weights, at a higher learning rate, and save them as a LoRA "
        f"file of a few MB; 0: train all weights; {dreambooth_default('lora')}",
    )
    group.add_argument(
        "--lora-alpha",
        type=NON_NEGATIVE,
        metavar="A",
        help="scale the adapters by A / RANK; 0: A is the rank; " + dreambooth_default("lora_alpha"),
    )
    group.add_argument(
        "--lora-targets",
        choices=LORA_TARGETS,
        help=f"layers that get one. {described(LORA_TARGETS)}; {dreambooth_default('lora_targets')}",
    )
    group.add_argument(
        "--lora-dropout",
        type=DROPOUT,
        metavar="P",
        help=f"share of each adapter's ranks that an update leaves out, to 0.9; {dreambooth_default('lora_dropout')}",
    )
    group.add_argument(
        "--dora",
        action=argparse.BooleanOptionalAction,
        help="also train the length of each output's weights: DoRA, nearer to a full training at a low rank, slower; "
        f"{dreambooth_default('dora')}",
    )


def add_embedding(group: argparse._ArgumentGroup) -> None:
    """Vectors of the subject's word in place of all weights."""
    group.add_argument(
        "--train", choices=TRAINED, help=f"what is trained. {described(TRAINED)}; {dreambooth_default('train')}"
    )
    group.add_argument(
        "--vectors",
        type=VECTORS,
        metavar="N",
        help=f"how many take the place of sks; saved as a file of a few kB; {dreambooth_default('vectors')}",
    )
    group.add_argument(
        "--embedding",
        type=EMBEDDING,
        action="extend",
        nargs="+",
        metavar="FILE[:TOKEN]",
        help="words that the model gets while it is trained, such as sks from a textual inversion, a pivot for LoRA; "
        "the checkpoints carry them",
    )
    group.add_argument(
        "--initial-words",
        type=words,
        metavar="TEXT",
        help="the vectors begin as those of these words; default: the class name",
    )


def add_memory(group: argparse._ArgumentGroup) -> None:
    """How much memory the training takes."""
    group.add_argument(
        "--gradient-checkpointing",
        nargs="?",
        choices=CHECKPOINTING_LEVELS,
        const="all",
        help="recompute activations in the backward pass: less memory, slower, the same numbers. "
        f"{described(CHECKPOINTING_LEVELS)}; the flag alone: all; {dreambooth_default('gradient_checkpointing')}",
    )
    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help=f"{described(OPTIMIZERS)}; {dreambooth_default('optimizer')}",
    )
    group.add_argument(
        "--train-dtype",
        choices=TRAIN_DTYPES,
        help=f"type of the trained weights. {described(TRAIN_DTYPES)}; {dreambooth_default('train_dtype')}",
    )
    group.add_argument(
        "--fused-backward",
        action=argparse.BooleanOptionalAction,
        help="update each weight in the backward pass, as soon as its gradient is complete, and free the gradient: "
        "up to 2 or 4 bytes less per weight; on one device, not in fp16-mixed. --vram sets it if needed; default: off",
    )
    group.add_argument(
        "--vram",
        choices=VRAM,
        default="auto",
        help="choose the fastest memory profile that fits into so many GB: sets whichever of the four flags above you "
        "did not set (default: auto, into what is free on a CUDA device, keeping what the model's YAML sets; "
        "elsewhere it sets nothing)",
    )
    group.add_argument(
        "--memory-table",
        action="store_true",
        help="only print which profile --vram would choose for each size, what it is predicted to take, and end; needs "
        "no weights or photos. Takes minutes; --config, --hw, --batch-size and the flags above count",
    )
