"""What the process uses of the machine's memory, giving it back after a job, and when it is too much.

Every figure is in MiB. Knows nothing of images or engines.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ocr_watcher.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

_MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """One reading: resident set now and at its highest, and what the machine can still give (MiB)."""

    rss_mb: float
    peak_rss_mb: float
    available_mb: float


def apply_environment(variables: Mapping[str, str]) -> None:
    """Set `variables` for libraries that read the environment when they are imported.

    Call it before the engine is created: Paddle reads its FLAGS once, at import. A variable that
    the person who started the process has set stays as it is.
    """
    for name, value in variables.items():
        os.environ.setdefault(name, value)


# None where the C library is not glibc
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
_M_ARENA_MAX = -8  # malloc.h


def use_one_heap() -> None:
    """Have every thread take memory from the same heap. Call it before there is a second thread.

    By itself glibc gives each thread a heap, and what one freed is of no use to the others: 60 to 80 MiB
    at rest and at the peak, for a time within the noise (docs/memory.md). MALLOC_ARENA_MAX or
    GLIBC_TUNABLES, set by whoever started the process, stay.
    """
    if _mallopt is not None and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        _mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Return to the system what the C library keeps of freed memory; about 10 ms."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class Memory:
    """Reads this process's memory. Cheap enough for every job: two small reads from /proc."""

    def __init__(self, status: Path = Path("/proc/self/status")) -> None:
        self._status = status

    def rss_mb(self) -> float:
        """The resident set now."""
        return self._resident()[0]

    def figures(self) -> Figures:
        """All figures at once."""
        rss, peak = self._resident()
        return Figures(rss, peak, available_mb())

    def settle(self) -> None:
        """Call once when everything is loaded: what lives now lives as long as the process.

        Modules and models are hundreds of thousands of objects; frozen, they cost later
        collections nothing.
        """
        self.give_back()
        gc.freeze()

    def give_back(self) -> None:
        """Return freed memory to the system after a job.

        glibc keeps what was freed unless it is told to trim: half of what the engines seem to use
        (docs/memory.md), for 10 ms. The collection is for errors, whose tracebacks hold the page in
        a cycle; it is cheap because `settle` took everything long-lived out of its sight.
        """
        gc.collect()
        trim()

    def data_mb(self) -> float:
        """What RLIMIT_DATA counts: private writable memory that is reserved, resident or not."""
        return self._read("VmData")[0]

    def _resident(self) -> tuple[float, float]:
        rss, peak = self._read("VmRSS", "VmHWM")
        return rss, peak

    def _read(self, *keys: str) -> list[float]:
        kib = dict.fromkeys(keys, 0)
        for row in self._status.read_text("ascii", "replace").splitlines():
            key, _, value = row.partition(":")
            if key in kib:
                kib[key] = int(value.split()[0])
        return [round(kib[key] / 1024, 1) for key in keys]


