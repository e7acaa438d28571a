"""What does DreamBooth on unusual subjects give and cost with the embedded tiny model? Measured by the judge.

    python benchmarks/tiny_subjects.py --without-prior --sheets docs/images

Runs `python dreambooth.py -c "water bottle" -i data/bottle -s 200` as a user does, and the same on photographs of other
subjects, which the toy world renders (`python -m ldm.toyworld --subject duck --seed 3`). Then samples with the base
model and with each checkpoint from the same noise, and lets the judge compare:

- similarity: the mean cosine of images of "a photo of sks duck" and the photographs, and its share of the mean cosine
  of the photographs among themselves;
- setting: whether "a photo of sks duck in the snow" is seen to be in the snow, for five settings of no photograph:
  snow, night, water and sunset, in which none is taken, and one by daylight that this subject's photographs left out;
- leakage: the mean cosine of images of "a photo of a duck" and the photographs, before and after;
- drift: whether "a photo of a duck" still shows a duck, how similar it is to the base model's image from the same
  noise, and whether images of other classes are as good as before.

With `--priors class-images l2 base-prediction none` everything is done with each of these (docs/prior.md);
`--without-prior` adds `none`.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tiny_model import prompt_scenes  # noqa: E402
from benchmarks.tools.commands import timed_run, weights_flags  # noqa: E402
from benchmarks.tools.image_sampler import ImageSampler  # noqa: E402
from benchmarks.tools.intervals import Count  # noqa: E402
from benchmarks.tools.judging import counts, judged, pair_similarity  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import say, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.subject_report import (  # noqa: E402
    NO_PRIOR,
    PHOTOS,
    PRIOR,
    Figures,
    Result,
    Subject,
    kept_table,
    learned_table,
    more_leakage,
    priors_table,
    settings_table,
    steps_table,
    targets_of,
)
from ldm.checkpoint.discovery import find_checkpoints  # noqa: E402
from ldm.choices import PRIORS  # noqa: E402
from ldm.data.images import save_png, to_image  # noqa: E402
from ldm.data.photos import read_directory  # noqa: E402
from ldm.files import write_text  # noqa: E402
from ldm.report.grid import labelled_grid  # noqa: E402
from ldm.runtime.models import EMBEDDED  # noqa: E402
from ldm.toyworld import CLASSES, Scene, canonical_caption  # noqa: E402
from ldm.toyworld.judge.encoder import EMBEDDED_JUDGE, EMBEDDED_TOKENIZER, Evaluator, load_evaluator  # noqa: E402

SAVE_EVERY = 200
FIRST_SEED = 5000
"""Of the noise; the class images that a run learns from have others."""

BOTTLE = Subject("bottle", 15)
SUBJECTS = (BOTTLE, Subject("duck", 3), Subject("mug", 4), Subject("teddy bear", 5), Subject("car", 6))


@dataclass(frozen=True)
class Images:
    """One checkpoint's images of a subject, from the same noise as the others: (n 3 h w) each."""

    subject: Tensor
    elsewhere: dict[str, Tensor]
    """By setting."""
    of_class: Tensor
    others: Tensor
    """Prompts of other classes."""


def sample_images_for(sampler: ImageSampler, subject: Subject, others: list[Scene], each: int) -> Images:
    """`each` images in each new setting, twice as many of the subject and of its class, one of each other scene."""
    groups = {
        "subject": [subject.prompt()] * (2 * each),
        **{setting: [subject.prompt(setting)] * each for setting in subject.new_settings},
        "class": [subject.class_prompt] * (2 * each),
        "others": [canonical_caption(scene) for scene in others],
    }
    prompts = [prompt for group in groups.values() for prompt in group]
    seeds = [FIRST_SEED + i for group in groups.values() for i in range(len(group))]
    sampled = sampler.sample(prompts, seeds, subject.class_name).split([len(group) for group in groups.values()])
    parts = dict(zip(groups, sampled, strict=True))
    return Images(
        parts["subject"], {name: parts[name] for name in subject.new_settings}, parts["class"], parts["others"]
    )


