"""The measurements of `tiny_subjects.py` of each subject, and their tables."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.tools.intervals import Count, Mean, mean
from benchmarks.tools.judging import ALL
from benchmarks.tools.reporting import Target, table
from ldm.files import slug
from ldm.toyworld import SETTINGS, photograph, unusual_subject
from ldm.toyworld.scene import DAYLIGHT

PHOTOS = 6
SIMILARITY_TARGET, SETTING_TARGET = 80.0, 85.0
PRIOR, NO_PRIOR = "class-images", "none"
"""Two of `--prior`."""
DARK_OR_WET = ("snow", "night", "sunset", "water")
"""The settings that no photo of a subject has."""


@dataclass(frozen=True)
class Subject:
    """One unusual object; the bottle of the quick start is in the repository, others are photographed when needed."""

    class_name: str
    seed: int

    @property
    def words(self) -> str:
        """What the user calls it."""
        return "water bottle" if self.class_name == "bottle" else self.class_name

    @property
    def name(self) -> str:
        """For files."""
        return slug(f"{self.class_name}-{self.seed}")

    @property
    def new_settings(self) -> list[str]:
        """Five that its photos don't have."""
        taken = {scene.setting for scene in photograph(unusual_subject(self.seed, self.class_name), PHOTOS, self.seed)}
        return [*DARK_OR_WET, next(setting for setting in DAYLIGHT if setting not in taken)]

    def prompt(self, setting: str | None = None) -> str:
        """Of the subject itself."""
        return " ".join(["a photo of sks", self.words, *(SETTINGS[setting][:1] if setting else ())])

    @property
    def class_prompt(self) -> str:
        """Of any of its class."""
        return f"a photo of a {self.words}"


@dataclass(frozen=True)
class Figures:
    """The judge's answers."""

    step: int
    similarity: float
    share: float
    """In percent of the photos' own similarity; so is the next."""
    share_elsewhere: float
    settings: dict[str, Count]
    """How often each setting is recognised."""
    recognised: Count
    """How often the subject's class is recognised, in all settings."""
    leakage: list[float]
    """Of each image of the class."""
    class_right: Count
    same: float
    """Mean cosine of the things in images of the class and the base model's images from the same noise."""
    variety: float
    """One minus the mean cosine of the things in images of the class."""
    others: dict[str, Count]

    @property
    def setting_right(self) -> Count:
        """In all of them."""
        return total(self.settings.values())


@dataclass(frozen=True)
class Result:
    """One run of dreambooth.py; the first of its steps is the base model."""

    subject: Subject
    prior: str
    own: float
    """Mean cosine of the photos among themselves."""
    ceiling: float
    """Mean cosine of the photos and what the autoencoder makes of the others, in percent of that."""
    seconds: float
    steps: list[Figures]


def total(parts: Iterable[Count]) -> Count:
    """All of them."""
    return sum(parts, Count(0, 0))


def learned_table(results: list[Result]) -> str:
    """Of the last checkpoints: subject and setting."""
    header = ["subject", "--prior", "photos among themselves", "sks X", "share, %"]
    header += ["share of the photos through the autoencoder, %"]
    header += ["share in other settings, %", "class right, %", "setting right, %", "seconds"]
    rows = [
        [
            result.subject.words,
            result.prior,
            f"{result.own:.3f}",
            f"{last.similarity:.3f}",
            f"{last.share:.1f}",
            f"{result.ceiling:.1f}",
            f"{last.share_elsewhere:.1f}",
            last.recognised,
            last.setting_right,
            f"{result.seconds:.0f}",
        ]
        for result in results
        for last in result.steps[-1:]
    ]
    return table(header, rows)


def kept_table(results: list[Result]) -> str:
    """Of the last checkpoints and the base model: whether images of the class still show any thing of the class."""
    header = ["subject", "--prior", "leakage before", "after", "class right before, %", "after, %"]
    header += ["variety before", "after", "as before", "other prompts: class before, %", "after, %"]
    header += ["all four before, %", "after, %"]
    rows = []
    for result in results:
        base, last = result.steps[0], result.steps[-1]
        row = [result.subject.words, result.prior]
        row += [f"{mean(base.leakage).value:.3f}", f"{mean(last.leakage).value:.3f}"]
        row += [f"{base.class_right.percent:.1f}", f"{last.class_right.percent:.1f}"]
        row += [f"{base.variety:.3f}", f"{last.variety:.3f}", f"{last.same:.3f}"]
        row += [f"{one.others[head].percent:.1f}" for head in ("class", ALL) for one in (base, last)]
        rows.append(row)
    return table(header, rows)


