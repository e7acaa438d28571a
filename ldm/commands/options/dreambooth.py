"""The flags of dreambooth.py. Where a flag has no default here, the model's YAML has it."""

import argparse
from pathlib import Path

from ldm.choices import (
    CHECKPOINTING_LEVELS,
    CLIPPING,
    LORA_LEARNING_RATE,
    LORA_TARGETS,
    LR_SCHEDULES,
    OPTIMIZERS,
    PROMPT_TEMPLATES,
    SAMPLERS,
    TRAIN_DTYPES,
    VRAM,
    described,
)
from ldm.commands.options.common import (
    BATCH,
    CLASS_IMAGES,
    DROPOUT,
    NON_NEGATIVE,
    RANK,
    SHARE,
    STEPS,
    UPDATES,
    WARMUP,
    add_compile,
    add_resuming,
    add_sampling,
    add_saving,
    add_training_devices,
    class_name,
    command_parser,
    seed,
    words,
)
from ldm.commands.options.defaults import model_default, yaml_value
from ldm.commands.options.places import CHECKPOINT, FILE, OUTPUT, source
from ldm.prompts import CLASS_PROMPT, INSTANCE_PROMPT


def dreambooth_parser() -> argparse.ArgumentParser:
    """Flags of dreambooth.py."""
    parser = command_parser(
        'Fine-tunes the model on a few photos of a subject: after training, "sks <class>" means this subject.',
        "examples:\n"
        '  python dreambooth.py -c "water bottle" -i data/bottle -s 200\n'
        "  python dreambooth.py -r ckpts/water-bottle-1             # resume an interrupted run\n"
        "  python txt2img.py --ckpt-path ckpts/                     # then compare the checkpoints\n",
    )
    _add_subject(parser.add_argument_group("the subject"))
    _add_prompts(parser.add_argument_group("prompts and captions"))
    training = parser.add_argument_group("training")
    _add_length_and_rate(training)
    _add_updates(training)
    _add_lora(parser.add_argument_group("LoRA (docs/lora.md)"))
    _add_memory(parser.add_argument_group("how much memory training takes"))
    _add_prior_preservation(parser.add_argument_group("prior preservation"))
    _add_images(parser.add_argument_group("class images and previews"))
    _add_placement(parser.add_argument_group("where and how fast"))
    return parser


def _default(name: str) -> str:
    return model_default(f"dreambooth.{name}")


def _shown(prompt: str) -> str:
    return f'default: "{prompt}"'


def _add_subject(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-c", "--class-name", type=class_name, metavar="WORDS", help='what the subject is, such as "water bottle"'
    )
    group.add_argument(
        "-i",
        "--instance-img-dir",
        type=source,
        metavar="DIR",
        help="photos of the subject, 3 to 30: a folder, an archive (zip, tar, tar.gz ...) or the URL of one",
    )
    add_resuming(group)
    group.add_argument(
        "--check",
        action="store_true",
        help="train nothing: print a verdict on each photo, how the prompts are tokenized, the predicted memory, disk "
        "and time, and what would be better; write the crops as one image into --output-dir",
    )
    group.add_argument(
        "--strict", action="store_true", help="refuse to train if the check of the photos finds errors or warnings"
    )


def _add_prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--instance-prompt",
        type=words,
        nargs="+",
        dest="instance_prompts",
        metavar="TEXT",
        help="prompt of the photos, with sks; {class} stands for the class, {caption} for the photo's caption: a line "
        "of its .txt file, or its text in metadata.jsonl. Of several, each photo has a random one in each step; "
        f"{_shown(INSTANCE_PROMPT)}",
    )
    group.add_argument(
        "--prompt-templates",
        choices=PROMPT_TEMPLATES,
        help=f"a list of prompts in place of --instance-prompt. {described(PROMPT_TEMPLATES)}",
    )
    group.add_argument(
        "--class-prompt", type=words, metavar="TEXT", help=f"prompt of class images; {_shown(CLASS_PROMPT)}"
    )
    group.add_argument(
        "--caption-dropout",
        type=SHARE,
        metavar="X",
        help="share of captions that are left out, at random; default: 0",
    )


def _add_length_and_rate(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--iterations", type=UPDATES, metavar="N", help=f"updates of the weights; {_default('iterations')}"
    )
    group.add_argument(
        "-s",
        "--save-every",
        type=UPDATES,
        metavar="N",
        help=f"write a checkpoint and previews every N updates; {_default('save_every')}",
    )
    group.add_argument(
        "--learning-rate",
        type=NON_NEGATIVE,
        metavar="LR",
        help=f"of LoRA {LORA_LEARNING_RATE} times the default; {_default('learning_rate')}",
    )
    group.add_argument(
        "--text-encoder-learning-rate",
        type=NON_NEGATIVE,
        metavar="LR",
        help="of the text encoder, with -t; 0: that of the UNet; " + _default("text_encoder_learning_rate"),
    )
    group.add_argument(
        "--lr-schedule", choices=LR_SCHEDULES, help=f"{described(LR_SCHEDULES)}; {_default('lr_schedule')}"
    )
    group.add_argument(
        "--warmup-steps",
        type=WARMUP,
        metavar="N",
        help=f"updates until the learning rate is reached; {_default('warmup_steps')}",
    )


