"""How sure a mean over images is: the bootstrap over prompts and seeds (Efron, 1979; percentile intervals).

Images of one prompt resemble each other, so they aren't so many independent ones: first prompts are drawn with
replacement, then, for each that was drawn, its seeds. This makes intervals rather too wide than too narrow. All rows
share the draws: what a hard prompt or a lucky seed does to all of them cancels out in differences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.diffusion.noise import derived_generator
from ldm.evaluation.results import Interval, PromptSpec

RESAMPLES = 2000
LOW, HIGH = 0.025, 0.975
"""Between them lie 95 %."""


def resample(asked: Sequence[PromptSpec], count: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each of `count` resamples holds each column: (count columns) float64.

    Each kind of prompt is resampled by itself. The order of the columns doesn't matter.
    """
    weights = torch.zeros(count, len(asked), dtype=torch.float64)
    for number, kind in enumerate(sorted({one.kind for one in asked})):
        order = sorted(
            (i for i, one in enumerate(asked) if one.kind == kind),
            key=lambda i: (asked[i].prompt_index, asked[i].seed, asked[i].prompt),
        )
        prompts: dict[int, list[int]] = {}
        for column in order:
            prompts.setdefault(asked[column].prompt_index, []).append(column)
        _add_draws(weights, list(prompts.values()), derived_generator(seed, number))
    return weights


def _add_draws(weights: Tensor, prompts: list[list[int]], generator: torch.Generator) -> None:
    """Draws as many prompts as there are, and of each drawn one as many of its columns as it has."""
    count, most = len(weights), max(map(len, prompts))
    sizes = torch.tensor([len(columns) for columns in prompts])
    places = torch.tensor([columns + [0] * (most - len(columns)) for columns in prompts])
    for _ in prompts:
        prompt = torch.randint(len(prompts), (count,), generator=generator)
        size = sizes[prompt][:, None]
        # float64: rounded to the next number, a float32 just below 1 would be beyond the last column.
        chosen = (torch.rand(count, most, generator=generator, dtype=torch.float64) * size).long()
        drawn = torch.arange(most) < size
        weights.scatter_add_(1, places[prompt].gather(1, chosen), drawn.double())


def weighted_means(values: Tensor, weights: Tensor) -> Tensor:
    """Means of (rows columns) over the columns with (resamples columns) weights: (rows resamples); NaN are left out."""
    there = ~values.isnan()
    sums = torch.where(there, values.double(), 0.0) @ weights.mT
    return sums / (there.double() @ weights.mT)  # NaN where a resample holds none


def interval(values: Tensor, weights: Tensor) -> Interval | None:
    """The mean of one row's values (columns) and its 95 % interval; None if all are NaN."""
    there = values[~values.isnan()].double()
    if not len(there):
        return None
    mean = there.mean().item()
    means = weighted_means(values[None], weights)[0]
    if means.isnan().all():  # no resample holds any of them
        return Interval(mean, mean, mean)
    low, high = quantiles(means)
    return Interval(mean, min(low, mean), max(high, mean))


def quantiles(resampled: Tensor) -> tuple[float, float]:
    """The two ends of the middle 95 % of (resamples) values."""
    ends = torch.nanquantile(resampled, torch.tensor([LOW, HIGH], dtype=resampled.dtype))
    return ends[0].item(), ends[1].item()
