"""The rules of `-r`: which flags may have another value than the resumed run, and why the others may not.

`recorded.py` checks the values themselves that a run's record holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ldm.sampling_options import SAMPLING_OPTIONS


class Change(Enum):
    """Whether a flag beside `-r` may have another value than the run."""

    FREE = "yes"
    MOVED = "another place, same content"
    FIXED = "no"


@dataclass(frozen=True)
class Rule:
    """Whether one flag may change, and why."""

    change: Change
    why: str


def _free(why: str) -> Rule:
    return Rule(Change.FREE, why)


def _moved(why: str) -> Rule:
    return Rule(Change.MOVED, why)


def _fixed(why: str) -> Rule:
    return Rule(Change.FIXED, why)


RECIPE = _fixed("all updates so far used it: another value is another training")
CLASS_IMAGES = _fixed("the class images were sampled with it")
PREVIEWS = _fixed("the previews of one run are compared: all steps are sampled alike")
MEMORY = _fixed("it rounds otherwise, and the resume state holds weights and moments in its types")
FILES = _fixed("the checkpoints of one run are compared, and have one type")
WHICH_IMAGE = _fixed("it decides which images this call samples: sample others in a new call")
HOW_IMAGE = _fixed("the images so far were sampled with it, and are compared with the others")
RECORDED_YAML = _fixed("the YAML that the run began with is in its run.yaml")
PLACE = _fixed("the run is resumed in its own directory, wherever that is now")

_TRAINING = {
    "resume_dir": _free("it says which run"),
    "iterations": _free("more updates or fewer, but not fewer than it has made"),
    "save_every": _free("it changes which steps are kept, and no weight"),
    "devices": _free("a device may be gone; with as many as before the batches stay the same"),
    "compile": _free("captured steps compute the same"),
    "logger": _free("it changes which log is written, and no weight"),
    "drop_resume_state": _free("it only removes the resume state after the last update"),
    "learning_rate": RECIPE,
    "batch_size": RECIPE,
    "seed": RECIPE,
    "save_dtype": FILES,
    "output_dir": PLACE,
    "config": RECORDED_YAML,
    "ckpt_path": _moved("the base weights are known by their SHA-256"),
}

DREAMBOOTH: Mapping[str, Rule] = {
    **_TRAINING,
    "class_name": _fixed("it names the subject in the prompts"),
    "instance_img_dir": _moved("the photos are known by their SHA-256"),
    "check": _free("it trains nothing"),
    "strict": _fixed("the photos were checked before the run began"),
    "lr_schedule": RECIPE,
    "lr_cycles": RECIPE,
    "lr_power": RECIPE,
    "ema_decay": _fixed("the average is part of the resume state, and all checkpoints hold it"),
    "min_snr_gamma": RECIPE,
    "noise_offset": RECIPE,
    "input_perturbation": RECIPE,
    "timesteps": RECIPE,
    "timestep_range": RECIPE,
    "train_layers": RECIPE,
    "warmup_steps": RECIPE,
    "weight_decay": RECIPE,
    "max_grad_norm": RECIPE,
    "train_text_encoder": RECIPE,
    "text_encoder_learning_rate": RECIPE,
    "lora": RECIPE,
    "lora_alpha": RECIPE,
    "lora_targets": RECIPE,
    "lora_dropout": RECIPE,
    "dora": RECIPE,
    "train": RECIPE,
    "vectors": RECIPE,
    "initial_words": RECIPE,
    "embedding": _fixed("the vectors that the run began with are in its run.yaml"),
    "flip": RECIPE,
    "lamb": RECIPE,
    "prior": RECIPE,
    "l2_share": RECIPE,
    "base_predictions": RECIPE,
    "precision": RECIPE,
    "gradient_checkpointing": _free("it changes memory and speed, and no number"),
    "optimizer": MEMORY,
    "train_dtype": MEMORY,
    "fused_backward": MEMORY,
    "clip": RECIPE,
    "gradient_accumulation": RECIPE,
    "memory_table": _fixed("it is another command, which trains nothing"),
    "vram": _fixed("the run's record has what it chose; --gradient-checkpointing alone can still save memory"),
    "class_img_count": RECIPE,
    "instance_prompts": RECIPE,
    "prompt_templates": RECIPE,
    "class_prompt": RECIPE,
    "caption_dropout": RECIPE,
    "class_img_dir": _moved("the class images are known by their SHA-256"),
    "generation_batch_size": CLASS_IMAGES,
    "class_sampler": CLASS_IMAGES,
    "class_steps": CLASS_IMAGES,
    "hw": _fixed("the photos are cropped to it"),
    "sampler": PREVIEWS,
    "ddim_steps": PREVIEWS,
    "scale": PREVIEWS,
    "ddim_eta": PREVIEWS,
    "spacing": PREVIEWS,
    "guidance_rescale": PREVIEWS,
    "preview_prompts": PREVIEWS,
    "no_previews": _free("previews change no weight"),
}
"""The flags of dreambooth.py, by the name of the option."""

TRAIN: Mapping[str, Rule] = {
    **_TRAINING,
    "stage": _fixed("a run is one stage"),
    "image_dir": _moved("images and captions are known by a SHA-256 of their names, sizes and words"),
    "autoencoder": _moved("it is known by its SHA-256"),
    "precision": _free("another device may need another one; weights and moments are kept in float32"),
    "workers": _free("it changes how many processes read images, and no weight"),
}
"""The flags of train.py."""

SAMPLING: Mapping[str, Rule] = {
    "resume_dir": _free("it says which call"),
    "device": _free("images of another kind of device are sampled again"),
    "batch_size": _free("the images so far stay"),
    "compile": _free("the images so far stay, unless it is full, which rounds differently"),
    "base": _free("it only adds a row"),
    "no_base": _free("it only leaves a row out"),
    "instance_img_dir": _free("the page shows photos and scores compare with them; no image depends on them"),
    "score": _free("scores are computed from the images that are there"),
    "encoder": _free("scores are computed from the images that are there"),
    "ckpt_path": _moved("checkpoints are known by the SHA-256 of their parts, and others may have come since"),
    "init_img": _moved("it is known by its SHA-256"),
    "seed_per_image": WHICH_IMAGE,
    "mask": _moved("it is known by its SHA-256"),
    "mask_blur": HOW_IMAGE,
    "invert_mask": HOW_IMAGE,
    "extend": HOW_IMAGE,
    "prompt": WHICH_IMAGE,
    "from_image": WHICH_IMAGE,
    "negative_prompt": WHICH_IMAGE,
    "prompt_syntax": HOW_IMAGE,
    "clip_skip": HOW_IMAGE,
    "variations": WHICH_IMAGE,
    "seed": WHICH_IMAGE,
    "protocol": WHICH_IMAGE,
    "strength": HOW_IMAGE,
    "image_scale": WHICH_IMAGE,
    "lora": HOW_IMAGE,
    "embedding": HOW_IMAGE,
    "subject": WHICH_IMAGE,
    "hw": HOW_IMAGE,
    **{option.flag: HOW_IMAGE for option in SAMPLING_OPTIONS},
    "precision": HOW_IMAGE,
    "config": _fixed("it has the shape of the model that sampled the images"),
    "vae": HOW_IMAGE,
    "output_dir": PLACE,
}
"""The flags of txt2img.py, img2img.py and evaluate.py."""


def flag_of(name: str) -> str:
    """The flag of an option: `--batch-size` of `batch_size`."""
    return {"preview_prompts": "--preview-prompt", "instance_prompts": "--instance-prompt", "stage": "stage"}.get(
        name, f"--{name.replace('_', '-')}"
    )


def as_markdown(rules: Mapping[str, Rule]) -> str:
    """The table in `docs/resume.md`, for each kind of command."""
    lines = [
        f"| `{flag_of(name)}` | {rule.change.value} | {rule.why} |"
        for name, rule in sorted(rules.items(), key=lambda item: (list(Change).index(item[1].change), item[0]))
        if name != "resume_dir"
    ]
    return "\n".join(["| flag | may change | why |", "|---|---|---|", *lines])
