"""How much memory the host can still give to this process."""

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that can be taken without swapping, on Linux; None where the platform doesn't tell.

    A container or a batch system may allow less than the machine has: the limits of all control groups (version 2) that
    the process is in are looked at. Cached files count as available.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        rooms = [1024 * int(lines["MemAvailable"].split()[0])]
        own = [line[3:] for line in (proc / "self" / "cgroup").read_text().splitlines() if line.startswith("0::")]
    except (OSError, KeyError, ValueError):
        return None
    for name in own:
        group = cgroups / name.lstrip("/")
        rooms += [room for one in (group, *group.parents) if one.is_relative_to(cgroups) for room in _room_of(one)]
    return max(0, min(rooms))


def _room_of(group: Path) -> list[int]:
    """What one control group has left; nothing if it has no limit."""
    try:
        limit, current = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return [] if limit == "max" else [int(limit) - int(current) + int(cached)]
    except (OSError, KeyError, ValueError):
        return []