def steps_table(results: list[Result]) -> str:
    """Means over the subjects at each step that all of them have; counts are of all together."""
    header = ["--prior", "step", "share, %", "share in other settings, %", "class right, %"]
    header += [
        "setting right, %",
        "leakage",
        "a X: class right, %",
        "as before",
        "other prompts: class, %",
        "all four, %",
    ]
    rows = []
    for prior in dict.fromkeys(result.prior for result in results):
        runs = [result.steps for result in results if result.prior == prior]
        for same_step in zip(*runs, strict=False):
            rows.append(
                [
                    prior if same_step[0].step else "-",
                    same_step[0].step,
                    f"{mean([one.share for one in same_step]).value:.1f}",
                    f"{mean([one.share_elsewhere for one in same_step]).value:.1f}",
                    total(one.recognised for one in same_step),
                    total(one.setting_right for one in same_step),
                    f"{mean([mean(one.leakage).value for one in same_step]).value:.3f}",
                    total(one.class_right for one in same_step),
                    f"{mean([one.same for one in same_step]).value:.3f}",
                    *(total(one.others[head] for one in same_step) for head in ("class", ALL)),
                ]
            )
    return table(header, [row for i, row in enumerate(rows) if i == 0 or row[1]])


def settings_table(results: list[Result]) -> str:
    """How often each setting is right at the last checkpoints, by prior."""
    found: dict[str, dict[str, Count]] = {}
    for result in results:
        by_setting = found.setdefault(result.prior, {})
        for setting, count in result.steps[-1].settings.items():
            by_setting[setting] = by_setting.get(setting, Count(0, 0)) + count
    settings = list(dict.fromkeys(setting for by_setting in found.values() for setting in by_setting))
    rows = [[prior, *(some.get(setting, "") for setting in settings)] for prior, some in found.items()]
    return table(["--prior", *settings], rows)


def priors_table(results: list[Result]) -> str:
    """Each prior at the last checkpoints, over all subjects: what is learned, what is kept, and the time."""
    header = ["--prior", "subjects", "share, %", "share in other settings, %", "setting right, %", "leakage before"]
    header += [
        "after",
        "a X: class right, %",
        "as before",
        "variety",
        "other prompts: class, %",
        "all four, %",
        "seconds",
    ]
    rows = []
    for prior in dict.fromkeys(result.prior for result in results):
        runs = [result for result in results if result.prior == prior]
        last = [run.steps[-1] for run in runs]
        rows.append(
            [
                prior,
                len(runs),
                f"{mean([one.share for one in last]).value:.1f}",
                f"{mean([one.share_elsewhere for one in last]).value:.1f}",
                total(one.setting_right for one in last),
                f"{mean([mean(run.steps[0].leakage).value for run in runs]).value:.3f}",
                f"{mean([mean(one.leakage).value for one in last]).value:.3f}",
                total(one.class_right for one in last),
                f"{mean([one.same for one in last]).value:.3f}",
                f"{mean([one.variety for one in last]).value:.3f}",
                *(total(one.others[head] for one in last) for head in ("class", ALL)),
                f"{mean([run.seconds for run in runs]).value:.0f}",
            ]
        )
    return table(header, rows)


def more_leakage(results: list[Result]) -> Mean | None:
    """How much more of the subjects is in images of their class without prior preservation; None if not measured.

    The mean difference of images from the same noise, by the last checkpoints.
    """
    last = {(result.subject, result.prior): result.steps[-1].leakage for result in results}
    differences = [
        without - with_
        for (subject, prior), leakage in last.items()
        if prior == NO_PRIOR and (subject, PRIOR) in last
        for with_, without in zip(last[subject, PRIOR], leakage, strict=True)
    ]
    return mean(differences) if differences else None


def targets_of(results: list[Result]) -> list[Target]:
    """Every subject's similarity, all settings together, and what prior preservation prevents."""
    tuned = [result for result in results if result.prior == PRIOR]
    targets = [
        Target(
            f"{result.subject.words}: similarity, share of the photos' own",
            result.steps[-1].share,
            SIMILARITY_TARGET,
        )
        for result in tuned
    ]
    right = total(result.steps[-1].setting_right for result in tuned)
    targets.append(Target("setting right", right.percent, SETTING_TARGET))
    if more := more_leakage(results):
        targets.append(
            Target("more leakage without prior preservation, at least", more.value - more.half, 0.0, "cosine")
        )
    return targets
