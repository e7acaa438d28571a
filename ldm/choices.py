"""What a flag or a key of the YAML can choose from: one line each, without torch, so that `--help` stays fast.

Flags, YAML and help read these tables. A `Choice` names an object, which is imported when it is needed: a new choice
is a file and a line here. Entries of plain text only describe choices that the code itself distinguishes.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One entry: its object, as "module:name", and its description for `--help`."""

    target: str
    about: str

    def load(self) -> Any:
        """Imports the object."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    def __str__(self) -> str:
        return self.about


def described(choices: Mapping[str, object]) -> str:
    """The choices with their descriptions, for `--help`."""
    return "; ".join(f"{name}: {about}" for name, about in choices.items())


SAMPLERS = {
    "ddim": Choice("ldm.diffusion.samplers.ddim:DDIM", "the original code's default"),
    "plms": Choice("ldm.diffusion.samplers.plms:PLMS", "a multistep DDIM, the original code's other sampler"),
    "dpm-solver": Choice("ldm.diffusion.samplers.dpm_solver:DPM_SOLVER", "DPM-Solver++ 2M, good in 20 steps"),
    "euler": Choice("ldm.diffusion.samplers.euler:EULER", "Euler's method"),
    "euler-ancestral": Choice("ldm.diffusion.samplers.euler:EULER_ANCESTRAL", "Euler with fresh noise in each step"),
    "heun": Choice("ldm.diffusion.samplers.heun:HEUN", "Heun's method, two calls a step"),
    "lms": Choice("ldm.diffusion.samplers.lms:LMS", "linear multistep of fourth order"),
    "unipc": Choice("ldm.diffusion.samplers.unipc:UNIPC", "UniPC, good in 10 steps"),
    "dpm-solver-2m-sde": Choice("ldm.diffusion.samplers.dpm_solver_sde:DPM_SOLVER_2M_SDE", "dpm-solver with noise"),
    "dpm-solver-sde": Choice("ldm.diffusion.samplers.dpm_solver_sde:DPM_SOLVER_SDE", "the same with two calls a step"),
    "ddpm": Choice("ldm.diffusion.samplers.ddpm:DDPM", "DDPM's own, for 100 steps and more"),
    "lcm": Choice("ldm.diffusion.samplers.lcm:LCM", "for weights distilled into 2 to 8 steps"),
}
SPACINGS = {
    "original": Choice("ldm.diffusion.spacing:original", "the original code's timesteps, dpm-solver's own"),
    "leading": Choice("ldm.diffusion.spacing:leading", "as diffusers: the original's where the steps divide 1000"),
    "trailing": Choice("ldm.diffusion.spacing:trailing", "from the very last timestep on"),
    "karras": Choice("ldm.diffusion.spacing:karras", "Karras' noise levels, denser near the end"),
    "exponential": Choice("ldm.diffusion.spacing:exponential", "noise levels that shrink by the same factor"),
}
"""Which noise levels the steps of a sampler begin at."""

PROMPT_SYNTAXES = {
    "plain": "every character is part of the prompt",
    "a1111": "weights (word:1.3) (word) [word], BREAK, {a|b}, and more than 75 tokens",
}

OPTIMIZERS = {
    "adamw": Choice("ldm.training.optimizers:ADAMW", "float32 moments, 8 bytes a weight"),
    "adamw8bit": Choice("ldm.training.adamw_8bit:ADAMW_8BIT", "moments of 8 bits, 2 bytes a weight"),
    "adafactor": Choice("ldm.training.adafactor:ADAFACTOR", "a factored second moment and no first, nearly 0 bytes"),
    "lion": Choice("ldm.training.lion:LION", "one moment of 8 bits, 1 byte; give it a 3 to 10 times smaller rate"),
    "came": Choice("ldm.training.came:CAME_KIND", "adafactor with a first moment, 1 byte; give it a warm-up"),
    "prodigy": Choice(
        "ldm.training.prodigy:PRODIGY", "finds its own rate, 16 bytes; needs pip install prodigyopt; default rate: 1"
    ),
}
LOGGERS = {
    "tensorboard": Choice("ldm.training.tensorboard:TensorBoardLog", "losses and previews for TensorBoard"),
    "csv": Choice("ldm.training.logs:CSVLog", "losses in metrics.csv"),
    "wandb": Choice("ldm.training.wandb_log:WandbLog", "Weights & Biases; needs pip install wandb"),
    "none": Choice("ldm.training.logs:RunLog", "no log of the losses"),
}
LR_SCHEDULES = {
    "constant": Choice("ldm.training.optimizers:constant", "after the warm-up always the same"),
    "linear": Choice("ldm.training.optimizers:linear", "falls to zero along a line"),
    "cosine": Choice("ldm.training.optimizers:cosine", "falls to zero along half a cosine"),
    "cooldown": Choice("ldm.training.optimizers:cooldown", "constant, then falls to zero in the last quarter"),
    "cosine-restarts": Choice("ldm.training.optimizers:COSINE_RESTARTS", "--lr-cycles cosines one after the other"),
    "polynomial": Choice("ldm.training.optimizers:POLYNOMIAL", "falls to zero as the --lr-power of what is left"),
}
TIMESTEPS = {
    "uniform": "each as often as any other",
    "logit-normal": "those in the middle more often: the logistic function of a normal number",
}
"""How often each timestep is trained."""
TRAIN_LAYERS = {
    "all": "all",
    "attention": "self- and cross-attention",
    "cross-attention": "the attention to the prompt",
    "cross-attention-kv": "its keys and values only, as Custom Diffusion",
}
"""Layers of the UNet that are trained."""
PROMPT_TEMPLATES = {
    "dreambooth": Choice("ldm.training.templates:DREAMBOOTH", '"a sks {class}", as in the paper'),
    "textual-inversion": Choice("ldm.training.templates:TEXTUAL_INVERSION", "the 27 of that paper"),
}
PRIORS = {
    "class-images": "a loss on images of the class that the base model samples before the training",
    "l2": "each update takes back a share of the distance to the base model's weights; the memory of none",
    "base-prediction": "a loss on the photos with the class prompt, whose target is the base model's prediction",
    "none": "no prior preservation",
}
"""What keeps the class of a subject as the base model knows it."""
TRAIN_DTYPES = {
    "fp32": "4 bytes a weight",
    "bf16": "2 bytes a weight and gradient, 1 more in the optimizer; needs adamw8bit, adafactor, came or lion",
    "bf16-rounded": "without that one: each update is rounded at random to bfloat16, which adds noise",
}
CLIPPING = {
    "auto": "global, but tensor where weights are updated in the backward pass",
    "global": "the norm of all gradients together; in the backward pass that takes two of them, and twice the time",
    "tensor": "the norm of each weight's gradient alone",
    "none": "don't",
}
CHECKPOINTING_LEVELS = {
    "none": "keep all activations",
    "attention": "recompute those of the transformers",
    "all": "recompute those of all blocks",
}
AUTO = "auto"
VRAM = (AUTO, "24", "16", "12", "10", "8", "6", "4")
"""GB of memory that a training can be fitted into."""
SAMPLING_PRECISIONS = {
    "auto": "half precision on CUDA, else full",
    "full": "float32",
    "autocast": "float32 weights, mixed arithmetic",
    "bf16": "weights of that type",
    "fp16": "weights of that type",
}
TRAINING_PRECISIONS = {
    "auto": "autocast on CUDA, else full; dreambooth.py measures whether the CPU multiplies bfloat16 faster and then "
    "takes bf16-mixed, but not for the tiny model",
    "full": "float32",
    "autocast": "bf16-mixed where the device has it, else fp16-mixed",
    "bf16-mixed": "float32 weights, bfloat16 arithmetic",
    "fp16-mixed": "float32 weights, float16 arithmetic with loss scaling",
}
LORA_TARGETS = {
    "attention": "the attention layers",
    "attention+ff": "also the feed-forward layers",
    "all": "also the 1x1 convolutions around the transformers: kohya's targets",
    "all+conv": "also the UNet's 3x3 convolutions (LoCon)",
}
"""Layers that a LoRA training adapts."""
LORA_LEARNING_RATE = 20
"""How much larger the learning rate of adapters is, unless the model's YAML has one."""
TRAINED = {
    "weights": "those of the networks, or of adapters with --lora",
    "embedding": "only vectors that take the place of the word sks (textual inversion); all networks stay as they are",
}
"""What a fine-tuning trains."""
EMBEDDING_LEARNING_RATE = 25
"""How much larger the learning rate of an embedding is, unless the model's YAML has one."""
SAVE_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""Types of saved weights, by their names in torch."""
LAYOUTS = {
    "official": "one file with the names of the published Stable Diffusion v1",
    "diffusers": "a directory for from_pretrained",
    "lora": "a LoRA file: of another LoRA file, or of the difference from --base",
    "embedding": "the vectors of a textual inversion, as one tensor (.safetensors), A1111's (.pt) or diffusers' (.bin)",
}
"""What convert.py writes."""
LORA_DIALECTS = {
    "kohya": "what A1111, ComfyUI, kohya and diffusers read",
    "peft": "diffusers' names with lora_A and lora_B",
    "diffusers": "as its training scripts name them",
}
"""The names of tensors in a LoRA file that convert.py writes."""
VARIANTS = ("fp16",)
COMPILE_MODES = {
    "auto": "graphs for long jobs on CUDA, else off",
    "off": "call the UNet eagerly",
    "graphs": "capture CUDA graphs",
    "full": "torch.compile: takes minutes to begin and rounds differently, for thousands of images",
}
STEP_COMPILE_MODES = {"auto": "capture steps as a CUDA graph on one CUDA device, except in fp16-mixed", "off": "don't"}
ENCODERS = {
    "toyworld-judge": Choice("ldm.evaluation.encoders:load_judge_encoder", "the rendered toy world's judge"),
    "clip-dino": Choice("ldm.evaluation.clip_dino:load_clip_dino", "CLIP and DINO, for real photos"),
}
"""Image encoders that score images: functions of a device."""
PROTOCOLS = {
    "default": "the short list in the model's YAML",
    "dreambooth": "the paper's 25 prompts for objects, or for cats and dogs",
}
