"""What checkpoints are asked to draw so that they can be scored."""

from collections.abc import Sequence

from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.errors import UserError
from ldm.evaluation.protocol import dreambooth_prompts, is_live
from ldm.training.config import Subject

CLASS_PROMPT = Subject("{class}").class_prompt
"""Shows what has become of the class."""


def prompts_to_score(given: list[str] | None, protocol: str, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The prompts that were given, else those of the protocol, with "{class}" still open; and that of the class.

    Raises `UserError` if there is no subject to ask for.
    """
    taught = {one.info.class_name for one in checkpoints if one.info.class_name}
    if given is None and not taught:
        raise UserError(
            f"{checkpoints[0].path} was taught no subject: give checkpoints of dreambooth.py (--ckpt-path ckpts/), "
            "or your own prompts (-p)"
        )
    short_list = checkpoints[0].settings.evaluation.prompts
    prompts = given or (dreambooth_protocol(checkpoints) if protocol == "dreambooth" else short_list)
    asks_for_class = CLASS_PROMPT in prompts or all(Subject(name).class_prompt in prompts for name in taught)
    return [*prompts] if asks_for_class else [*prompts, CLASS_PROMPT]


def dreambooth_protocol(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The paper's 25 prompts for the subjects' kind. Raises `UserError` if some of them live and some don't."""
    classes = {one.info.class_name for one in checkpoints if one.info.class_name}
    living = {name for name in classes if is_live(name)}
    if living and living != classes:
        raise UserError(
            f"--protocol dreambooth has other prompts for {', '.join(sorted(living))} than for "
            f"{', '.join(sorted(classes - living))}: evaluate their runs apart"
        )
    return dreambooth_prompts(live=bool(living))