def judge_images(
    evaluator: Evaluator,
    images: Images,
    base: Images,
    photos: Tensor,
    subject: Subject,
    others: list[Scene],
    step: int,
) -> Figures:
    """All figures of one checkpoint; `base` are the base model's images."""

    def similarity(images: Tensor) -> Tensor:
        return evaluator.subject_similarity(images, photos).mean(dim=1)

    def count(images: Tensor, head: str, answer: str) -> Count:
        return Count(sum(one[head].label == answer for one in evaluator.name(images)), len(images))

    own = pair_similarity(evaluator.subject_similarity(photos, photos))
    elsewhere = torch.cat([*images.elsewhere.values()])
    known = similarity(images.subject).mean().item()
    of_class = evaluator.subject_similarity(images.of_class, images.of_class)
    return Figures(
        step=step,
        similarity=known,
        share=100 * known / own,
        share_elsewhere=100 * similarity(elsewhere).mean().item() / own,
        settings={name: count(images, "setting", name) for name, images in images.elsewhere.items()},
        recognised=count(torch.cat([images.subject, elsewhere]), "class", subject.class_name),
        leakage=similarity(images.of_class).tolist(),
        class_right=count(images.of_class, "class", subject.class_name),
        same=evaluator.subject_similarity(images.of_class, base.of_class).diagonal().mean().item(),
        variety=1 - pair_similarity(of_class),
        others=counts(judged(evaluator, images.others, others)),
    )


def photographs_of(subject: Subject, work: Path) -> Path:
    """The directory of its photographs; they are taken if they aren't there."""
    if subject == BOTTLE:
        return ROOT / "data" / "bottle"
    directory = work / "photos" / subject.name
    if len([*directory.glob("*.png")]) < PHOTOS:
        flags = ["--subject", subject.class_name, "--seed", subject.seed, "--count", PHOTOS, "--out", directory]
        timed_run("-m", "ldm.toyworld", *flags)
    return directory


def train(subject: Subject, photos: Path, prior: str, work: Path, flags: list[str]) -> tuple[list[Path], float]:
    """Runs dreambooth.py, if it hasn't run in `work` before: the checkpoints in their order, and the seconds."""
    output = work / f"{subject.name}-{prior}"
    finished = output / "seconds"
    if not finished.exists():
        shutil.rmtree(output, ignore_errors=True)
        shown = photos.relative_to(ROOT) if photos.is_relative_to(ROOT) else photos
        own = [] if prior == PRIOR else ["--prior", prior]
        command = ["dreambooth.py", "-c", subject.words, "-i", shown, "-s", SAVE_EVERY, "-o", output, *own, *flags]
        write_text(finished, f"{timed_run(*command)}\n")
    found, _ = find_checkpoints(output, lambda file: file.path)
    return found, float(finished.read_text(encoding="utf-8"))


def sheet(rows: dict[str, Images], photos: Tensor, subject: Subject) -> Image.Image:
    """A row for each checkpoint: a photograph, the subject twice, in five settings, and its class twice."""
    columns = ["a photograph", *[subject.prompt()] * 2]
    columns += [subject.prompt(setting) for setting in subject.new_settings] + [subject.class_prompt] * 2
    cells = [
        [
            photos[i % len(photos)],
            *one.subject[:2],
            *(images[0] for images in one.elsewhere.values()),
            *one.of_class[:2],
        ]
        for i, one in enumerate(rows.values())
    ]
    return labelled_grid([[to_image(cell) for cell in row] for row in cells], [*rows], columns)


