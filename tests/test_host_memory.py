"""How much memory there is: the machine's, or what a container allows."""

from pathlib import Path

import pytest

from ldm.host_memory import available_memory

GIB = 2**30


def machine(root: Path, available: int, groups: dict[str, tuple[str, int, int]], own: str = "/") -> tuple[Path, Path]:
    """Files as Linux shows them; of a control group the limit, what is taken, and how much of it is cached files."""
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(
        f"MemTotal:       99999999 kB\nMemFree: 1 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total:  0\n"
    )
    (proc / "self" / "cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
    for name, (limit, taken, cached) in groups.items():
        group = cgroups / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{taken}\n")
        (group / "memory.stat").write_text(f"anon {taken}\ninactive_file {cached}\n")
    return proc, cgroups


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available_memory(*machine(tmp_path, 20 * GIB, {})) == 20 * GIB
    assert available_memory(*machine(tmp_path / "b", 20 * GIB, {"": ("max", 3 * GIB, 0)})) == 20 * GIB


def test_a_limit_counts_what_is_taken_without_cached_files(tmp_path: Path) -> None:
    assert available_memory(*machine(tmp_path, 20 * GIB, {"": (str(8 * GIB), 6 * GIB, GIB)})) == 3 * GIB


def test_a_limit_of_a_group_above_holds_too(tmp_path: Path) -> None:
    groups = {"job": (str(4 * GIB), 3 * GIB, 0), "job/step": ("max", GIB, 0)}
    assert available_memory(*machine(tmp_path, 20 * GIB, groups, own="/job/step")) == GIB
    assert available_memory(*machine(tmp_path / "b", 20 * GIB, groups, own="/other")) == 20 * GIB


def test_a_group_over_its_limit_has_nothing(tmp_path: Path) -> None:
    assert available_memory(*machine(tmp_path, 20 * GIB, {"": (str(GIB), 2 * GIB, 0)})) == 0


@pytest.mark.parametrize("content", [None, "", "MemTotal: 5 kB\n", "MemAvailable: many kB\n", "nonsense"])
def test_a_platform_that_does_not_tell_is_none(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "meminfo").write_text(content)
    assert available_memory(tmp_path, tmp_path) is None


def test_limits_of_the_first_version_hold_too(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 20 * GIB, {})
    (proc / "self" / "cgroup").write_text("9:cpu,memory:/job\n1:name=systemd:/x\n0::/\n")
    group = cgroups / "memory"  # a container sees its own group as the root, by another name than the host's
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{8 * GIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{6 * GIB}\n")
    (group / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {GIB}\n")
    assert available_memory(proc, cgroups) == 3 * GIB
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert available_memory(proc, cgroups) == 20 * GIB
