"""`modelspec` metadata (version 1.0.1) of a checkpoint or a LoRA file: what other programs show of a model."""

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig

ARCHITECTURE = "stable-diffusion-v1"
IMPLEMENTATION = "https://github.com/CompVis/stable-diffusion"


def modelspec(info: CheckpointInfo, config: LatentDiffusionConfig, name: str, adapter: str = "") -> dict[str, str]:
    """The metadata of a model with the shape of Stable Diffusion v1; none of another, which has no architecture there.

    `name`: a title for a model without a subject. `adapter`: "lora" for a file that changes such a model. There is no
    date: the same training writes the same file.
    """
    if config != LatentDiffusionConfig():
        return {}
    sampling = info.config.get("sampling")
    sides = sampling if isinstance(sampling, dict) else {}
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{ARCHITECTURE}/{adapter}" if adapter else ARCHITECTURE,
        "implementation": IMPLEMENTATION,
        "title": f"{info.class_name}, step {info.step}" if info.class_name else name,
        "resolution": f"{sides.get('width', 512)}x{sides.get('height', 512)}",
        "prediction_type": "epsilon",
        "trigger_phrase": info.instance_prompt,
        "merged_from": ", ".join(info.merged),
    }
    return {f"modelspec.{key}": value for key, value in spec.items() if value}
