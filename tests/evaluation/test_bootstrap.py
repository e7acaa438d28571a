"""Resampling prompts, then seeds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.evaluation.bootstrap import interval, quantiles, resample, weighted_means
from ldm.evaluation.results import CLASS, SUBJECT, PromptSpec
from tests.evaluation.tables import columns


def test_each_resample_holds_as_many_images_as_there_are() -> None:
    specs = columns(prompts=3, seeds=4, of_class=5)
    weights = resample(specs, count=300)
    of_subject = torch.tensor([one.kind == SUBJECT for one in specs])
    assert (weights[:, of_subject].sum(dim=1) == 12).all()
    assert (weights[:, ~of_subject].sum(dim=1) == 5).all()
    assert weights.mean(dim=0).tolist() == pytest.approx([1.0] * len(specs), abs=0.3)


def test_images_of_one_prompt_come_together() -> None:
    specs = columns(prompts=2, seeds=8, of_class=0)
    first = resample(specs, count=2000)[:, :8].sum(dim=1)
    assert set(first.tolist()) == {0.0, 8.0, 16.0}
    assert (first == 8).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_prompts_with_other_numbers_of_seeds() -> None:
    specs = [PromptSpec(0, 1, SUBJECT, "a")] + [PromptSpec(1, s, SUBJECT, "b") for s in range(3)]
    weights = resample(specs, count=500)
    assert set(weights.sum(dim=1).tolist()) == {2.0, 4.0, 6.0}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.permutations(range(16)))
def test_the_weights_of_a_column_do_not_depend_on_its_place(order: list[int]) -> None:
    specs = columns()
    assert torch.equal(resample([specs[i] for i in order], count=50), resample(specs, count=50)[:, order])


def test_weighted_means_ignore_missing_values() -> None:
    values = torch.tensor([[1.0, 3.0, torch.nan], [torch.nan, 4.0, 6.0]])
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 5.0], [1.0, 3.0, 0.0]], dtype=torch.float64)
    found = weighted_means(values, weights)
    assert found[0].tolist() == [2.0, 1.0, 2.5]
    assert found[1].tolist() == [5.0, 6.0, 4.0]
    assert weighted_means(values[:, 2:], weights[:, 2:])[0].isnan().all()


def test_an_interval_holds_the_mean_and_is_about_two_standard_errors_wide() -> None:
    specs = columns(prompts=1, seeds=100, of_class=0)
    values = torch.randn(100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = interval(values, resample(specs))
    assert found is not None
    assert found.mean == pytest.approx(values.mean().item())
    error = values.std().item() / 10
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((1.96 * error, 1.96 * error), rel=0.15)


def test_prompts_that_differ_make_the_interval_wide() -> None:
    specs = columns(prompts=4, seeds=25, of_class=0)
    values = torch.arange(4.0).repeat_interleave(25)
    found = interval(values, resample(specs))
    assert found is not None and found.high - found.low > 1.5  # one standard error of four prompts is 0.56


def test_one_value_is_its_own_interval_and_none_has_none() -> None:
    weights = resample([PromptSpec(0, 1, CLASS, "a")])
    found = interval(torch.tensor([0.25]), weights)
    assert found is not None and (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)
    assert interval(torch.tensor([torch.nan]), weights) is None


def test_quantiles_ignore_resamples_without_images() -> None:
    assert quantiles(torch.tensor([1.0, torch.nan, 1.0])) == (1.0, 1.0)
