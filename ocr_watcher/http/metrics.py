"""Figures for Prometheus: the daemon's, as it last told them, and the server's own.

The daemon's totals are kept on the disk, so they survive every restart of either process. No path and no name
of a file is ever a label.
"""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ocr_watcher.jobs import totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from ocr_watcher.http.daemon_state import DaemonState
    from ocr_watcher.http.waiting import Waiting
    from ocr_watcher.service.told import Told

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
_MIB: Final = 1 << 20
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
# Of requests: most take as long as a page, some as long as http.wait_s.
_REQUEST_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HISTOGRAMS: Final = {
    "queue_wait": "From complete on the disk to its turn",
    "load": "Decoding, a document",
    "ocr": "OCR, a document",
}


class Metrics:
    """What `/metrics` shows."""

    def __init__(self, daemon: DaemonState, waiting: Waiting, max_waiting: int) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(DaemonCollector(daemon))
        self._registry.register(_WaitingCollector(waiting, max_waiting))
        ProcessCollector(namespace="ocrwatcher_http", registry=self._registry)
        self._requests = Counter(
            "ocrwatcher_http_requests",
            "Requests that were answered",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "ocrwatcher_http_request_duration_seconds",
            "From a request's head to its answer",
            ("route",),
            buckets=_REQUEST_BOUNDS_S,
            registry=self._registry,
        )
        self._rejected = Counter(
            "ocrwatcher_http_rejected",
            "Requests that were refused",
            ("reason",),
            registry=self._registry,
        )

    def answered(self, route: str, method: str, status: int, took_s: float) -> None:
        """A request was answered; `route` is its pattern, never its path."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route or "none", method, str(status)).inc()
        self._durations.labels(route or "none").observe(took_s)

    def rejected(self, reason: str) -> None:
        """A request was refused; `reason` is the code of a `Problem`."""
        self._rejected.labels(reason).inc()

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)


class _WaitingCollector(Collector):
    def __init__(self, waiting: Waiting, max_waiting: int) -> None:
        self._waiting = waiting
        self._max_waiting = max_waiting

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ocrwatcher_http_jobs_waiting", "Documents by HTTP without a record", len(self._waiting)
        )
        yield GaugeMetricFamily(
            "ocrwatcher_http_jobs_waiting_max", "http.max_waiting", float(self._max_waiting)
        )


class DaemonCollector(Collector):
    """The daemon's figures, from its status file."""

    def __init__(self, daemon: DaemonState, wall_clock: Callable[[], float] = time.time) -> None:
        self._daemon = daemon
        self._wall_clock = wall_clock

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        told = self._daemon.told
        yield GaugeMetricFamily("ocrwatcher_up", "Whether the daemon runs", value=float(self._daemon.running))
        yield from _counters(told)
        yield from _histograms(told)
        if self._daemon.running:
            yield from self._now(told)
        if told.last_exit is not None:
            yield GaugeMetricFamily(
                "ocrwatcher_last_exit_code",
                "How the last process that could say so ended",
                value=told.last_exit.exit_code,
            )
        yield from _limits(told)
        build = GaugeMetricFamily(
            "ocrwatcher_build_info", "What reads", labels=("version", "engine", "model")
        )
        build.add_metric((told.version or "", told.engine or "", told.model or ""), 1)
        yield build

    def _now(self, told: Told) -> Iterator[Metric]:
        """What only a running daemon has."""
        now_s = self._wall_clock()
        gauges: list[tuple[str, str, float | None]] = []
        if told.queue is not None:
            gauges += [
                ("queue_length", "Files in the bounded queue", told.queue.size),
                ("queue_capacity", "queue.max_size", told.queue.max_size),
                ("files_waiting", "Files in the queue, settling, or waiting for their next try",
                 told.queue.size + told.queue.settling),
                ("files_failed", "Files with an error record, as far as known", told.queue.failed),
                ("oldest_waiting_seconds", "How long the first in the queue is there",
                 _ago_s(told.queue.oldest, now_s)),
            ]  # fmt: skip
        since = told.in_hand.since if told.in_hand is not None else None
        gauges += [
            ("in_hand_seconds", "How long the page in hand is read; 0: none is", _ago_s(since, now_s)),
            ("resident_memory_bytes", "Of the daemon", _bytes(told.rss_mb)),
            ("peak_resident_memory_bytes", "Of the daemon, at its highest", _bytes(told.peak_rss_mb)),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(f"ocrwatcher_{name}", text, value=value)


def _ago_s(moment: str | None, now_s: float) -> float:
    if moment is None:
        return 0.0
    return max(0.0, now_s - datetime.fromisoformat(moment).timestamp())


def _bytes(mib: float | None) -> float | None:
    return None if mib is None else mib * _MIB


def _counters(told: Told) -> Iterator[Metric]:
    files = CounterMetricFamily(
        "ocrwatcher_files", "Files that ended with a record", labels=("outcome", "code")
    )
    pages = CounterMetricFamily("ocrwatcher_pages", "Pages of files that were read", labels=("read_from",))
    for total in told.totals:
        if total.name == totals.FILES:
            is_done = total.label == totals.OK
            files.add_metric(("ok", "") if is_done else ("failed", total.label), total.value)
        elif total.name == totals.PAGES:
            pages.add_metric((total.label,), total.value)
    recycles = CounterMetricFamily(
        "ocrwatcher_recycles", "How often the process started afresh on purpose", labels=("reason",)
    )
    for total in told.recycles:
        recycles.add_metric((total.label,), total.value)
    yield from (files, pages, recycles)


def _histograms(told: Told) -> Iterator[Metric]:
    counted: dict[str, dict[str, float]] = defaultdict(dict)
    for total in told.totals:
        counted[total.name][total.label] = total.value
    for name, text in _HISTOGRAMS.items():
        buckets, below = [], 0.0
        for label in totals.BUCKETS:
            below += counted[name].get(label, 0.0)
            buckets.append((label, below))
        family = HistogramMetricFamily(f"ocrwatcher_{name}_seconds", f"{text} (s)")
        family.add_metric((), buckets, counted[name].get(totals.SUM, 0.0))
        yield family


def _limits(told: Told) -> Iterator[Metric]:
    limits = GaugeMetricFamily("ocrwatcher_memory_limit_bytes", "What the memory may be", labels=("kind",))
    for kind, mib in (("soft", told.soft_limit_mb), ("rss", told.rss_limit_mb)):
        if mib is not None:
            limits.add_metric((kind,), float(mib * _MIB))
    yield limits
