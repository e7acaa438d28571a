"""How much memory of the host is available to this process."""

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of control groups, versions 2 and 1, by folder: limit, memory used, and the key of cached files in it."""


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes available without swapping, on Linux; None on other platforms.

    A container or a batch system may allow less than the machine has: the limits of all control groups of the process
    count. Cached files count as available.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        limits = [1024 * int(lines["MemAvailable"].split()[0])]
        own = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except (OSError, KeyError, ValueError):
        return None
    for _, controllers, name in own:
        for folder in FILES:
            if folder in controllers.split(","):
                root = cgroups / folder
                group = root / name.lstrip("/")
                above = [one for one in (group, *group.parents) if one.is_relative_to(root)]
                limits += [left for one in above for left in _left_in(one, *FILES[folder])]
    return max(0, min(limits))


def _left_in(group: Path, limit: str, taken: str, cached: str) -> list[int]:
    """The memory left in one control group; empty if it has no limit (in version 1 the limit is then very large)."""
    try:
        most, now = ((group / name).read_text().strip() for name in (limit, taken))
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())[cached]
        return [] if most == "max" else [int(most) - int(now) + int(files)]
    except (OSError, KeyError, ValueError):
        return []