def measure(
    subject: Subject, sampler: ImageSampler, evaluator: Evaluator, options: argparse.Namespace, work: Path
) -> list[Result]:
    """Trains on the subject with each prior; judges the base model and each checkpoint."""
    directory = photographs_of(subject, work)
    size = sampler.sampling
    photos = read_directory(directory, size.height, size.width)[1]
    others = [scene for scene in prompt_scenes(500) if scene.thing.class_name != subject.class_name][: options.others]
    flags = weights_flags(options.ckpt_path)
    flags += ["--iterations", str(options.iterations)] if options.iterations else []
    flags += ["--batch-size", str(options.batch_size)] if options.batch_size else []

    def judge(images: Images, base: Images, step: int) -> Figures:
        return judge_images(evaluator, images, base, photos, subject, others, step)

    sampler.use(options.ckpt_path or EMBEDDED)
    base = sample_images_for(sampler, subject, others, options.images)
    rows, results = {"base model": base}, []
    own = pair_similarity(evaluator.subject_similarity(photos, photos))
    ceiling = 100 * pair_similarity(evaluator.subject_similarity(sampler.reconstruct(photos), photos)) / own
    for prior in options.priors:
        steps = [judge(base, base, 0)]
        checkpoints, seconds = train(subject, directory, prior, work, flags)
        for path in checkpoints:
            step = sampler.use(path).step
            images = sample_images_for(sampler, subject, others, options.images)
            steps.append(judge(images, base, step))
            rows[f"step {step}" + f", --prior {prior}" * (prior != PRIOR)] = images
        results.append(Result(subject, prior, own, ceiling, seconds, steps))
    if options.sheets:
        save_png(options.sheets / f"{subject.name}.png", sheet(rows, photos, subject))
    return results


def parse_subject(text: str) -> Subject:
    """`duck` is the subject of its class that is measured by default, `duck:7` another one."""
    class_name, _, seed = text.partition(":")
    if class_name not in CLASSES or not (seed.isdecimal() or seed == ""):
        raise argparse.ArgumentTypeError(f"should be one of {', '.join(CLASSES)}, or such as duck:7, not '{text}'")
    usual = {subject.class_name: subject.seed for subject in SUBJECTS}
    return Subject(class_name, int(seed) if seed else usual.get(class_name, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures and prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, help="the base model; default: the embedded tiny model")
    parser.add_argument(
        "--subjects", type=parse_subject, nargs="+", default=SUBJECTS, metavar="CLASS", help="such as bottle duck:7"
    )
    parser.add_argument("--iterations", type=int, help="default: the model's")
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=[PRIOR], help="of dreambooth.py's --prior")
    parser.add_argument("--without-prior", action="store_true", help="also without prior preservation")
    parser.add_argument("--batch-size", type=int, help="of the training; default: the model's")
    parser.add_argument("--images", type=int, default=8, help="in each setting, and half of those of other prompts")
    parser.add_argument("--others", type=int, default=24, help="prompts of other classes")
    parser.add_argument(
        "--work", type=Path, help="keep the runs here, and use those that finished here before as they are"
    )
    parser.add_argument("--sheets", type=Path, help="write a labelled grid of each subject into this directory")
    parser.add_argument("--judge", type=Path, default=EMBEDDED_JUDGE)
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED_TOKENIZER, help="the judge's")
    parser.add_argument("--device", default="cpu", help="for sampling and judging; training chooses its own")
    options = parser.parse_args(arguments)
    options.priors = list(dict.fromkeys([*options.priors, *([NO_PRIOR] if options.without_prior else [])]))

    device = torch.device(options.device)
    evaluator = load_evaluator(device, options.judge, options.tokenizer)
    sampler = ImageSampler(options.ckpt_path or EMBEDDED, device)
    say(machine())
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        for subject in options.subjects:
            results += measure(subject, sampler, evaluator, options, work)
            write_json(options.json, {"machine": machine(), "results": results})
            for result in results[-len(options.priors) :]:
                say(f"{result.subject.words}, --prior {result.prior}: {result.seconds:.0f} s")

    each = options.images
    say(f"\nThe last checkpoints; {2 * each} images of sks X, {each} in each setting; 95 % Wilson intervals:\n")
    say(learned_table(results))
    say("Right in each setting, all subjects together:\n")
    say(settings_table(results))
    say(f"What is kept; {2 * each} images of a X, {options.others} prompts of other classes, cosines by the judge:\n")
    say(kept_table(results))
    if len(options.priors) > 1:
        say("Each prior, mean of all subjects; counts of all together:\n")
        say(priors_table(results))
    say("Over the steps, mean of all subjects; step 0 is the base model:\n")
    say(steps_table(results))
    if more := more_leakage(results):
        say(f"Leakage is higher by {more} without prior preservation ({more.count} pairs of images).")
    return verdict(targets_of(results), options.strict)


if __name__ == "__main__":
    run_script(main)