def _add_updates(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--weight-decay", type=NON_NEGATIVE, metavar="X", help=_default("weight_decay"))
    group.add_argument(
        "--max-grad-norm",
        type=NON_NEGATIVE,
        metavar="X",
        help=f"clip the gradient's norm; 0: don't; {_default('max_grad_norm')}",
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
        help=f"photos, and as many class images, per update and device; {_default('batch_size')}",
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
        help=f"train the text encoder too; {_default('train_text_encoder')}",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help=f"also train on mirrored images; turn it off for lettering and faces; {_default('flip')}",
    )
    group.add_argument("--seed", type=seed, default=42, help="of everything random; -1: a random one (default: 42)")


def _add_lora(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lora",
        type=RANK,
        metavar="RANK",
        help="train adapters of this rank instead of all weights, at a higher learning rate, and save them as a LoRA "
        f"file of a few MB; 0: train all weights; {_default('lora')}",
    )
    group.add_argument(
        "--lora-alpha",
        type=NON_NEGATIVE,
        metavar="A",
        help="scale the adapters by A / RANK; 0: A is the rank; " + _default("lora_alpha"),
    )
    group.add_argument(
        "--lora-targets",
        choices=LORA_TARGETS,
        help=f"layers that get one. {described(LORA_TARGETS)}; {_default('lora_targets')}",
    )
    group.add_argument(
        "--lora-dropout",
        type=DROPOUT,
        metavar="P",
        help=f"share of each adapter's ranks that an update leaves out, to 0.9; {_default('lora_dropout')}",
    )


def _add_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gradient-checkpointing",
        nargs="?",
        choices=CHECKPOINTING_LEVELS,
        const="all",
        help="recompute activations in the backward pass: less memory, slower, the same numbers. "
        f"{described(CHECKPOINTING_LEVELS)}; the flag alone: all; {_default('gradient_checkpointing')}",
    )
    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help=f"{described(OPTIMIZERS)}; {_default('optimizer')}",
    )
    group.add_argument(
        "--train-dtype",
        choices=TRAIN_DTYPES,
        help=f"type of the trained weights. {described(TRAIN_DTYPES)}; {_default('train_dtype')}",
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


def _add_prior_preservation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-l",
        "--lamb",
        type=NON_NEGATIVE,
        metavar="X",
        help=f"weight of the class images' loss; {_default('prior_loss_weight')}",
    )
    group.add_argument(
        "--class-img-count",
        type=CLASS_IMAGES,
        metavar="N",
        help=f"class images, sampled once and kept; 0: no prior preservation; {_default('class_img_count')}",
    )
    group.add_argument(
        "--class-img-dir",
        type=source,
        metavar="DIR",
        help="class images of your own in place of sampled ones: a folder, an archive or the URL of one; all of "
        "them, or the first --class-img-count",
    )
    group.add_argument(
        "--generation-batch-size",
        "--gb",
        type=BATCH,
        metavar="N",
        help="class images per batch; default: on CUDA as many as fit, up to 16, else "
        f"{yaml_value('sampling.batch_size')}",
    )


def _add_images(group: argparse._ArgumentGroup) -> None:
    add_sampling(group)
    group.add_argument(
        "--class-sampler",
        choices=SAMPLERS,
        help=f"of class images; default: --sampler if it is set, else {yaml_value('dreambooth.class_sampler')}",
    )
    group.add_argument(
        "--class-steps",
        type=STEPS,
        metavar="N",
        help="of class images; default: --ddim-steps if it is set; the previews' if only --sampler is set; else "
        f"{yaml_value('dreambooth.class_steps')}",
    )
    group.add_argument(
        "--preview-prompt",
        type=words,
        action="extend",
        nargs="+",
        dest="preview_prompts",
        metavar="TEXT",
        help="sampled at every save from the same noise; {class} stands for the class; "
        f"{_default('preview_prompts')}",
    )
    group.add_argument("--no-previews", action="store_true", help="sample none")


def _add_placement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ckpt-path",
        type=CHECKPOINT,
        metavar="PATH",
        help="the base model: a file or a diffusers directory (default: the downloaded one, else the tiny model)",
    )
    group.add_argument(
        "--config",
        type=FILE,
        metavar="YAML",
        help="the model's YAML, for weights that don't carry their own (default: configs/sd-v1.yaml)",
    )
    group.add_argument(
        "-o",
        "--output-dir",
        type=OUTPUT,
        default=Path("ckpts"),
        metavar="DIR",
        help="each run makes a new DIR/<class>-<n>; class images are kept in DIR/class-images (default: ckpts)",
    )
    add_training_devices(group)
    add_compile(group, ". Training steps are captured on one CUDA device, unless it is off or in fp16-mixed")
    add_saving(group)
