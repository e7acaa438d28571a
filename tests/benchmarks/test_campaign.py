"""The campaign on a GPU: order, budget, resuming, and the pages that it writes."""

import json
from pathlib import Path

import pytest

import benchmarks.campaign as campaign
from benchmarks.reliability import PAGE
from benchmarks.tools.questions import QUESTIONS, Question
from benchmarks.tools.reporting import BEGIN, END
from ldm.errors import UserError

ANSWER = "print('speed\\n| a | b |\\n| --- | --- |\\n| 1 | 2 |\\nother lines')"


def question(name: str, code: str = ANSWER, seconds: int = 5, page: str = "docs/performance.md") -> Question:
    return Question(name, f"The {name}", seconds, ("-c", code), page=page)


def lines_of(results: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    return [(line["question"], line["status"]) for line in lines]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the pages, on a machine with a GPU; its results are in `results`."""
    monkeypatch.setattr(campaign, "_gpu", lambda: "a GPU")
    for page in ("README.md", "docs/performance.md", "docs/memory.md"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(f"before {BEGIN}nothing yet{END} after")
    return tmp_path


def main(root: Path, *words: str) -> int:
    return campaign.main(["--results", str(root / "results"), "--root", str(root), *words])


def test_answers_are_kept_reported_and_not_asked_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = question("broken", "raise SystemExit('it broke')")
    monkeypatch.setattr(campaign, "QUESTIONS", [question("speed"), failing, question("memory", page="docs/memory.md")])
    assert main(run) == 1
    assert lines_of(run / "results") == [("speed", "done"), ("broken", "failed"), ("memory", "done")]
    assert "it broke" in (run / "results" / "broken.txt").read_text()
    assert main(run) == 1
    assert lines_of(run / "results")[3:] == [("broken", "failed")]
    assert main(run, "--report") == 0
    text = (run / "docs" / "performance.md").read_text()
    assert text.startswith("before ") and text.endswith(" after") and "nothing yet" not in text
    assert "### The speed" in text and "a GPU" in text and "| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    assert "broken" not in text and "other lines" not in text.split("```")[2]
    assert "### The memory" in (run / "docs" / "memory.md").read_text()
    assert "a GPU" in (run / "README.md").read_text()


def test_the_budget_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    slow = question("slow", "import time; print('begun', flush=True); time.sleep(60)", seconds=1)
    monkeypatch.setattr(campaign, "QUESTIONS", [slow, question("long", seconds=100), question("short", seconds=1)])
    assert main(run, "--budget", "20") == 0
    assert lines_of(run / "results") == [("slow", "stopped"), ("short", "done")]
    assert (run / "results" / "slow.txt").read_text() == "begun\n"
    assert "long: left out" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured_or_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "_gpu", lambda: "")
    monkeypatch.setattr(campaign, "QUESTIONS", [question("speed")])
    with pytest.raises(UserError, match="no CUDA device"):
        main(run)
    assert not (run / "results").exists()
    assert main(run, "--smoke") == 0
    with pytest.raises(UserError, match="no answers that were measured on a GPU"):
        main(run, "--report")
    assert "nothing yet" in (run / "README.md").read_text()
    assert main(run, "--plan") == 0
    assert "| speed | 5 | 5 |" in capsys.readouterr().out


def test_the_projects_pages_have_places_for_the_results() -> None:
    for page in (PAGE, campaign.ROOT / "README.md", *{campaign.ROOT / one.page for one in QUESTIONS if one.page}):
        text = page.read_text(encoding="utf-8")
        assert text.count(BEGIN) == text.count(END) == 1, page


@pytest.mark.slow
def test_every_question_can_be_asked(tmp_path: Path) -> None:
    """On the CPU at its smallest; the benchmarks' own tests look at what they print."""
    pytest.importorskip("diffusers")
    assert main(tmp_path, "--smoke") == 0
    assert lines_of(tmp_path / "results") == [(one.name, "done") for one in QUESTIONS]
