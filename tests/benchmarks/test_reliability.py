"""The reliability campaign: it finds losses, continues after an interruption, and a small one succeeds."""

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import benchmarks.reliability as reliability
from benchmarks.reliability_campaign import report
from benchmarks.reliability_campaign.cases import Case, Ledger, Outcome, Part, run_part
from benchmarks.reliability_campaign.comparing import differences, digests
from benchmarks.reliability_campaign.moments import Fault
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Work, run
from benchmarks.tools.reporting import BEGIN, END
from ldm.errors import UserError


def a_directory(root: Path, **changes: str) -> Path:
    """A directory like that of a run; `changes` of its files' contents."""
    run_dir = root / "can-1"
    run_dir.mkdir(parents=True)
    (run_dir / "run.yaml").write_text(
        f"started: {changes.get('started', 'now')}\noptions: {{seed: {changes.get('seed', '1')}, output_dir: {root}}}\n"
    )
    (run_dir / "table.json").write_text(
        json.dumps(
            {
                "created": changes.get("started", "now"),
                "commit": changes.get("started", "now"),
                "photo": f"{root}/0.png",
            }
        )
    )
    Image.new("RGB", (2, 2), changes.get("colour", "red")).save(run_dir / "0.png")
    (run_dir / "run.log").write_text(changes.get("log", "output"))
    return root


def test_time_and_place_are_no_difference_and_all_else_is(tmp_path: Path) -> None:
    expected = digests(a_directory(tmp_path / "a"))
    assert differences(expected, digests(a_directory(tmp_path / "b", started="later", log="other"))) == []
    assert differences(expected, digests(a_directory(tmp_path / "c", seed="2"))) == ["differs: can-1/run.yaml"]
    assert differences(expected, digests(a_directory(tmp_path / "d", colour="blue"))) == ["differs: can-1/0.png"]
    other = a_directory(tmp_path / "e")
    (other / "can-1" / ".0.png.123.partial").touch()
    (other / "can-1" / "table.json").unlink()
    (other / "can-2").mkdir()
    assert differences(expected, digests(other)) == [
        "missing: can-1/table.json",
        "left over: can-1/.0.png.123.partial",
        "left over: can-2/",
    ]


def write_files(*names: str) -> None:
    """The work of a tested process."""
    for name in names:
        with Path(f"{name}.partial").open("wb") as file:
            file.write(bytes(5000))
            os.fsync(file.fileno())
        Path(f"{name}.partial").rename(name)
    Path("disk-has-room").write_bytes(bytes(5000))


@pytest.mark.slow
def test_a_fault_happens_at_its_moment(tmp_path: Path) -> None:
    work = Work("", ("a", "b"), function=write_files)

    def left(fault: Fault, status: int, *names: str) -> None:
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        (tmp_path / "here").mkdir()
        ended = run(work, tmp_path / "here", fault)
        assert (ended.status, ended.befallen) == (status, True), ended.said
        assert {path.name for path in (tmp_path / "here").iterdir()} == set(names)

    left(Fault("kill", "rename b"), -signal.SIGKILL, "a", "b.partial")
    left(Fault("kill", nth=3), -signal.SIGKILL, "a")
    left(Fault("signal", "flush a", number=signal.SIGTERM), -signal.SIGTERM, "a.partial")
    left(Fault("torn", "write b", size=100), -signal.SIGXFSZ, "a", "b.partial")
    left(Fault("limit", "write b", size=100), 1, "a", "b.partial")


def test_finished_cases_run_again_only_with_other_code(tmp_path: Path) -> None:
    done: list[str] = []

    def case(name: str) -> Case:
        def try_it(place: Place) -> Outcome:
            done.append(name)
            return Outcome(Counter(tries=1), ["it broke"] if name == "b" else [])

        return Case(name, try_it)

    part = Part("some", "a try", "tries", 3, 1, lambda place, count, seed: iter([case("a"), case("b"), case("c")]))
    place = Place(tmp_path)
    run_part(part, place, Ledger(tmp_path / "results.jsonl", "code"), 2, 0, 1)
    assert done == ["a", "b"]
    again = Ledger(tmp_path / "results.jsonl", "code")
    run_part(part, place, again, 3, 0, 1)
    assert done == ["a", "b", "c"]
    assert again.failures("some") == ["b: it broke"]
    run_part(part, place, Ledger(tmp_path / "results.jsonl", "other code"), 1, 0, 1)
    assert done == ["a", "b", "c", "a"]


def test_the_page_has_the_counts_of_a_whole_campaign_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("some", "a try", "tries", 2, 1, lambda place, count, seed: iter([]))
    monkeypatch.setattr(report, "PARTS", {"some": part})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nearlier counts\n{END}\nafter\n")
    ledger = Ledger(tmp_path / "results.jsonl", "code")
    ledger.add("some", "a", Outcome(Counter(tries=1, deep=1)), 60)
    with pytest.raises(UserError, match="not whole: some"):
        report.write_report(page, ledger)
    ledger.add("some", "b", Outcome(Counter(tries=1), ["it broke"]), 60)
    report.write_report(page, ledger)
    text = page.read_text()
    assert "| some | a try | 2 | 2 | 2.0 | 1 |" in text and "| some | deep | 1 |" in text
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "earlier counts" not in text


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part nothing; there are kills"):
        reliability.main(["nothing", "--work", str(tmp_path)])
    with pytest.raises(UserError, match="name a part"):
        reliability.main(["--work", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in reliability.PARTS if part != "ranks"])  # they take a minute each
def test_a_few_cases_of_each_part_succeed(part: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if part == "disk" and os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    work = tmp_path_factory.getbasetemp() / "reliability"  # shared fixtures are made once
    count = {"kills": 8, "signals": 6, "disk": 4, "concurrent": 2, "commands": 12}.get(part)
    amount = ["--count", str(count)] if count else ["--quick"]
    assert reliability.main([part, *amount, "--work", str(work)]) == 0
