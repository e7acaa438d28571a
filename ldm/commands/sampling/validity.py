"""What an image depends on, as one digest in its file: while that is the same, it need not be drawn again."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.job import Job
from ldm.data.formats import open_image
from ldm.data.images import own_text
from ldm.errors import UserError
from ldm.runtime.devices import Compute
from ldm.user_files import open_regular

KEY = "key"
"""What the text of the file calls it."""

PNG_END = b"IEND\xae\x42\x60\x82"


class ImageKeys:
    """SHA-256 over everything that determines an image."""

    def __init__(self, job: Job, compute: Compute) -> None:
        self._shared = {
            "negative_prompt": job.negative_prompt,
            "sampling": asdict(job.sampling),
            "init": job.init and hashlib.sha256(job.init.image.numpy().tobytes()).hexdigest(),
            "strength": job.init and job.init.strength,
            "device": compute.device.type,
            "precision": [str(compute.dtype), str(compute.autocast_dtype)],
            **({"compile": "full"} if job.compile == "full" else {}),  # rounds otherwise; CUDA graphs don't
        }

    def of(self, checkpoint: Checkpoint, prompt: str, seed: int) -> str:
        """The key of what a checkpoint draws."""
        content = {
            **self._shared,
            "parts": checkpoint.parts,
            "tokenizer": checkpoint.tokenizer_digest,
            "model": asdict(checkpoint.settings.model),
            "prompt": prompt,
            "seed": seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_valid(path: Path, key: str) -> bool:
    """Whether an image is there, whole, and of this key."""
    try:
        with open_regular(path) as file:
            with open_image(file, path) as image:
                found = own_text(image, KEY)
            file.seek(-len(PNG_END), 2)
            return bool(found == key and file.read() == PNG_END)
    except (OSError, UserError):  # not there, or no image
        return False
