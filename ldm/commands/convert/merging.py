"""`convert.py --merge`: LoRA files merged into full weights."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.lora import read_lora
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.commands.convert.description import describe_lora
from ldm.commands.elsewhere import sha256_of
from ldm.commands.options.places import split_lora
from ldm.files import listed
from ldm.terminal import Lines

log = logging.getLogger(__name__)


def with_loras(file: CheckpointFile, loras: Sequence[str]) -> CheckpointFile:
    """A whole model with the LoRA files of `--merge`, each FILE[:WEIGHT], merged one after the other.

    Its metadata name them. A model without a subject gets that of the first LoRA that has one, and is its base model.
    """
    info, base = checkpoint_info(file), file.path
    for text in loras:
        path, weight = split_lora(text)
        one = read_checkpoint(path)
        lora = read_lora(one, file)
        log.info("%s", Lines(describe_lora(one, lora)))
        file = merged(file, lora, weight)
        info = replace(info, merged=[*info.merged, f"{path.name}:{weight:g} {sha256_of(path)}"])
        own = checkpoint_info(one)
        if own.words:
            words = listed([f"'{word}'" for word in own.words], 4)
            log.warning("%s was trained with the words %s, which OUT lacks: sample with --embedding", path, words)
        if own.class_name and not info.class_name:
            info = _of_subject(info, own)
            info = replace(info, base=base.name, base_sha256=sha256_of(base))
    digests = checkpoint_info(file).parts
    return replace(file, metadata={**file.metadata, **replace(info, parts=digests).to_metadata()})


def _of_subject(info: CheckpointInfo, lora: CheckpointInfo) -> CheckpointInfo:
    """What a LoRA file says of its training, for the model into which it is merged."""
    return replace(
        info,
        class_name=lora.class_name,
        instance_prompt=lora.instance_prompt,
        class_prompt=lora.class_prompt,
        step=lora.step,
        seed=lora.seed,
    )
