"""Several hosts with a real broker: every document its record, whatever dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster import cluster, why_not
from tests.support import dot, sidecar_of, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"NO CLUSTER IS TESTED HERE: {why_not()}")


def test_three_hosts_read_what_is_dropped_into_the_share(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=3, environment={"FAKE_READ_S": "0.1"}) as made:
        images = [dot(made.share / f"{number}.png", (20 + number, 10)) for number in range(30)]
        until(lambda: all(image.with_name(image.name + ".json").exists() for image in images), 60)
        for image in images:
            assert sidecar_of(image)["source"]["name"] == image.name
        reads = made.reads()
        assert sorted(width for _, width in reads) == [20 + number for number in range(30)]
        assert {host for host, _ in reads} == {"host1", "host2", "host3"}
