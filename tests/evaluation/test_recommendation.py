"""The rule and its words, on scores made up by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.evaluation.recommendation import LEARNED, Candidate, recommend, shares
from ldm.evaluation.results import OTHER, PromptSpec
from ldm.evaluation.scores import GroupScores
from tests.evaluation.tables import BASE_PROMPT, BASE_ROW, BASE_SUBJECT, CEILING, FLOOR, columns, made_up, steps

SPECS = columns()


def one_weight(scores: GroupScores) -> torch.Tensor:
    return torch.ones(1, len(scores.specs), dtype=torch.float64)


# --- utility ----------------------------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    quarter_copies = [1.0, 0.0, 0.0, 0.0] * 3
    row = {"subject": 0.6, "prompt": 0.3, "copy": quarter_copies, "leakage": 0.4}
    found = shares(made_up(SPECS, [BASE_ROW, row]), 0, one_weight(made_up(SPECS, [BASE_ROW, row])))
    assert found.subject[:, 0].tolist() == pytest.approx([0.0, (0.6 - 0.3) / (0.8 - 0.3)])
    assert found.prompt[:, 0].tolist() == pytest.approx([1.0, (0.3 - 0.1) / (0.35 - 0.1)])
    assert found.copied[:, 0].tolist() == pytest.approx([0.0, 0.25])
    assert found.leaked[:, 0].tolist() == pytest.approx([0.0, (0.4 - 0.3) / (0.6 - 0.3)])
    both = 2 * 0.6 * 0.8 / (0.6 + 0.8)
    assert found.utility[:, 0].tolist() == pytest.approx([0.0, both * 0.75 * (1 - 1 / 12)])


def test_shares_are_clamped() -> None:
    rows = [BASE_ROW, {"subject": 0.9, "prompt": 0.5, "leakage": 0.1}, {"subject": 0.5, "prompt": 0.0, "leakage": 0.9}]
    scores = made_up(SPECS, rows)
    found = shares(scores, 0, one_weight(scores))
    assert found.subject[1:, 0].tolist() == pytest.approx([1.0, 0.4])
    assert found.prompt[1:, 0].tolist() == [1.0, 0.0]
    assert found.leaked[1:, 0].tolist() == [0.0, 1.0]


def test_without_learning_there_is_no_leakage() -> None:
    scores = made_up(SPECS, [BASE_ROW, {"subject": 0.2, "prompt": 0.3, "leakage": 0.9}])
    assert shares(scores, 0, one_weight(scores)).leaked[:, 0].tolist() == [0.0, 0.0]


def test_the_prompt_range_is_at_least_a_fifth_of_the_base_models_score() -> None:
    scores = replace(made_up(SPECS, [BASE_ROW, {"subject": 0.6, "prompt": 0.315}]), prompt_floor=0.34)
    assert shares(scores, 0, one_weight(scores)).prompt[:, 0].tolist() == pytest.approx([1.0, 0.5])
    scale = "on a scale from 0.28 (counted as 0%) to 0.35 (the base model): 50%"
    assert f"Prompts: 0.32; {scale}." in recommend(steps(1), scores).reasons


def test_the_best_row_replaces_an_unknown_reference() -> None:
    rows = [{"subject": 0.35, "prompt": 0.3}, {"subject": 0.7, "prompt": 0.2}]
    scores = made_up(SPECS, rows, ceiling=None, base=None)
    found = shares(scores, None, one_weight(scores))
    assert found.subject[:, 0].tolist() == pytest.approx([0.5, 1.0])
    assert found.prompt[:, 0].tolist() == pytest.approx([1.0, (0.2 - FLOOR) / (0.3 - FLOOR)])
    assert not found.leaked.any()


def test_a_base_model_that_already_knows_the_subject_leaves_shares_of_0_and_1() -> None:
    scores = made_up(SPECS, [{"subject": CEILING, "prompt": 0.3}, {"subject": 0.7, "prompt": 0.3}])
    assert shares(scores, 0, one_weight(scores)).subject[:, 0].tolist() == [1.0, 0.0]


# --- what is recommended ----------------------------------------------------------------------------------------------


def spread(mean: float) -> list[float]:
    """Twelve values around a mean, as images of different prompts have them."""
    return [mean + 0.01 * (i % 4) + 0.02 * (i // 4) - 0.035 for i in range(12)]


TOO_SHORT_RIGHT_TOO_LONG = [
    BASE_ROW,
    {"subject": spread(0.4), "prompt": spread(0.34)},
    {"subject": spread(0.71), "prompt": spread(0.33)},
    {"subject": spread(0.74), "prompt": spread(0.25), "copy": [1, 0, 0, 0] * 3, "leakage": 0.5},
    {"subject": spread(0.78), "prompt": spread(0.15), "copy": [1, 1, 1, 0] * 3, "leakage": 0.7},
]


def test_the_step_between_too_short_and_too_long_is_recommended_in_words() -> None:
    found = recommend(steps(4), made_up(SPECS, TOO_SHORT_RIGHT_TOO_LONG))
    assert found.row == 2
    assert found.verdict == (
        "Step 400: the subject is learned (0.71 of 0.80 possible), prompts are still followed; "
        "from step 600 on, images copy photo 3."
    )
    assert "Subject: 0.71 of 0.80 possible (82% of the way from the base model's 0.30)." in found.reasons
    scale = "on a scale from 0.10 (the photos, which ignore prompts) to 0.35 (the base model): 92%"
    assert f"Prompts: 0.33; {scale}." in found.reasons
    assert "Class: images of the plain class show 0% of what was learned." in found.reasons
    assert "Copies: none of 12 images of the subject." in found.reasons
    assert "At step 600, 3 of 12 images of the subject are copies." in found.reasons


def test_nothing_is_recommended_before_the_subject_is_learned() -> None:
    found = recommend(steps(2), made_up(SPECS, [BASE_ROW, *[{"subject": s, "prompt": 0.3} for s in (0.35, 0.45)]]))
    assert found.row is None
    assert found.verdict.startswith(
        "No checkpoint has learned the subject yet: the best score is 0.45 of 0.80 possible, at step 400. Train longer"
    )
    assert "Class: not judged before the subject is learned." in found.reasons
    assert not any("of what was learned" in reason for reason in found.reasons)


def test_a_partly_learned_subject_suggests_longer_training() -> None:
    rows = [BASE_ROW, {"subject": 0.45, "prompt": 0.34}, {"subject": spread(0.6), "prompt": 0.33}]
    found = recommend(steps(2), made_up(SPECS, rows))
    assert found.verdict == (
        "Step 400: the subject is only partly learned (0.60 of 0.80 possible), prompts are still followed. "
        "Longer training may help: the best checkpoint has gone 60% of the way to the photos."
    )


def test_nothing_is_recommended_if_all_learned_checkpoints_copy() -> None:
    copying = [{"subject": 0.75, "prompt": 0.2, "copy": c} for c in (0.9, 1.0)]
    rows = [BASE_ROW, {"subject": 0.4, "prompt": 0.3}]
    rows += [row | {"copy": [1.0] * 11 + [float(i)]} for i, row in enumerate(copying)]
    found = recommend(steps(3), made_up(SPECS, rows))
    assert found.row is None
    assert "Every checkpoint that has learned the subject copies photos (11 of 12 images at step 400)" in found.verdict


def test_nothing_is_recommended_if_all_learned_checkpoints_ignore_prompts() -> None:
    found = recommend(steps(1), made_up(SPECS, [BASE_ROW, {"subject": 0.75, "prompt": FLOOR}]))
    assert found.row is None
    assert "ignores the rest of the prompt" in found.verdict


def test_a_few_copies_are_mentioned_in_the_verdict() -> None:
    row = {"subject": 0.7, "prompt": 0.33, "copy": [1, 0, 0, 0] * 3}
    found = recommend(steps(1), made_up(SPECS, [BASE_ROW, row]))
    assert found.row == 1
    assert "3 of 12 images copy photo 3" in found.verdict


def test_copies_of_later_steps_of_other_runs_are_not_mentioned() -> None:
    candidates = steps(2)
    candidates += [Candidate("dog-2 step 600", 600, "dog-2")]
    rows = [*TOO_SHORT_RIGHT_TOO_LONG[:3], TOO_SHORT_RIGHT_TOO_LONG[4]]
    assert recommend(candidates, made_up(SPECS, rows)).verdict.endswith("prompts are still followed.")


def test_all_runs_are_compared() -> None:
    candidates = [*steps(1, run="dog-1"), Candidate("dog-2 step 200", 200, "dog-2")]
    rows = [BASE_ROW, {"subject": spread(0.55), "prompt": 0.3}, {"subject": spread(0.75), "prompt": 0.33}]
    assert recommend(candidates, made_up(SPECS, rows)).row == 2


def test_without_a_subject_there_is_nothing_to_recommend() -> None:
    specs = [PromptSpec(0, 1, OTHER, "a dog")]
    scores = replace(made_up(SPECS, [BASE_ROW]), specs=tuple(specs), cells={"prompt": torch.ones(1, 1)})
    assert recommend(steps(0), scores).row is None
    assert "no prompt is for a subject" in recommend(steps(0), scores).verdict


def test_the_base_model_alone_is_not_recommended() -> None:
    found = recommend(steps(0), made_up(SPECS, [BASE_ROW]))
    assert found.row is None
    assert "no checkpoint has images of the subject" in found.verdict


def test_a_row_without_images_is_not_compared() -> None:
    rows = [BASE_ROW, {"subject": float("nan"), "prompt": float("nan"), "copy": float("nan")}]
    rows.append({"subject": 0.7, "prompt": 0.33})
    assert recommend(steps(2), made_up(SPECS, rows)).row == 2


def test_without_the_base_models_images_checkpoints_are_compared_with_the_best() -> None:
    missing = dict.fromkeys(("subject", "prompt", "copy", "leakage"), float("nan"))
    rows = [{"subject": 0.5, "prompt": 0.35}, {"subject": 0.7, "prompt": 0.34}]
    for candidates, scores in (
        (steps(2), made_up(SPECS, [missing, *rows], base=None)),
        (steps(2, base=False), made_up(SPECS, rows, base=None)),
    ):
        found = recommend(candidates, scores)
        assert found.row == len(candidates) - 1
        assert any("Without the base model's images" in reason for reason in found.reasons)


def test_copying_starts_at_the_step_from_which_on_all_copy() -> None:
    copying = [{"subject": 0.6, "prompt": 0.2, "copy": [float(i < n) for i in range(12)]} for n in (6, 0, 3, 12)]
    found = recommend(steps(5), made_up(SPECS, [BASE_ROW, {"subject": 0.75, "prompt": 0.33}, *copying]))
    assert "from step 800 on, images copy photo 3" in found.verdict
    assert "At step 800, 3 of 12 images of the subject are copies." in found.reasons


def test_few_images_are_mentioned() -> None:
    specs = columns(prompts=2, seeds=1, of_class=1)
    found = recommend(steps(1), made_up(specs, [BASE_ROW, {"subject": 0.7, "prompt": 0.33}]))
    assert any("Only 2 images of the subject" in reason for reason in found.reasons)
    assert not any("about as good" in reason for reason in found.reasons)


def test_one_photo_has_no_ceiling_and_a_reason_says_so() -> None:
    found = recommend(steps(1), made_up(SPECS, [BASE_ROW, {"subject": 0.7, "prompt": 0.33}], ceiling=None))
    assert found.row == 1
    assert "(0.70)" in found.verdict
    assert any("With one photo" in reason for reason in found.reasons)


# --- noise ------------------------------------------------------------------------------------------------------------


def test_of_equal_steps_the_earliest_is_recommended() -> None:
    row = {"subject": spread(0.7), "prompt": spread(0.33)}
    found = recommend(steps(3), made_up(SPECS, [BASE_ROW, row, row, row]))
    assert found.row == 1
    assert "No clear difference between step 200, step 400 and step 600." in found.verdict


def test_a_difference_in_every_image_is_clear() -> None:
    rows = [
        BASE_ROW,
        {"subject": spread(0.66), "prompt": spread(0.33)},
        {"subject": spread(0.7), "prompt": spread(0.33)},
    ]
    found = recommend(steps(2), made_up(SPECS, rows))
    assert found.row == 2
    assert "No clear difference" not in found.verdict


def test_copied_photos_are_named() -> None:
    scores = made_up(SPECS, [BASE_ROW, {"subject": 0.7, "prompt": 0.33, "copy": 1 / 3}])
    for photos, words in (
        ([4, 0, 4], "photos 5 and 1."),
        ([1, 2, 0], "photos 1, 2 and others."),
        ([2] * 3, "photo 3."),
    ):
        scores.cells["copy"][1, :12] = torch.tensor([1.0] * 3 + [0.0] * 9)
        scores.cells["copy_photo"] = torch.full((2, 16), torch.nan, dtype=torch.float64)
        scores.cells["copy_photo"][1, :12] = torch.tensor([*photos, *[5.0] * 9])
        assert f"3 of 12 images copy {words}" in recommend(steps(1), scores).verdict


def test_a_difference_in_one_prompt_is_not_clear() -> None:
    lucky = [value + (0.1 if i < 4 else 0.0) for i, value in enumerate(spread(0.68))]
    rows = [BASE_ROW, {"subject": spread(0.68), "prompt": spread(0.33)}, {"subject": lucky, "prompt": spread(0.33)}]
    found = recommend(steps(2), made_up(SPECS, rows))
    assert found.row == 1
    assert "No clear difference between step 200 and step 400." in found.verdict


def test_a_much_lower_utility_is_not_recommended_even_if_the_difference_is_unclear() -> None:
    """One prompt of one seed and another: the interval reaches 0, but the earlier step is half as good."""
    specs = columns(prompts=2, seeds=1, of_class=1)
    rows = [BASE_ROW, {"subject": [0.8, 0.3], "prompt": 0.33}, {"subject": [0.79, 0.75], "prompt": 0.33}]
    assert recommend(steps(2), made_up(specs, rows)).row == 2


def test_noise_alone_is_rarely_taken_for_a_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    clear = 0
    for _ in range(40):
        noise = 0.04 * torch.randn(5, len(SPECS), generator=generator, dtype=torch.float64)
        rows = [BASE_ROW, *[{"subject": 0.6, "prompt": 0.3}] * 4]
        found = recommend(steps(4), made_up(SPECS, rows, noise=noise))
        assert found.row is not None
        clear += "No clear difference" not in found.verdict
    assert clear <= 4


# --- properties -------------------------------------------------------------------------------------------------------

FEW_EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def tables(draw: st.DrawFn, rows: int = 3) -> GroupScores:
    """A base row and checkpoints of any quality, with noise."""
    values: list[dict[str, float | list[float]]] = [dict(BASE_ROW)]
    for _ in range(rows):
        share = st.floats(0.0, 1.0)
        values.append(
            {
                "subject": BASE_SUBJECT + draw(share) * (CEILING - BASE_SUBJECT),
                "prompt": FLOOR + draw(share) * (BASE_PROMPT - FLOOR),
                "copy": [float(i < draw(st.integers(0, 12))) for i in range(12)],
                "leakage": BASE_SUBJECT + draw(share) * 0.4,
            }
        )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    noise = 0.03 * torch.randn(rows + 1, len(SPECS), generator=generator, dtype=torch.float64)
    return made_up(SPECS, values, noise=noise)


@FEW_EXAMPLES
@given(tables(), st.permutations(range(len(SPECS))))
def test_the_order_of_columns_does_not_matter(scores: GroupScores, order: list[int]) -> None:
    shuffled = replace(
        scores,
        specs=tuple(scores.specs[i] for i in order),
        cells={name: values[:, order] for name, values in scores.cells.items()},
    )
    assert recommend(steps(3), shuffled) == recommend(steps(3), scores)


@FEW_EXAMPLES
@given(tables(), st.permutations(range(4)))
def test_the_order_of_rows_does_not_matter(scores: GroupScores, order: list[int]) -> None:
    shuffled = replace(
        scores,
        cells={name: values[order] for name, values in scores.cells.items()},
        rows=[scores.rows[i] for i in order],
    )
    expected = recommend(steps(3), scores)
    found = recommend([steps(3)[i] for i in order], shuffled)
    assert (found.verdict, found.reasons) == (expected.verdict, expected.reasons)
    assert (None if found.row is None else order[found.row]) == expected.row


@FEW_EXAMPLES
@given(tables())
def test_the_same_row_again_is_no_clear_difference(scores: GroupScores) -> None:
    again = [*range(4), 1, 2, 3]
    doubled = replace(
        scores,
        cells={name: values[again] for name, values in scores.cells.items()},
        rows=[scores.rows[i] for i in again],
    )
    once, twice = recommend(steps(3), scores), recommend(steps(6), doubled)
    assert twice.row == once.row
    if once.row is not None:
        assert "No clear difference" in twice.verdict


@FEW_EXAMPLES
@given(tables(rows=2), st.floats(0.005, 0.1), st.integers(0, 2))
def test_a_later_row_that_is_worse_in_every_image_is_never_recommended(
    scores: GroupScores, worse: float, of: int
) -> None:
    def later(name: str, values: torch.Tensor) -> torch.Tensor:
        row = values[of : of + 1]
        return {"copy": row, "copy_photo": row, "leakage": row + worse}.get(name, row - worse)

    longer = replace(
        scores,
        cells={name: torch.cat([values, later(name, values)]) for name, values in scores.cells.items()},
        rows=[*scores.rows, scores.rows[of]],
    )
    assert recommend(steps(3), longer).row != 3


@FEW_EXAMPLES
@given(tables())
def test_what_is_recommended_has_learned_the_subject_and_is_no_base_model(scores: GroupScores) -> None:
    found = recommend(steps(3), scores)
    if found.row is not None:
        assert found.row > 0
        assert shares(scores, 0, one_weight(scores)).subject[found.row, 0] >= LEARNED
