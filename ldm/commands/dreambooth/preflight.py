"""What is known before a run begins: its photos, its prompts, its cost, and what would be better.

`check` prints all of it (--check); every run prints the short form of `report_photos`.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ldm.commands.dreambooth.cost import cost_lines
from ldm.commands.dreambooth.directory import refuse_without_room
from ldm.commands.dreambooth.plan import RunPlan
from ldm.data.images import save_png
from ldm.data.photos import named
from ldm.data.verdicts import ADVICE, Severity, Verdict
from ldm.errors import UserError
from ldm.files import counted, slug
from ldm.report.contact_sheet import contact_sheet
from ldm.runtime.models import read_tokenizer
from ldm.terminal import Lines
from ldm.training.embedding import with_subject

log = logging.getLogger(__name__)

SHEET = "photos.png"
"""The contact sheet in a run directory."""
MOST_PROMPTS = 8
"""How many of the drawn prompts are printed."""
ENOUGH = 3
"""Fewer good photos are too few; the paper uses 3 to 5."""
LOGGED = frozenset(["unreadable", "no image", "small", "long"])
"""Kinds of findings that reading the folder has logged, file by file."""


def check(plan: RunPlan) -> Path:
    """Prints everything that is known about a run before it begins, and returns the contact sheet's path.

    Raises `UserError` for errors, and with --strict for warnings.
    """
    photos, folder = plan.photo_verdicts, plan.options.instance_img_dir
    if not plan.options.resume_dir:
        refuse_without_room(plan)
    size = plan.sampling.height, plan.sampling.width
    log.info("photos in %s, cropped to %d x %d\n%s", folder, *size, Lines(table(photos)))
    log.info("%s", _summary(photos))
    sheet = plan.options.resume_dir / SHEET if plan.options.resume_dir else _sheet_path(plan)
    write_sheet(photos, sheet)
    log.info("the crops: %s", sheet)
    log.info("prompts\n%s", Lines(_prompt_lines(plan)))
    log.info("predicted\n%s", Lines(cost_lines(plan)))
    if advice := _advice(photos, plan):
        log.info("what would be better\n%s", Lines(advice))
    _refuse(photos, plan, errors_too=True)
    return sheet


def report_photos(plan: RunPlan) -> None:
    """The short form: how many photos are good enough, and what is wrong with the others.

    Raises `UserError` for errors and warnings with --strict.
    """
    photos, folder = plan.photo_verdicts, plan.options.instance_img_dir
    for kind, found in _by_kind(photos).items():
        if kind not in LOGGED:
            words = Lines(f"  {one.path.name}: {_words(one, kind)}" for one in found)
            log.warning("%s: %s:\n%s", named([one.path for one in found], folder), ADVICE[kind], words)
    log.info("%s; --check prints more", _summary(photos))
    _refuse(photos, plan, errors_too=plan.options.strict)


def write_sheet(photos: Iterable[Verdict], path: Path) -> None:
    """Writes the crops that are trained on as one PNG, each with its name and worst finding."""
    shown = [(one, one.crop) for one in photos if one.crop is not None]
    labels = [f"{one.path.name}\n{_worst(one)}" for one, _ in shown]
    save_png(path, contact_sheet([(label, crop) for label, (_, crop) in zip(labels, shown, strict=True)]))


def table(photos: Iterable[Verdict]) -> list[str]:
    """A line for each file: its name, its size in pixels and its verdict, the worst findings first."""
    rows = [("file", "pixels", "verdict")]
    for one in photos:
        size = "-" if one.size is None else f"{one.size[0]} x {one.size[1]}"
        ordered = sorted(one.findings, key=lambda finding: -finding.severity)
        words = [finding.words for finding in ordered]
        label = "good" if one.is_good else one.severity.name if one.severity else "-"
        rows.append((one.path.name, size, f"{label}: {'; '.join(words)}" if words else label))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {name:{widths[0]}}  {size:{widths[1]}}  {verdict}" for name, size, verdict in rows]


def _sheet_path(plan: RunPlan) -> Path:
    return plan.output_dir / f"{slug(plan.subject.class_name)}-{SHEET}"


def _summary(photos: Iterable[Verdict]) -> str:
    used = [one for one in photos if one.crop is not None]
    good = sum(one.is_good for one in used)
    lost = sum(one.severity == Severity.ERROR for one in photos)
    return f"{good} of {counted(len(used), 'photo')} good enough" + (f", {lost} more can't be used" if lost else "")


def _by_kind(photos: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """The files with each kind of error or warning."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    for one in photos:
        for finding in one.findings:
            if finding.kind and one not in found[finding.kind]:
                found[finding.kind].append(one)
    return {kind: found[kind] for kind in ADVICE if kind in found}


def _words(photo: Verdict, kind: str) -> str:
    return "; ".join(finding.words for finding in photo.findings if finding.kind == kind)


def _worst(photo: Verdict) -> str:
    words = [one.words for one in photo.findings if one.severity == photo.severity > Severity.NOTE]
    return words[0] if words else "good"


def _prompt_lines(plan: RunPlan) -> list[str]:
    """How the tokenizer splits the prompts of photos and class images."""
    tokenizer = read_tokenizer(plan.tokenizer, plan.settings)
    if plan.config.train == "embedding":
        tokenizer = with_subject(tokenizer, plan.config, plan.settings.model.text_encoder.vocab_size)
    if (drawn := plan.prompts) is not None:
        captioned = sum(map(bool, plan.captions))
        lines = [f"  {len(drawn.bare)} templates, {captioned} of {counted(len(plan.captions), 'photo')} with captions"]
        return lines + [f"  {text}: {' '.join(tokenizer.tokens(text))}" for text in drawn.texts[:MOST_PROMPTS]]
    subject = plan.subject
    return [
        f"  {prompt}: {' '.join(tokenizer.tokens(prompt))}"
        for prompt in (subject.instance_prompt, subject.class_prompt)
    ]


def _too_few(photos: Iterable[Verdict]) -> bool:
    return sum(one.is_good for one in photos) < ENOUGH


def _advice(photos: list[Verdict], plan: RunPlan) -> list[str]:
    folder = plan.options.instance_img_dir
    by_kind = _by_kind(photos)
    lines = [f"  {named([one.path for one in found], folder)}: {ADVICE[kind]}" for kind, found in by_kind.items()]
    if _too_few(photos):
        lines.append(f"  add photos: {ENOUGH} to 5 good ones, each from another side and before another background")
    if plan.is_unfamiliar:
        lines.append("  another base model: this one knows neither such photos nor such words (see the warning above)")
    return lines


def _refuse(photos: list[Verdict], plan: RunPlan, errors_too: bool) -> None:
    errors = sum(one.severity == Severity.ERROR for one in photos) if errors_too else 0
    warnings = 0
    if plan.options.strict:
        warnings = sum(one.severity == Severity.WARNING for one in photos) + _too_few(photos) + plan.is_unfamiliar
    if errors or warnings:
        counts = [counted(number, noun) for number, noun in ((errors, "error"), (warnings, "warning")) if number]
        hint = "see above" if plan.options.check else "--check prints them; leave out --strict to train anyway"
        raise UserError(f"the check found {' and '.join(counts)}: {hint}")
