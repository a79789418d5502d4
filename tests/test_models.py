"""The model store: what is in it is whole and verified, whatever happened on the way."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ocr_watcher.errors import ConfigError, UnavailableError, UsageError
from ocr_watcher.ocr import models
from ocr_watcher.ocr.models import Model, ModelFile, Wheel

CONTENT = {
    f"toy/{part}.{suffix}": f"{part} {suffix} ".encode() * 1000
    for part in ("det", "rec")
    for suffix in ("onnx", "yml")
}


class Shelf:
    """A wheel made for the test, a catalogue of what it holds, and a fetch that counts its calls."""

    def __init__(self, folder: Path, content: dict[str, bytes] = CONTENT) -> None:
        folder.mkdir()
        self.path = folder / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
            archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
            archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("toy-1.0.dist-info/RECORD", "")
        self.wheel = Wheel(
            "toy", "1.0", hashlib.sha256(self.path.read_bytes()).hexdigest(), self.path.stat().st_size
        )
        files = tuple(
            ModelFile(
                f"{Path(name).stem}/inference{Path(name).suffix}",
                self.wheel,
                name,
                len(data),
                hashlib.sha256(data).hexdigest(),
            )
            for name, data in CONTENT.items()
        )
        self.catalogue = {
            "toy": Model("toy", ("onnxruntime",), "Apache-2.0", files),
            "other": Model("other", ("onnxruntime", "paddle"), "Apache-2.0", files[:2]),
        }
        self.fetched = 0

    def fetch(self, wheel: Wheel, folder: Path) -> Path:
        """Stand in for pip."""
        assert wheel == self.wheel
        self.fetched += 1
        return Path(shutil.copy(self.path, folder))

    def pull(self, store: Path, *names: str) -> list[str]:
        """Pull from this wheel."""
        return models.pull(names or ["toy"], store, fetch=self.fetch, catalogue=self.catalogue)

    def state(self, store: Path, name: str = "toy") -> str:
        """What `models list` says of it."""
        return {line.name: line.state for line in models.status(store, catalogue=self.catalogue)}[name]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "store"


def names_in(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()}


def test_a_pulled_model_is_whole_and_alone(shelf: Shelf, store: Path) -> None:
    assert shelf.pull(store) == ["toy"]

    assert names_in(store) == {".lock", "toy"}
    assert (store / "toy/rec/inference.onnx").read_bytes() == CONTENT["toy/rec.onnx"]
    assert models.verify("toy", store, catalogue=shelf.catalogue) == []


def test_what_is_there_is_not_fetched_again_and_a_shared_wheel_only_once(shelf: Shelf, store: Path) -> None:
    assert shelf.pull(store, "toy", "other", "toy") == ["toy", "other"]
    assert shelf.fetched == 1
    assert shelf.pull(store, "toy", "other") == []
    assert shelf.fetched == 1


def test_progress_names_the_wheel_and_its_size(shelf: Shelf, store: Path) -> None:
    said: list[str] = []
    models.pull(["toy"], store, fetch=shelf.fetch, progress=said.append, catalogue=shelf.catalogue)
    assert said == ["downloading toy 1.0 (0 MB)", f"toy is in {store}"]


@pytest.mark.parametrize("damage", [b"", b"x" * 9000, None])
def test_a_damaged_model_is_named_and_replaced(shelf: Shelf, store: Path, damage: bytes | None) -> None:
    shelf.pull(store)
    victim = store / "toy/det/inference.onnx"
    victim.unlink() if damage is None else victim.write_bytes(damage)

    (problem,) = models.verify("toy", store, catalogue=shelf.catalogue)
    assert str(victim) in problem
    assert shelf.state(store) == "damaged"
    assert shelf.pull(store) == ["toy"]
    assert shelf.state(store) == "present"
    assert names_in(store) == {".lock", "toy"}


def test_status_lists_every_model(shelf: Shelf, store: Path) -> None:
    shelf.pull(store)
    assert [line.state for line in models.status(store, catalogue=shelf.catalogue)] == ["present", "missing"]
    first = models.status(store, catalogue=shelf.catalogue)[0]
    assert (first.name, first.engines, first.licence) == ("toy", ("onnxruntime",), "Apache-2.0")
    assert first.size_bytes == sum(map(len, CONTENT.values()))


def test_a_tampered_file_is_refused_by_name_and_hash(tmp_path: Path, store: Path) -> None:
    evil = CONTENT["toy/rec.onnx"].swapcase()
    shelf = Shelf(tmp_path / "evil", {**CONTENT, "toy/rec.onnx": evil})

    with pytest.raises(UnavailableError) as caught:
        shelf.pull(store)

    for part in (
        "toy/rec.onnx",
        hashlib.sha256(evil).hexdigest(),
        hashlib.sha256(CONTENT["toy/rec.onnx"]).hexdigest(),
    ):
        assert part in str(caught.value)
    assert "Do not use" in caught.value.hint
    assert names_in(store) == {".lock"}


def test_a_wheel_without_the_file_is_refused(tmp_path: Path, store: Path) -> None:
    shelf = Shelf(tmp_path / "empty", {})
    with pytest.raises(UnavailableError, match=r"does not hold toy/det\.onnx"):
        shelf.pull(store)
    assert names_in(store) == {".lock"}


def test_a_download_that_is_no_wheel_is_refused(shelf: Shelf, store: Path) -> None:
    shelf.path.write_bytes(b"<html>Please log in to the hotel network</html>")
    with pytest.raises(UnavailableError, match="not a zip file"):
        shelf.pull(store)
    assert names_in(store) == {".lock"}


def test_an_unknown_name_gets_a_suggestion(store: Path) -> None:
    with pytest.raises(UsageError, match="PP-OCRv6_smal'") as caught:
        models.pull(["PP-OCRv6_smal"], store)
    assert caught.value.hint == "Did you mean PP-OCRv6_small?"
    assert not store.exists()


def test_no_space_says_so(shelf: Shelf, store: Path) -> None:
    def full(_wheel: Wheel, _folder: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UnavailableError, match="No space left") as caught:
        models.pull(["toy"], store, fetch=full, catalogue=shelf.catalogue)
    assert "250 MB" in caught.value.hint
    assert names_in(store) == {".lock"}


def test_a_store_that_cannot_be_made_says_so(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot write the model store"):
        shelf.pull(tmp_path / "file" / "store")


# Kills itself at the N-th step that changes the disk for good; a real SIGKILL: nothing is cleaned up.
KILLED_PULL = """
import os, pickle, shutil, signal, sys
from pathlib import Path
from ocr_watcher.ocr import models

