"""Confidence intervals of means over images: the bootstrap over prompts and seeds (Efron, 1979; percentile intervals).

Images of one prompt resemble each other and are not independent. Therefore prompts are resampled with replacement
first, and then the seeds of each resampled prompt. This makes intervals too wide rather than too narrow. All rows share
the resamples: what a hard prompt or a lucky seed does to all rows cancels out in differences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.diffusion.noise import derived_generator
from ldm.evaluation.results import Interval, PromptSpec

RESAMPLES = 2000
LOW, HIGH = 0.025, 0.975
"""The ends of a 95 % interval."""


def resample(specs: Sequence[PromptSpec], count: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each of `count` resamples holds each column: (count columns) float64.

    Each kind of prompt is resampled separately. The order of the columns does not matter.
    """
    weights = torch.zeros(count, len(specs), dtype=torch.float64)
    for number, kind in enumerate(sorted({spec.kind for spec in specs})):
        order = sorted(
            (i for i, spec in enumerate(specs) if spec.kind == kind),
            key=lambda i: (specs[i].prompt_index, specs[i].seed, specs[i].prompt),
        )
        prompts: dict[int, list[int]] = {}
        for column in order:
            prompts.setdefault(specs[column].prompt_index, []).append(column)
        _add_samples(weights, list(prompts.values()), derived_generator(seed, number))
    return weights


def _add_samples(weights: Tensor, prompts: list[list[int]], generator: torch.Generator) -> None:
    """Samples as many prompts as there are, and for each of them as many of its columns as it has."""
    count, most = len(weights), max(map(len, prompts))
    sizes = torch.tensor([len(columns) for columns in prompts])
    places = torch.tensor([columns + [0] * (most - len(columns)) for columns in prompts])
    for _ in prompts:
        prompt = torch.randint(len(prompts), (count,), generator=generator)
        size = sizes[prompt][:, None]
        # float64: rounded to the next number, a float32 just below 1 would be beyond the last column.
        chosen = (torch.rand(count, most, generator=generator, dtype=torch.float64) * size).long()
        used = torch.arange(most) < size
        weights.scatter_add_(1, places[prompt].gather(1, chosen), used.double())


def weighted_means(values: Tensor, weights: Tensor) -> Tensor:
    """Means of (rows columns) over the columns with (resamples columns) weights: (rows resamples); NaN are ignored."""
    known = ~values.isnan()
    sums = torch.where(known, values.double(), 0.0) @ weights.mT
    return sums / (known.double() @ weights.mT)  # NaN where a resample has no known value


def interval(values: Tensor, weights: Tensor) -> Interval | None:
    """The mean of one row's values (columns) and its 95 % interval; None if all are NaN."""
    known = values[~values.isnan()].double()
    if not len(known):
        return None
    mean = known.mean().item()
    means = weighted_means(values[None], weights)[0]
    if means.isnan().all():  # no resample has a known value
        return Interval(mean, mean, mean)
    low, high = quantiles(means)
    return Interval(mean, min(low, mean), max(high, mean))


def quantiles(resampled: Tensor) -> tuple[float, float]:
    """The two ends of the middle 95 % of (resamples) values."""
    ends = torch.nanquantile(resampled, torch.tensor([LOW, HIGH], dtype=resampled.dtype))
    return ends[0].item(), ends[1].item()
