"""The rule, on scores made up by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.evaluation.recommendation import LEARNED, RULE, Candidate, recommend, shares
from ldm.evaluation.results import OTHER, PromptSpec
from ldm.evaluation.scores import GroupScores
from tests.evaluation.tables import BASE_PROMPT, BASE_ROW, BASE_SUBJECT, CEILING, FLOOR, columns, made_up, steps

ASKED = columns()


def one_weight(scores: GroupScores) -> torch.Tensor:
    return torch.ones(1, len(scores.asked), dtype=torch.float64)


# --- utility ----------------------------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    quarter_copies = [1.0, 0.0, 0.0, 0.0] * 3
    row = {"subject": 0.6, "prompt": 0.3, "copy": quarter_copies, "leakage": 0.4}
    found = shares(made_up(ASKED, [BASE_ROW, row]), 0, one_weight(made_up(ASKED, [BASE_ROW, row])))
    assert found.subject[:, 0].tolist() == pytest.approx([0.0, (0.6 - 0.3) / (0.8 - 0.3)])
    assert found.prompt[:, 0].tolist() == pytest.approx([1.0, (0.3 - 0.1) / (0.35 - 0.1)])
    assert found.copied[:, 0].tolist() == pytest.approx([0.0, 0.25])
    assert found.leaked[:, 0].tolist() == pytest.approx([0.0, (0.4 - 0.3) / (0.6 - 0.3)])
    both = 2 * 0.6 * 0.8 / (0.6 + 0.8)
    assert found.utility[:, 0].tolist() == pytest.approx([0.0, both * 0.75 * (1 - 1 / 12)])


def test_shares_are_cut_off() -> None:
    rows = [BASE_ROW, {"subject": 0.9, "prompt": 0.5, "leakage": 0.1}, {"subject": 0.5, "prompt": 0.0, "leakage": 0.9}]
    scores = made_up(ASKED, rows)
    found = shares(scores, 0, one_weight(scores))
    assert found.subject[1:, 0].tolist() == pytest.approx([1.0, 0.4])
    assert found.prompt[1:, 0].tolist() == [1.0, 0.0]
    assert found.leaked[1:, 0].tolist() == [0.0, 1.0]


def test_what_was_not_learned_has_not_leaked() -> None:
    scores = made_up(ASKED, [BASE_ROW, {"subject": 0.2, "prompt": 0.3, "leakage": 0.9}])
    assert shares(scores, 0, one_weight(scores)).leaked[:, 0].tolist() == [0.0, 0.0]


def test_photos_that_fit_the_prompts_leave_a_way_of_a_fifth() -> None:
    scores = replace(made_up(ASKED, [BASE_ROW, {"subject": 0.6, "prompt": 0.315}]), prompt_floor=0.34)
    assert shares(scores, 0, one_weight(scores)).prompt[:, 0].tolist() == pytest.approx([1.0, 0.5])


def test_where_a_reference_is_not_known_the_best_row_takes_its_place() -> None:
    rows = [{"subject": 0.35, "prompt": 0.3}, {"subject": 0.7, "prompt": 0.2}]
    scores = made_up(ASKED, rows, ceiling=None, base=None)
    found = shares(scores, None, one_weight(scores))
    assert found.subject[:, 0].tolist() == pytest.approx([0.5, 1.0])
    assert found.prompt[:, 0].tolist() == pytest.approx([1.0, (0.2 - FLOOR) / (0.3 - FLOOR)])
    assert not found.leaked.any()


def test_photos_that_the_base_model_draws_already_leave_no_way_to_go() -> None:
    scores = made_up(ASKED, [{"subject": CEILING, "prompt": 0.3}, {"subject": 0.7, "prompt": 0.3}])
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
    found = recommend(steps(4), made_up(ASKED, TOO_SHORT_RIGHT_TOO_LONG))
    assert found.row == 2
    assert found.verdict == (
        "Step 400: the subject is there (0.71 of 0.80 possible), prompts are still followed; "
        "from step 600 on, images copy photo 3."
    )
    assert "Subject: 0.71 of 0.80 possible (82% of the way from the base model's 0.30)." in found.reasons
    assert "Prompts: 0.33, the base model's 0.35 (92% kept)." in found.reasons
    assert "Copies: none of 12 images of the subject." in found.reasons
    assert "At step 600, 3 of 12 images of the subject are copies." in found.reasons


def test_the_rule_is_written_down() -> None:
    for word in ("harmonic mean", "copies", "leaked", "under 0.5", "earliest", "bootstrap", "90%", "under 0.2"):
        assert word in RULE


def test_nothing_is_recommended_while_the_subject_is_not_there() -> None:
    found = recommend(steps(2), made_up(ASKED, [BASE_ROW, *[{"subject": s, "prompt": 0.3} for s in (0.35, 0.45)]]))
    assert found.row is None
    assert found.verdict.startswith(
        "No checkpoint has learned the subject yet: at best it is 0.45 of 0.80 possible, at step 400. Train longer"
    )


def test_when_the_best_is_only_partly_there_it_says_to_train_longer() -> None:
    rows = [BASE_ROW, {"subject": 0.45, "prompt": 0.34}, {"subject": spread(0.6), "prompt": 0.33}]
    found = recommend(steps(2), made_up(ASKED, rows))
    assert found.verdict == (
        "Step 400: the subject is only partly there (0.60 of 0.80 possible), prompts are still followed. "
        "Longer training may bring more: no checkpoint has got further than 60% of the way."
    )


def test_when_all_that_know_the_subject_copy_it_says_so() -> None:
    copying = [{"subject": 0.75, "prompt": 0.2, "copy": c} for c in (0.9, 1.0)]
    rows = [BASE_ROW, {"subject": 0.4, "prompt": 0.3}]
    rows += [row | {"copy": [1.0] * 11 + [float(i)]} for i, row in enumerate(copying)]
    found = recommend(steps(3), made_up(ASKED, rows))
    assert found.row is None
    assert "Every checkpoint that knows the subject copies photos (11 of 12 images at step 400)" in found.verdict


def test_when_all_that_know_the_subject_have_forgotten_prompts_it_says_so() -> None:
    found = recommend(steps(1), made_up(ASKED, [BASE_ROW, {"subject": 0.75, "prompt": FLOOR}]))
    assert found.row is None
    assert "has forgotten what prompts ask for" in found.verdict


def test_a_recommended_step_that_copies_a_little_says_so() -> None:
    row = {"subject": 0.7, "prompt": 0.33, "copy": [1, 0, 0, 0] * 3}
    found = recommend(steps(1), made_up(ASKED, [BASE_ROW, row]))
    assert found.row == 1
    assert "3 of 12 images copy photo 3" in found.verdict


def test_later_steps_of_other_runs_are_not_blamed() -> None:
    candidates = steps(2)
    candidates += [Candidate("dog-2 step 600", 600, "dog-2")]
    rows = [*TOO_SHORT_RIGHT_TOO_LONG[:3], TOO_SHORT_RIGHT_TOO_LONG[4]]
    assert recommend(candidates, made_up(ASKED, rows)).verdict.endswith("prompts are still followed.")


def test_all_runs_compete() -> None:
    candidates = [*steps(1, run="dog-1"), Candidate("dog-2 step 200", 200, "dog-2")]
    rows = [BASE_ROW, {"subject": spread(0.55), "prompt": 0.3}, {"subject": spread(0.75), "prompt": 0.33}]
    assert recommend(candidates, made_up(ASKED, rows)).row == 2


def test_without_a_subject_there_is_nothing_to_recommend() -> None:
    asked = [PromptSpec(0, 1, OTHER, "a dog")]
    scores = replace(made_up(ASKED, [BASE_ROW]), asked=tuple(asked), cells={"prompt": torch.ones(1, 1)})
    assert recommend(steps(0), scores).row is None
    assert "no prompt asks for a subject" in recommend(steps(0), scores).verdict


def test_the_base_model_alone_is_not_recommended() -> None:
    found = recommend(steps(0), made_up(ASKED, [BASE_ROW]))
    assert found.row is None
    assert "no checkpoint has drawn the subject" in found.verdict


def test_a_row_without_images_competes_with_nobody() -> None:
    rows = [BASE_ROW, {"subject": float("nan"), "prompt": float("nan"), "copy": float("nan")}]
    rows.append({"subject": 0.7, "prompt": 0.33})
    assert recommend(steps(2), made_up(ASKED, rows)).row == 2


def test_without_the_base_models_images_checkpoints_are_compared_with_the_best() -> None:
    missing = dict.fromkeys(("subject", "prompt", "copy", "leakage"), float("nan"))
    rows = [{"subject": 0.5, "prompt": 0.35}, {"subject": 0.7, "prompt": 0.34}]
    for candidates, scores in (
        (steps(2), made_up(ASKED, [missing, *rows], base=None)),
        (steps(2, base=False), made_up(ASKED, rows, base=None)),
    ):
        found = recommend(candidates, scores)
        assert found.row == len(candidates) - 1
        assert any("Without the base model's images" in reason for reason in found.reasons)


def test_steps_that_copy_now_and_then_are_not_said_to_copy_from_there_on() -> None:
    copying = [{"subject": 0.6, "prompt": 0.2, "copy": [float(i < n) for i in range(12)]} for n in (6, 0, 3, 12)]
    found = recommend(steps(5), made_up(ASKED, [BASE_ROW, {"subject": 0.75, "prompt": 0.33}, *copying]))
    assert "from step 800 on, images copy photo 3" in found.verdict
    assert "At step 800, 3 of 12 images of the subject are copies." in found.reasons


def test_few_images_are_said_to_be_few() -> None:
    asked = columns(prompts=2, seeds=1, of_class=1)
    found = recommend(steps(1), made_up(asked, [BASE_ROW, {"subject": 0.7, "prompt": 0.33}]))
    assert any("only 2. Draw more" in reason for reason in found.reasons)
    assert not any("about as good" in reason for reason in found.reasons)


def test_one_photo_has_no_ceiling_and_that_is_said() -> None:
    found = recommend(steps(1), made_up(ASKED, [BASE_ROW, {"subject": 0.7, "prompt": 0.33}], ceiling=None))
    assert found.row == 1
    assert "(0.70)" in found.verdict
    assert any("With one photo" in reason for reason in found.reasons)


# --- noise ------------------------------------------------------------------------------------------------------------


def test_equal_steps_show_no_clear_difference_and_the_earliest_goes_first() -> None:
    row = {"subject": spread(0.7), "prompt": spread(0.33)}
    found = recommend(steps(3), made_up(ASKED, [BASE_ROW, row, row, row]))
    assert found.row == 1
    assert "No clear difference between step 200, step 400 and step 600." in found.verdict


def test_a_difference_that_every_image_shows_is_clear() -> None:
    rows = [
        BASE_ROW,
        {"subject": spread(0.66), "prompt": spread(0.33)},
        {"subject": spread(0.7), "prompt": spread(0.33)},
    ]
    found = recommend(steps(2), made_up(ASKED, rows))
    assert found.row == 2
    assert "No clear difference" not in found.verdict


def test_photos_that_copies_are_of_are_named() -> None:
    scores = made_up(ASKED, [BASE_ROW, {"subject": 0.7, "prompt": 0.33, "copy": 1 / 3}])
    for photos, words in (
        ([4, 0, 4], "photos 5 and 1."),
        ([1, 2, 0], "photos 1, 2 and others."),
        ([2] * 3, "photo 3."),
    ):
        scores.cells["copy"][1, :12] = torch.tensor([1.0] * 3 + [0.0] * 9)
        scores.cells["copy_photo"] = torch.full((2, 16), torch.nan, dtype=torch.float64)
        scores.cells["copy_photo"][1, :12] = torch.tensor([*photos, *[5.0] * 9])
        assert f"3 of 12 images copy {words}" in recommend(steps(1), scores).verdict


def test_a_difference_that_one_prompt_makes_is_not_clear() -> None:
    lucky = [value + (0.1 if i < 4 else 0.0) for i, value in enumerate(spread(0.68))]
    rows = [BASE_ROW, {"subject": spread(0.68), "prompt": spread(0.33)}, {"subject": lucky, "prompt": spread(0.33)}]
    found = recommend(steps(2), made_up(ASKED, rows))
    assert found.row == 1
    assert "No clear difference between step 200 and step 400." in found.verdict


def test_an_unsure_difference_does_not_excuse_a_much_lower_utility() -> None:
    """One prompt of one seed and another: the interval reaches 0, but the earlier step is half as good."""
    asked = columns(prompts=2, seeds=1, of_class=1)
    rows = [BASE_ROW, {"subject": [0.8, 0.3], "prompt": 0.33}, {"subject": [0.79, 0.75], "prompt": 0.33}]
    assert recommend(steps(2), made_up(asked, rows)).row == 2


def test_noise_alone_is_rarely_taken_for_a_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    clear = 0
    for _ in range(40):
        noise = 0.04 * torch.randn(5, len(ASKED), generator=generator, dtype=torch.float64)
        rows = [BASE_ROW, *[{"subject": 0.6, "prompt": 0.3}] * 4]
        found = recommend(steps(4), made_up(ASKED, rows, noise=noise))
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
    noise = 0.03 * torch.randn(rows + 1, len(ASKED), generator=generator, dtype=torch.float64)
    return made_up(ASKED, values, noise=noise)


@FEW_EXAMPLES
@given(tables(), st.permutations(range(len(ASKED))))
def test_the_order_of_columns_does_not_matter(scores: GroupScores, order: list[int]) -> None:
    shuffled = replace(
        scores,
        asked=tuple(scores.asked[i] for i in order),
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
