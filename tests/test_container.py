"""The container image is built from the Containerfile and does what it is said to do; compose.yaml too.

`CONTAINER_STORE` is a folder in which the image stays from one run to the next; a build takes minutes.
`CONTAINER_IMAGES` is how many mixed images are read within a memory limit.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from tests.cluster import SERVER
from tests.container import TAG, Container, Image, Store, network, running, why_not
from tests.support import draw, record, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
IMAGES = int(os.environ.get("CONTAINER_IMAGES", "60"))
SMALL_MEMORY = "ocr: {profile: small-memory}\n"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=f"NO IMAGE IS BUILT HERE: {why_not()}"),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    kept = os.environ.get("CONTAINER_STORE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("store")
    store = Store(folder / "storage")
    if TAG not in store.buildah("images", "--format", "{{.Name}}"):
        store.base("docker.io/library/debian:bookworm-slim")
        store.build()
    yield store.image()
    store.buildah("rm", "--all")


def belongs_to(image: Image, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    os.chown(folder, *image.user)
    return folder


def configured(folder: Path, more: str) -> Path:
    """The image's configuration with further sections."""
    path = folder / "config.yaml"
    path.write_text((ROOT / "container/config.yaml").read_text() + more)
    return path


def mixed(folder: Path, count: int) -> list[Path]:
    """Scans of many sizes and formats, up to A4 at 600 dpi; or out of the folder `CONTAINER_CORPUS`."""
    number = random.Random(1)  # noqa: S311 - repeatable
    if corpus := os.environ.get("CONTAINER_CORPUS"):
        sources = sorted(path for path in Path(corpus).iterdir() if path.suffix in (".jpg", ".png"))
        number.shuffle(sources)
    else:
        sizes = [(640, 480), (1240, 1754), (2480, 3508), (1024, 768), (4961, 7016), (3000, 1200), (600, 2400)]
        sources = [printed(folder / f"source{turn}.png", size, number) for turn, size in enumerate(sizes)]
    made = []
    for turn in range(count):
        with Picture.open(sources[turn % len(sources)]) as picture:
            kind = number.choice(["jpg", "jpg", "png", "tif", "webp", "bmp"])
            if picture.width * picture.height > 3_000_000 and kind in ("tif", "bmp", "webp"):
                kind = "png"  # image.max_file_mb
            path = folder / f"{turn:04}.{kind}"
            picture.convert("L" if number.random() < 0.3 else "RGB").save(path)
        made.append(path)
    return made


