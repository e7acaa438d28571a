"""What a LoRA file of a run says of itself to other programs: kohya's metadata and modelspec 1.0.1."""

import json

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.commands.dreambooth.plan import RunPlan
from ldm.prompts import TOKEN


def lora_notes(plan: RunPlan, info: CheckpointInfo, run: str) -> dict[str, str]:
    """The metadata of all steps of a run."""
    config, sampling = plan.config, plan.sampling
    alpha, phrase = config.lora_alpha or float(config.lora), f"{TOKEN} {plan.subject.class_name}"
    convolutions = (
        {"conv_dim": str(config.lora), "conv_alpha": f"{alpha:g}"} if config.lora_targets == "all+conv" else {}
    )
    decomposed = {"dora_wd": "True", "wd_on_output": "True"} if config.dora else {}  # LyCORIS's words
    text_rate = config.text_encoder_learning_rate or config.learning_rate
    notes: dict[str, object] = {
        "ss_v2": False,
        "ss_network_module": "networks.lora",
        "ss_network_dim": config.lora,
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps(convolutions | decomposed),
        "ss_network_dropout": f"{config.lora_dropout:g}",
        "ss_output_name": run,
        "ss_sd_model_name": plan.base.name,
        "ss_new_sd_model_hash": plan.base_sha256,
        "ss_learning_rate": f"{config.learning_rate:g}",
        "ss_unet_lr": f"{config.learning_rate:g}",
        "ss_text_encoder_lr": f"{text_rate:g}" if config.train_text_encoder else "None",
        "ss_lr_scheduler": config.lr_schedule,
        "ss_optimizer": config.optimizer,
        "ss_max_train_steps": config.iterations,
        "ss_batch_size_per_device": config.batch_size,
        "ss_resolution": f"({sampling.width}, {sampling.height})",
        "ss_num_train_images": len(plan.photos),
        "ss_num_reg_images": config.class_img_count,
        "ss_prior_loss_weight": f"{config.prior_loss_weight:g}",
        "ss_tag_frequency": json.dumps({plan.subject.class_name: {phrase: len(plan.photos)}}),
        "ss_seed": plan.options.seed,
    }
    spec = modelspec(info, plan.settings.model, run, "lora")
    if spec:  # the model has the shape of Stable Diffusion v1
        notes["ss_base_model_version"] = "sd_v1"
    return {name: str(value) for name, value in notes.items()} | spec
