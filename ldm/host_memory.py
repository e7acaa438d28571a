"""How much memory the host can still give to this process."""

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups, version 2 and version 1, by the folder they are in: limit, what is taken, cached files in that."""


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that can be taken without swapping, on Linux; None where the platform doesn't tell.

    A container or a batch system may allow less than the machine has: the limits of all control groups that the process
    is in are looked at. Cached files count as available.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        rooms = [1024 * int(lines["MemAvailable"].split()[0])]
        own = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except (OSError, KeyError, ValueError):
        return None
    for _, controllers, name in own:
        for folder in FILES:
            if folder in controllers.split(","):
                root = cgroups / folder
                group = root / name.lstrip("/")
                above = [one for one in (group, *group.parents) if one.is_relative_to(root)]
                rooms += [room for one in above for room in _room_of(one, *FILES[folder])]
    return max(0, min(rooms))


def _room_of(group: Path, limit: str, taken: str, cached: str) -> list[int]:
    """What one control group has left; nothing if it has no limit (version 1 has a very large one then)."""
    try:
        most, now = ((group / name).read_text().strip() for name in (limit, taken))
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())[cached]
        return [] if most == "max" else [int(most) - int(now) + int(files)]
    except (OSError, KeyError, ValueError):
        return []