left = int(sys.argv[1])

def mortal(function):
    def step(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return step

store, wheel, catalogue = pickle.load(sys.stdin.buffer)
os.fsync, Path.rename = mortal(os.fsync), mortal(Path.rename)
models.pull(["toy"], store, fetch=lambda _, folder: shutil.copy(wheel, folder), catalogue=catalogue)
"""


def test_killed_at_any_step_it_leaves_all_or_nothing(shelf: Shelf, store: Path) -> None:
    order = pickle.dumps((store, shelf.path, shelf.catalogue))
    for step in range(1, 100):
        shutil.rmtree(store, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", KILLED_PULL, str(step)], input=order, check=False, timeout=30
        )
        state = shelf.state(store)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert state in {"missing", "present"}, f"step {step}"
        assert shelf.pull(store) == ([] if state == "present" else ["toy"])
        assert shelf.state(store) == "present"
        assert names_in(store) == {".lock", "toy"}, "the dead pull's folder is removed"
    assert step > 8
    assert state == "present"


def test_two_pulls_take_turns_and_the_second_finds_the_work_done(shelf: Shelf, store: Path) -> None:
    waiting = threading.Event()
    brought: list[str] = []

    def second() -> None:
        brought.extend(
            models.pull(
                ["toy"], store, fetch=shelf.fetch, progress=lambda _: waiting.set(), catalogue=shelf.catalogue
            )
        )

    store.mkdir(parents=True)
    elsewhere = store.parent / "elsewhere"
    shelf.pull(elsewhere)
    with (store / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        (elsewhere / "toy").rename(store / "toy")
    thread.join(10)

    assert not thread.is_alive()
    assert brought == []
    assert shelf.fetched == 1


# -- pip ---------------------------------------------------------------------------------------


@pytest.fixture
def offline(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip's index is the shelf: what a user without a network sets, too."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf.path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.usefixtures("offline")
def test_pip_fetches_from_where_the_user_told_it_to(shelf: Shelf, store: Path) -> None:
    assert models.pull(["toy"], store, catalogue=shelf.catalogue) == ["toy"]
    assert models.verify("toy", store, catalogue=shelf.catalogue) == []


@pytest.mark.usefixtures("offline")
def test_pip_refuses_another_wheel(shelf: Shelf, tmp_path: Path) -> None:
    expected = "0" * 64
    with pytest.raises(UnavailableError, match=f"{shelf.wheel.sha256} instead of {expected}"):
        models.pip_fetch(replace(shelf.wheel, sha256=expected), tmp_path)


@pytest.mark.usefixtures("offline")
def test_pip_finds_nothing(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match=re.escape("cannot download toy 2.0: pip says: ERROR")
    ) as caught:
        models.pip_fetch(replace(shelf.wheel, version="2.0"), tmp_path)
    assert "PIP_FIND_LINKS" in caught.value.hint


def test_without_pip_it_says_how_to_get_it(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(UnavailableError, match="has no pip") as caught:
        models.pip_fetch(shelf.wheel, tmp_path)
    assert "ensurepip" in caught.value.hint


# -- the setting -------------------------------------------------------------------------------


def test_a_stored_model_is_passed_as_folders(shelf: Shelf, store: Path) -> None:
    shelf.pull(store)
    spec = models.resolve("toy", store, "onnxruntime", "de", catalogue=shelf.catalogue)
    assert (spec.name, spec.source) == ("toy", "store")
    assert dict(spec.kwargs) == {
        "text_detection_model_name": "toy_det",
        "text_detection_model_dir": str(store / "toy/det"),
        "text_recognition_model_name": "toy_rec",
        "text_recognition_model_dir": str(store / "toy/rec"),
    }


def test_a_missing_model_says_how_to_get_it(shelf: Shelf, store: Path) -> None:
    with pytest.raises(UnavailableError, match="is not in the model store") as caught:
        models.resolve("toy", store, "onnxruntime", None, catalogue=shelf.catalogue)
    assert caught.value.hint == "run: ocr-watcher models pull toy"


def test_a_damaged_model_is_not_used(shelf: Shelf, store: Path) -> None:
    shelf.pull(store)
    with (store / "toy/rec/inference.onnx").open("r+b") as stream:
        stream.write(b"X")
    with pytest.raises(UnavailableError, match=r"(?s)is damaged.*rec/inference\.onnx: SHA-256") as caught:
        models.resolve("toy", store, "onnxruntime", None, catalogue=shelf.catalogue)
    assert caught.value.hint == "run: ocr-watcher models pull toy"


def test_a_model_for_another_engine_is_a_mistake_in_the_configuration(store: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"PP-OCRv6_small works with ocr\.engine onnxruntime, not paddle"
    ) as caught:
        models.resolve("PP-OCRv6_small", store, "paddle", None)
    assert caught.value.hint == "With ocr.engine paddle use ocr.model PP-OCRv5_mobile."


@pytest.mark.parametrize(
    ("model", "lang", "kwargs"),
    [
        ("PP-OCRv5", "korean", {"ocr_version": "PP-OCRv5", "lang": "korean"}),
        ("PP-OCRv4", None, {"ocr_version": "PP-OCRv4"}),
        (
            "PP-OCRv5_server",
            "de",
            {
                "text_detection_model_name": "PP-OCRv5_server_det",
                "text_recognition_model_name": "PP-OCRv5_server_rec",
            },
        ),
        (
            "chinese_cht_PP-OCRv3_mobile",
            None,
            {
                "text_detection_model_name": "PP-OCRv3_mobile_det",
                "text_recognition_model_name": "chinese_cht_PP-OCRv3_mobile_rec",
            },
        ),
    ],
)
def test_other_names_are_left_to_paddleocr(
    store: Path, model: str, lang: str | None, kwargs: dict[str, str]
) -> None:
    spec = models.resolve(model, store, "onnxruntime", lang)
    assert (spec.name, spec.source, dict(spec.kwargs)) == (model, "paddleocr", kwargs)


def test_what_cannot_be_a_name_is_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a model name"):
        models.resolve("PP-OCRv5 server", store, "onnxruntime", None)


@pytest.mark.parametrize(
    ("model", "engine", "problem"),
    [
        ("PP-OCRv6_small", "onnxruntime", None),
        (
            "PP-OCRv6_smal",
            "onnxruntime",
            ("there is no model 'PP-OCRv6_smal'", "Did you mean PP-OCRv6_small?"),
        ),
        (
            "PP-OCRv6_small",
            "paddle",
            (
                "PP-OCRv6_small works with ocr.engine onnxruntime, not paddle",
                "With ocr.engine paddle use ocr.model PP-OCRv5_mobile.",
            ),
        ),
        ("/no/such/folder", "paddle", None),
        ("a b", "paddle", ("'a b' is neither a folder nor a model name", "")),
        ("é" * 200, "paddle", (f"'{'é' * 200}' is neither a folder nor a model name", "")),
        ("a" * 300, "paddle", None),
    ],
)
def test_what_cannot_work_is_told_without_looking_into_the_store(
    model: str, engine: str, problem: tuple[str, str] | None
) -> None:
    assert models.problem_with(model, engine) == problem


def test_a_name_no_file_system_can_hold_is_just_a_name(store: Path) -> None:
    assert models.resolve("a" * 300, store, "onnxruntime", None).source == "paddleocr"


def exported(folder: Path, name: str, *suffixes: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "inference.yml").write_text(f"Global:\n  model_name: {name}\n")
    for suffix in suffixes:
        (folder / f"inference.{suffix}").touch()
    return folder


@pytest.mark.parametrize("prefix", ["", "PP-OCRv9_"])
@pytest.mark.parametrize(
    ("engine", "suffixes"),
    [("onnxruntime", ("onnx",)), ("paddle", ("json", "pdiparams")), ("paddle", ("pdmodel", "pdiparams"))],
)
def test_a_folder_is_asked_for_its_names(
    tmp_path: Path, store: Path, prefix: str, engine: str, suffixes: tuple[str, ...]
) -> None:
    det = exported(tmp_path / f"mine/{prefix}det", "PP-OCRv9_det", *suffixes)
    rec = exported(tmp_path / f"mine/{prefix}rec", "en_PP-OCRv9_rec", *suffixes)
    spec = models.resolve(str(tmp_path / "mine"), store, engine, None)
    assert (spec.name, spec.source) == ("mine", "folder")
    assert dict(spec.kwargs) == {
        "text_detection_model_name": "PP-OCRv9_det",
        "text_detection_model_dir": str(det),
        "text_recognition_model_name": "en_PP-OCRv9_rec",
        "text_recognition_model_dir": str(rec),
    }


def test_a_folder_that_lacks_files_says_all_of_them(tmp_path: Path, store: Path) -> None:
    exported(tmp_path / "mine/det", "x_det", "onnx")
    with pytest.raises(UnavailableError) as caught:
        models.resolve(str(tmp_path / "mine"), store, "paddle", None)
    assert "det lacks inference.json or inference.pdmodel, inference.pdiparams" in str(caught.value)
    assert "needs one folder rec or *_rec, has none" in str(caught.value)


@pytest.mark.parametrize("yml", ["", "Global: {}", "Global: [", "- 1"])
def test_a_folder_without_a_name_is_refused(tmp_path: Path, store: Path, yml: str) -> None:
    for part in ("det", "rec"):
        exported(tmp_path / "mine" / part, "x", "onnx")
    (tmp_path / "mine/rec/inference.yml").write_text(yml)
    with pytest.raises(UnavailableError, match=r"rec/inference\.yml names no model"):
        models.resolve(str(tmp_path / "mine"), store, "onnxruntime", None)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, store: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no folder"):
        models.resolve(str(tmp_path / "nowhere"), store, "onnxruntime", None)


def test_a_catalogue_name_wins_over_a_folder_that_happens_to_be_called_so(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PP-OCRv6_small").mkdir()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UnavailableError, match="is not in the model store"):
        models.resolve("PP-OCRv6_small", store, "onnxruntime", None)
    with pytest.raises(UnavailableError, match="mine holds no model"):
        models.resolve("mine", store, "onnxruntime", None)


# -- the catalogue -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", models.CATALOGUE.values(), ids=lambda model: model.name)
def test_the_catalogue_has_what_each_engine_looks_for(model: Model) -> None:
    paths = {file.path for file in model.files}
    assert len(paths) == len(model.files)
    for part in models.PARTS:
        for engine in model.engines:
            wanted = {"onnxruntime": {"onnx", "yml"}, "paddle": {"json", "pdiparams", "yml"}}[engine]
            assert {f"{part}/inference.{suffix}" for suffix in wanted} <= paths
    for file in model.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert re.fullmatch("[0-9a-f]{64}", file.wheel.sha256)


def test_the_real_files_say_the_names_the_catalogue_gives_them(model_store: Path) -> None:
    for name in ("PP-OCRv6_small", "PP-OCRv5_mobile"):
        for part in models.PARTS:
            assert models.model_name_of(model_store / name / part) == f"{name}_{part}"
