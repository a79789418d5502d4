"""How many processors this process may use, for the number of threads to compute with."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """The number of processors that affinity and cgroup CPU quota (v1 and v2) leave to this process.

    More threads than that only wait for each other. A quota of 1.5 processors counts as 2, as in Go's
    runtime: rounding down would leave half a processor idle.

    Args:
        root: the folder that holds `proc` and `sys`.

    Returns:
        At least 1.
    """
    quotas = (_quota_cpus(folder) for folder in _cgroup_folders(root))
    limits = [math.ceil(cpus) for cpus in quotas if cpus]
    return max(1, min([len(os.sched_getaffinity(0)), *limits]))


def _cgroup_folders(root: Path) -> list[Path]:
    """Every folder that may hold a CPU quota for this process: of its own cgroup and of those above."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)  # v2 has one line, which names no controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("",) if not controllers else (controllers, "cpu")
        relative = Path(path.lstrip("/"))
        # In a container the path may be the host's while only the container's root is mounted. The list of
        # ancestors ends in that root.
        for ancestor in (relative, *relative.parents):
            folders += [root / "sys/fs/cgroup" / mount / ancestor for mount in mounts]
    return folders


def _quota_cpus(folder: Path) -> float | None:
    """The quota of one cgroup folder, in processors; None where it sets none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return None
    return cpus if cpus > 0 else None  # v1 says -1 for no limit