def printed(path: Path, size: tuple[int, int], number: random.Random) -> Path:
    """A page full of lines."""
    picture = Picture.new("L", size, 255)
    height = max(16, size[1] // 60)
    font = ImageFont.load_default(size=height * 0.7)
    for top in range(height, size[1] - 2 * height, height):
        words = " ".join(str(number.randrange(10**6)) for _ in range(6))
        ImageDraw.Draw(picture).text((size[0] * 0.05, top), words, 0, font)
    picture.save(path)
    return path


def test_it_reads_what_is_dropped_into_a_mounted_inbox(image: Image, tmp_path: Path) -> None:
    inbox = belongs_to(image, tmp_path / "inbox")
    print(f"size of the image: {image.size}")
    with running(Container(image, tmp_path / "c", {"/inbox": inbox}, memory_mb=1024)) as container:
        container.wait_for("daemon.ready")
        draw(tmp_path / "receipt.png", "TOTAL 12345").rename(inbox / "receipt.png")
        until((inbox / "receipt.png.json").exists, 60)
        assert "12345" in record(inbox / "receipt.png.json")["text"]
        # As its own user, who may write nothing but the inbox, the state and /tmp.
        uid, _ = image.user
        assert uid != 0
        assert (inbox / "receipt.png.json").stat().st_uid == uid
        written = container.run_inside(
            "sh", "-c", "touch /opt/x /etc/x /usr/x /x; id -u; grep CapEff /proc/self/status"
        )
        assert written.stderr.count("Read-only file system") == 4, written.stderr
        assert written.stdout.split() == [str(uid), "CapEff:", "0000000000000000"]
        health = container.run_inside(*image.config["Healthcheck"]["Test"][1:])
        assert (health.returncode, health.stdout.strip()) == (0, "well"), health.stderr
        assert container.stop() == 0


def test_it_is_ill_where_nothing_of_it_works(image: Image, tmp_path: Path) -> None:
    inbox = belongs_to(image, tmp_path / "inbox")
    container = Container(image, tmp_path / "c", {"/inbox": inbox}, entrypoint=["sleep"], command=["60"])
    with running(container):
        until(lambda: container.run_inside("test", "-e", "/opt/ocr-watcher/health").returncode == 0)
        health = container.run_inside(*image.config["Healthcheck"]["Test"][1:])
        assert (health.returncode, health.stdout.strip()) == (1, "no process of ours")


def test_doctor_finds_nothing_to_mend(image: Image, tmp_path: Path) -> None:
    inbox = belongs_to(image, tmp_path / "inbox")
    with running(Container(image, tmp_path / "c", {"/inbox": inbox}, command=["doctor"])) as container:
        assert container.process is not None
        container.process.wait(300)
        assert container.process.returncode == 0, container.log
        print(container.log)


@pytest.mark.parametrize(("memory_mb", "more"), [(700, ""), (512, SMALL_MEMORY)], ids=["700", "512"])
def test_it_reads_mixed_images_within_a_memory_limit(
    image: Image, tmp_path: Path, memory_mb: int, more: str
) -> None:
    inbox = belongs_to(image, tmp_path / "inbox")
    made = belongs_to(image, tmp_path / "made")
    images = mixed(made, IMAGES)
    mounts = {"/inbox": inbox, "/etc/ocr-watcher/config.yaml:ro": configured(tmp_path, more)}
    container = Container(image, tmp_path / "c", mounts, memory_mb=memory_mb)
    starts = 1

    def ended() -> bool:
        assert container.process is not None
        return container.process.poll() is not None

    def read() -> int:
        return len(list(inbox.glob("*.json")))

    with running(container):
        for path in images:
            shutil.move(path, inbox / path.name)
        while read() < len(images):
            before = read()
            until(lambda: ended() or read() > before, 300)  # noqa: B023 - called before the next turn
            if ended():  # `restart: always`
                assert container.process is not None
                assert container.process.returncode == 75, container.log[-3000:]
                starts += 1
                container.start()
        errors = [path.read_text() for path in inbox.glob("*.error.json")]
        limited = sum("page_limited" in path.read_text() for path in inbox.glob("*.json"))
        rss = max(event["peak_rss_mb"] for event in container.events("memory.stats"))
        print(
            f"{memory_mb} MiB: {len(images)} images, {starts} starts, {limited} pages read smaller, "
            f"RSS {rss} MiB at most, killed {container.out_of_memory()}"
        )
        assert errors == []
        assert container.out_of_memory() == 0
        assert limited == 0, (container.cgroup / "memory.stat").read_text()


# -- compose.yaml ----------------------------------------------------------------------------------


def services(image: Image, folder: Path, holder: int) -> dict[str, list[Container]]:
    """The services of compose.yaml as containers; the broker is this machine's redis-server."""
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost broker\n")
    made: dict[str, list[Container]] = {}
    for name, service in compose["services"].items():
        if service["image"] != "ocr-watcher":
            continue
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        mounts = {"/etc/hosts:ro": hosts}
        for row in service["volumes"]:
            source, _, place = row.partition(":")
            mounts[place] = folder / source if source == "./inbox" else ROOT / source
        made[name] = [
            Container(
                image,
                folder / f"{name}{number}",
                mounts,
                service.get("command"),
                service.get("entrypoint"),
                memory_mb={"256m": 256, "1g": 1024}[service["mem_limit"]],
                network=holder,
            )
            for number in range(service.get("deploy", {}).get("replicas", 1))
        ]
    return made


@pytest.mark.skipif(shutil.which(SERVER) is None, reason="redis-server is missing")
def test_compose(image: Image, tmp_path: Path) -> None:
    inbox = belongs_to(image, tmp_path / "inbox")
    command = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["broker"]["command"]
    with network() as holder:
        broker = subprocess.Popen(
            ["nsenter", "--net", "--target", str(holder), *command], stdout=subprocess.DEVNULL, cwd=tmp_path
        )
        made = services(image, tmp_path, holder)
        everything = [container for containers in made.values() for container in containers]
        assert len(made["worker"]) == 2
        try:
            for container in everything:
                container.start()
            for worker in made["worker"]:
                worker.wait_for("daemon.ready")
                worker.wait_for("bridge.ready")
            made["dispatch"][0].wait_for("dispatch.ready")
            for number in range(12):
                draw(tmp_path / "new.png", f"TOTAL {number}2345").rename(inbox / f"{number}.png")
            until(lambda: len(list(inbox.glob("*.json"))) == 12, 120)
            for number in range(12):
                assert f"{number}2345" in record(inbox / f"{number}.png.json")["text"]
            assert all(worker.events("job.ended") for worker in made["worker"])
            for container in everything:
                health = container.run_inside("/opt/ocr-watcher/health")
                assert (health.returncode, health.stdout.strip()) == (0, "well"), health.stderr
                print(container.folder.name, f"{container.peak_mb():.0f} MiB at most, caches included")
            for container in everything:
                assert container.stop() == 0, container.log[-2000:]
        finally:
            for container in everything:
                container.kill()
            broker.kill()
            broker.wait()
