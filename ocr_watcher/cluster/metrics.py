"""Figures of `dispatch` and `bridge` for Prometheus, served by the process itself.

No path and no name of a file is ever a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ocr_watcher import log
from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True)
class Gauge:
    """A figure of this moment; with a label where `values` has other keys than ""."""

    name: str
    text: str
    values: Mapping[str, float]
    label: str = ""


@dataclass(frozen=True)
class Count:
    """A figure that only grows, by label."""

    name: str
    text: str
    values: Mapping[str, float]
    label: str = ""


class _Figures(Collector):
    def __init__(self, prefix: str, figures: Callable[[], list[Gauge | Count]]) -> None:
        self._prefix = prefix
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for figure in self._figures():
            kind = GaugeMetricFamily if isinstance(figure, Gauge) else CounterMetricFamily
            labels = (figure.label,) if figure.label else ()
            family = kind(f"{self._prefix}_{figure.name}", figure.text, labels=labels)
            for label, value in figure.values.items():
                family.add_metric((label,) if figure.label else (), value)
            yield family


def serve(prefix: str, figures: Callable[[], list[Gauge | Count]], address: tuple[str, int]) -> None:
    """Serve `/metrics` in a thread, at a host and port.

    Raises `UnavailableError` where that cannot be used.
    """
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(prefix, figures))
    ProcessCollector(namespace=prefix, registry=registry)
    host, port = address
    try:
        server, _ = prometheus_client.start_http_server(port, host, registry)
    except OSError as error:
        raise UnavailableError(
            f"cannot serve metrics on {host}:{port}: {error.strerror}",
            hint="Give --metrics another port.",
        ) from error
    log.get().info("metrics.served", address=f"http://{host}:{server.server_port}/metrics")