def available_mb(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """What this process can still get: the machine's available memory, or what its cgroup leaves of it.

    Pages of files that are cached count as free, as they do in the machine's own figure: the kernel takes
    them back when memory is wanted. In a container that has read a few hundred scans, they fill the limit.
    """
    machine = psutil.virtual_memory().available / _MIB
    return round(min([machine, *(limit.available_mb for limit in _cgroup_limits(cgroup))]), 1)


def total_mb(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """The most that all processes here can have: the machine's memory, or the limit of this cgroup."""
    machine = psutil.virtual_memory().total / _MIB
    return round(min([machine, *(limit.total_mb for limit in _cgroup_limits(cgroup))]), 1)


@dataclass(frozen=True)
class _CgroupLimit:
    """A limit that binds this process, and what is left of it (MiB)."""

    total_mb: float
    available_mb: float


# File of the limit, file of the use, and what of the use the kernel gives back when memory is wanted, by the
# keys of memory.stat: version 2, then version 1. (tmpfs and shared memory are not in these figures.)
_CGROUP_2 = ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable"))
_CGROUP_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def _cgroup_limits(root: Path, own: Path = Path("/proc/self/cgroup")) -> list[_CgroupLimit]:
    """The memory limits of this process's cgroup and of those above it, v1 and v2."""
    limits = []
    try:
        rows = own.read_text("utf-8").splitlines()
    except OSError:
        return []
    for row in rows:
        _, controllers, path = row.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        files = _CGROUP_1 if controllers else _CGROUP_2
        relative = Path(path.lstrip("/"))
        for folder in (base / part for part in (relative, *relative.parents)):
            with suppress(OSError, ValueError):  # not there, or "max"
                limits.append(_cgroup_limit(folder, *files))
    return limits


def _cgroup_limit(folder: Path, limit: str, use: str, reclaimable: tuple[str, ...]) -> _CgroupLimit:
    total, used = (int((folder / name).read_text("ascii")) for name in (limit, use))
    given_back = 0
    with suppress(OSError, ValueError):
        rows = (row.split() for row in (folder / "memory.stat").read_text("ascii").splitlines())
        given_back = sum(int(value) for key, value in rows if key in reclaimable)
    return _CgroupLimit(total / _MIB, max(0, total - used + given_back) / _MIB)


# -- limits ------------------------------------------------------------------------------------

# What a suggested limit leaves for the work, beyond the loaded model.
_ROOM_MB = 600
# A process that has used so much of its limit before its first file would recycle after every few.
_START_SHARE = 0.9
# The soft limit warns again only after memory fell this far below it.
_REARM_SHARE = 0.95


@dataclass(frozen=True)
class MemoryLimits:
    """`memory.*` of the configuration; MiB and a number of files (0: no bound)."""

    soft_mb: float
    rss_mb: float
    max_jobs: int = 0
    hard_mb: float | None = None


class Guard:
    """Decides after every page and every job whether the process goes on."""

    def __init__(
        self,
        limits: MemoryLimits,
        log: FilteringBoundLogger,
        total_mb: Callable[[], float] = total_mb,
    ) -> None:
        self._limits = limits
        self._total_mb = total_mb
        self._log = log
        self._warned = False
        self._jobs = 0
        self._start_rss_mb = math.inf
        self._start_data_mb = 0.0

    def start(self, rss_mb: float, data_mb: float) -> None:
        """Note what the loaded process uses and has reserved, and refuse limits that it already meets.

        With such limits it would restart for ever. Raises `ConfigError` with the figure and what to set.
        """
        self._start_rss_mb, self._start_data_mb = rss_mb, data_mb
        limit = self._limits.rss_mb
        if rss_mb >= limit * _START_SHARE:
            raise ConfigError(
                f"memory.rss_limit_mb is {limit:g}, but the process uses {rss_mb:.0f} MiB "
                "with its model loaded, before its first image",
                hint=f"Set memory.rss_limit_mb to {_round_up(rss_mb + _ROOM_MB)} or more, "
                "or use a smaller ocr.model.",
            )

    def headroom_mb(self, figures: Figures) -> float:
        """What a job may take now without crossing a limit of ours or what the machine can give (MiB)."""
        left = [self._limits.rss_mb - figures.rss_mb, figures.available_mb]
        if self._limits.hard_mb is not None:
            # What was reserved since the start and is not resident is free memory of the allocator,
            # most of which the next job uses again: only resident growth counts.
            grown_mb = self.recycle_gains_mb(figures.rss_mb)
            left.append(self._limits.hard_mb - self._start_data_mb - grown_mb)
        return max(0.0, min(left))

    def headroom_in_one_mb(self, figures: Figures, data_mb: float) -> float:
        """The same for one large allocation, which cannot be pieced together from what was freed."""
        if self._limits.hard_mb is None:
            return self.headroom_mb(figures)
        return max(0.0, min(self.headroom_mb(figures), self._limits.hard_mb - data_mb))

    def headroom_ever_mb(self) -> float:
        """What a job could take in a fresh process, with nothing else running on the machine (MiB)."""
        start_mb = self._start_rss_mb if math.isfinite(self._start_rss_mb) else 0.0
        most = [self._limits.rss_mb - start_mb, self._total_mb() - start_mb]
        if self._limits.hard_mb is not None:
            most.append(self._limits.hard_mb - self._start_data_mb)
        return max(0.0, min(most))

    def recycle_gains_mb(self, rss_mb: float) -> float:
        """How much more a job could take in a fresh process (MiB)."""
        return max(0.0, rss_mb - self._start_rss_mb)

    def after_job(self, rss_mb: float) -> str:
        """The reason to recycle now, in words; empty where the process goes on. Call it once a job."""
        self._jobs += 1
        reason = self.after_page(rss_mb)
        if not reason and self._limits.max_jobs and self._jobs >= self._limits.max_jobs:
            return f"{self._jobs} files done: memory.max_jobs"
        return reason

    def after_page(self, rss_mb: float) -> str:
        """The same between two pages of a document; looks at memory only."""
        limits = self._limits
        if rss_mb >= limits.rss_mb:
            self._log.warning(
                "memory.limit_reached", rss_mb=rss_mb, rss_limit_mb=limits.rss_mb, jobs=self._jobs
            )
            return f"RSS {rss_mb:.0f} MiB reached memory.rss_limit_mb {limits.rss_mb:g}"
        if rss_mb >= limits.soft_mb and not self._warned:
            self._warned = True
            self._log.warning(
                "memory.soft_limit",
                rss_mb=rss_mb,
                soft_limit_mb=limits.soft_mb,
                rss_limit_mb=limits.rss_mb,
                hint="It restarts by itself at rss_limit_mb. A lower image.max_side_px or a smaller "
                "ocr.model needs less.",
            )
        elif rss_mb < limits.soft_mb * _REARM_SHARE:
            self._warned = False
        return ""


def check_ceiling(hard_limit_mb: int | None, data_mb: float) -> None:
    """Raise `ConfigError` where the loaded process has reserved (`data_mb`) what it may at most."""
    if hard_limit_mb is not None and data_mb >= hard_limit_mb:
        raise ConfigError(
            f"memory.hard_limit_mb is {hard_limit_mb}, but the process has reserved {data_mb:.0f} MiB "
            "with its model loaded",
            hint=f"Set memory.hard_limit_mb to {_round_up(data_mb + _ROOM_MB)} or more. It bounds reserved "
            "memory, which is more than the resident memory of memory.rss_limit_mb.",
        )


def set_ceiling(hard_limit_mb: int | None, data_mb: float) -> None:
    """Make every allocation beyond `hard_limit_mb` of private memory fail in this process (RLIMIT_DATA).

    `data_mb` is what the loaded process has reserved already. Raises `ConfigError` where that is more.
    """
    check_ceiling(hard_limit_mb, data_mb)
    if hard_limit_mb is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard_limit_mb * _MIB, most))


def _round_up(mb: float) -> int:
    return -(-int(mb) // 100) * 100
