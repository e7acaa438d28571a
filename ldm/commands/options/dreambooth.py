"""The flags of dreambooth.py. Where a flag has no default here, the model's YAML has it."""

import argparse
from pathlib import Path

from ldm.choices import PRIORS, PROMPT_TEMPLATES, SAMPLERS, described
from ldm.commands.options.common import (
    BATCH,
    CLASS_IMAGES,
    NON_NEGATIVE,
    PREDICTIONS,
    SHARE,
    STEPS,
    add_compile,
    add_resuming,
    add_sampling,
    add_saving,
    add_training_devices,
    class_name,
    command_parser,
    words,
)
from ldm.commands.options.defaults import dreambooth_default, yaml_value
from ldm.commands.options.objective import add_objective, add_schedule_shape
from ldm.commands.options.optimization import (
    add_embedding,
    add_length_and_rate,
    add_lora,
    add_memory,
    add_updates,
)
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
    add_length_and_rate(training)
    add_schedule_shape(training)
    add_updates(training)
    add_objective(parser.add_argument_group("what is trained (docs/training-options.md)"))
    add_lora(parser.add_argument_group("LoRA (docs/lora.md)"))
    add_embedding(parser.add_argument_group("textual inversion (docs/embeddings.md)"))
    add_memory(parser.add_argument_group("how much memory training takes"))
    _add_prior_preservation(parser.add_argument_group("prior preservation"))
    _add_images(parser.add_argument_group("class images and previews"))
    _add_placement(parser.add_argument_group("where and how fast"))
    return parser


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
        "--class-prompt",
        type=words,
        metavar="TEXT",
        help=f"prompt of class images, and of --prior base-prediction; {_shown(CLASS_PROMPT)}",
    )
    group.add_argument(
        "--caption-dropout",
        type=SHARE,
        metavar="X",
        help="share of captions that are left out, at random; default: 0",
    )


def _add_prior_preservation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prior",
        choices=PRIORS,
        help="what keeps the class of the subject as it was (docs/prior.md). "
        f"{described(PRIORS)}; {dreambooth_default('prior')}",
    )
    group.add_argument(
        "--l2-share",
        type=SHARE,
        metavar="X",
        help=f"share of the distance that each update takes back, of --prior l2; {dreambooth_default('l2_share')}",
    )
    group.add_argument(
        "--base-predictions",
        type=PREDICTIONS,
        metavar="N",
        help="predictions of the base model that are made before the training and used in turn, of --prior "
        f"base-prediction; {dreambooth_default('base_predictions')}",
    )
    group.add_argument(
        "-l",
        "--lamb",
        type=NON_NEGATIVE,
        metavar="X",
        help=f"weight of the loss on the class; 0: no prior preservation; {dreambooth_default('prior_loss_weight')}",
    )
    group.add_argument(
        "--class-img-count",
        type=CLASS_IMAGES,
        metavar="N",
        help=f"class images, sampled once and kept; 0: no prior preservation; {dreambooth_default('class_img_count')}",
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
        f"{dreambooth_default('preview_prompts')}",
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
