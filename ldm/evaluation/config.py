"""How a model's checkpoints are evaluated: a section of its YAML."""

from dataclasses import dataclass

from ldm.evaluation.clip_dino import CLIP_DINO
from ldm.evaluation.encoders import ENCODERS
from ldm.prompts import raise_for_prompts


@dataclass(frozen=True)
class EvaluationConfig:
    """Who looks at the images, and the short list of prompts; "{class}" stands for the subject's class."""

    encoder: str = CLIP_DINO
    prompts: tuple[str, ...] = (
        "a photo of sks {class}",
        "a photo of sks {class} in the snow",
        "a photo of sks {class} on the beach",
        "a photo of sks {class} on a wooden floor",
        "a photo of sks {class} with a city in the background",
    )

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder should be one of {', '.join(ENCODERS)}, not {self.encoder!r:.60}")
        if not self.prompts:
            raise ValueError("prompts should be at least one")
        raise_for_prompts("prompts", self.prompts)
