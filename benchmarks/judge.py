"""How often is the judge right about new renders, and about degraded ones?

    python -m ldm.toyworld --dataset data/toyworld-held-out/images --count 2000 --size 64 --seed 1 --split all
    python -m ldm.toyworld --dataset data/toyworld-held-out/views --count 600 --size 64 --seed 3 --views 3
    python benchmarks/judge.py --ckpt-path MODEL

It judges the images as they are, at half their resolution, and, with a model, after its autoencoder has encoded and
decoded them. Prints tables in Markdown; exits with status 1 if the accuracy of any head is below `--required`.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.intervals import Count  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import table  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.checkpoint.loading import load_part  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.data.captioned import CaptionedImage, find_captioned  # noqa: E402
from ldm.nn.autoencoder import AutoencoderKL  # noqa: E402
from ldm.runtime.models import settings_of  # noqa: E402
from ldm.toyworld.judge.data import HEADS, SUBJECT, label_indices, read_images, right_answers  # noqa: E402
from ldm.toyworld.judge.encoder import EMBEDDED_JUDGE, EMBEDDED_TOKENIZER, Evaluator, load_evaluator  # noqa: E402

Change = Callable[[Tensor], Tensor]


def halved(images: Tensor) -> Tensor:
    """Images at half their resolution, enlarged again."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def reconstruction(path: Path, device: torch.device) -> Change:
    """Encodes and decodes with the autoencoder of a checkpoint, of a whole model or of a first stage alone."""
    file = read_checkpoint(path)
    autoencoder = AutoencoderKL(settings_of(file, None)[1].model.autoencoder)
    load_part(autoencoder, "autoencoder", file)
    autoencoder.to(device).eval()

    @torch.inference_mode()
    def there_and_back(images: Tensor) -> Tensor:
        parts = [autoencoder.decode(autoencoder.encode(part.to(device)).mean).cpu() for part in images.split(32)]
        return torch.cat(parts).clamp(-1, 1)

    return there_and_back


def answers(evaluator: Evaluator, images: Tensor, rows: list[CaptionedImage]) -> tuple[dict[str, Any], list[str]]:
    """By head: (right answers, questions); and the most frequent mistakes as lines."""
    counts, mistakes = {}, []
    found = evaluator.name(images)
    for head in HEADS:
        answers = [(one[head.name].label, right) for one, row in zip(found, rows, strict=True)
                 if (right := right_answers(row)[head.name])]  # fmt: skip
        wrong = Counter((" or ".join(sorted(right)), label) for label, right in answers if label not in right)
        counts[head.name] = (len(answers) - wrong.total(), len(answers))
        listed = ", ".join(f"{true} taken for {found} ({count})" for (true, found), count in wrong.most_common(5))
        mistakes.append(f"- {head.name}: {listed or 'none'}")
    return counts, mistakes


def retrieval(evaluator: Evaluator, images: Tensor, rows: list[CaptionedImage]) -> tuple[int, int, int]:
    """How many images are nearest to their caption, and captions to their image; captions of the same words are one.

    So "red and white" may be "white and red".
    """
    captions = [row.captions[0] for row in rows]
    words = [sorted(caption.split()) for caption in captions]
    similarity = evaluator.caption_similarity(images, captions)
    found = [similarity.argmax(dim).tolist() for dim in (1, 0)]
    return *(sum(words[i] == words[j] for i, j in enumerate(one)) for one in found), len(rows)


def subjects(evaluator: Evaluator, images: Tensor, rows: list[CaptionedImage]) -> dict[str, str]:
    """Mean cosines, and how often a thing is recognised."""
    similarity = evaluator.subject_similarity(images, images)
    thing = torch.tensor([row.columns[SUBJECT] for row in rows])
    kind = label_indices(rows)["class"]
    itself = torch.eye(len(rows), dtype=torch.bool)
    same_thing = (thing[:, None] == thing) & ~itself
    same_class = (kind[:, None] == kind) & (thing[:, None] != thing)
    other = kind[:, None] != kind
    nearest = similarity.masked_fill(itself, -1.0).argmax(1)
    # Whether another photograph of a thing is nearer than one of another thing of its class, over all such triples.
    nearer = [
        (similarity[i, same_thing[i]][:, None] > similarity[i, same_class[i]]).float().mean().item()
        for i in range(len(rows))
    ]
    values = {name: similarity[pairs] for name, pairs in
              {"same thing": same_thing, "same class": same_class, "other class": other}.items()}  # fmt: skip
    return {
        **{name: f"{value.mean():.3f} ± {value.std():.3f}" for name, value in values.items()},
        "nearer than its class, %": f"{100 * sum(nearer) / len(nearer):.1f}",
        f"nearest of {len(rows) - 1} is the thing, %": str(Count(int((thing[nearest] == thing).sum()), len(rows))),
    }


def main() -> int:
    """Measures and prints."""
    parser = script_parser(__doc__, targets=False, json=False)
    held_out = Path("data/toyworld-held-out")
    parser.add_argument("--images", type=Path, default=held_out / "images", help="captioned images, held out")
    parser.add_argument(
        "--things", type=Path, default=held_out / "views", help="captioned images with several of each thing"
    )
    parser.add_argument("--ckpt-path", type=Path, help="a model whose autoencoder reconstructs the images")
    parser.add_argument("--judge", type=Path, default=EMBEDDED_JUDGE)
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED_TOKENIZER)
    parser.add_argument("--required", type=float, default=0.95, help="share of right answers, in every head")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    device = torch.device(options.device)
    evaluator = load_evaluator(device, options.judge, options.tokenizer)
    changes: dict[str, Change] = {"renders": lambda images: images, "at half resolution": halved}
    if options.ckpt_path:
        changes["reconstructed"] = reconstruction(options.ckpt_path, device)
    size = evaluator.judge.config.size
    rows, things = find_captioned(options.images), find_captioned(options.things)
    images, photographs = read_images(rows, size), read_images(things, size)

    accuracy, similarity, mistakes, failures = [], [], [], []
    for name, change in changes.items():
        changed = change(images)
        counts, wrong = answers(evaluator, changed, rows)
        to_caption, to_image, total = retrieval(evaluator, changed, rows)
        shares = [Count(right, total) for right, total in counts.values()]
        accuracy.append([name, *shares, Count(to_caption, total), Count(to_image, total)])
        found = subjects(evaluator, change(photographs), things)
        similarity.append([name, *found.values()])
        mistakes += [f"{name}:\n", *wrong, ""]
        failures += [
            f"{head}, {name}: {right / total:.1%}"
            for head, (right, total) in counts.items()
            if right / total < options.required
        ]
    sys.stdout.write(f"Right answers of {len(rows)} images, in percent (95 % Wilson interval):\n\n")
    sys.stdout.write(table(["", *counts, "image to caption", "caption to image"], accuracy))
    sys.stdout.write(f"\nCosines of {len(things)} photographs, mean ± standard deviation:\n\n")
    sys.stdout.write(table(["", *found], similarity))
    sys.stdout.write("\nMost frequent mistakes, " + "\n".join(mistakes))
    sys.stdout.write(f"\n{machine()}\n")
    if failures:
        sys.stderr.write(f"less than {options.required:.0%} right, not fit to judge: {'; '.join(failures)}\n")
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
