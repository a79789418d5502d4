"""`doctor`: checks everything the service needs on this machine, one line each, and reads a test image.

A check never stops the others; each failing line says what to do. Changes nothing but for a
temporary file in each folder that must be writable.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from ocr_watcher import log, memory
from ocr_watcher.errors import ExitCode, FileError, OcrWatcherError
from ocr_watcher.inbox import scan, watch
from ocr_watcher.inputs import heif, pdf
from ocr_watcher.ocr import engine, inference, models, paddle_ocr, params, result
from ocr_watcher.service import assembly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.config import Settings

_MIB = 1 << 20
# What one image at the default size needs beyond the loaded models (docs/memory.md).
_HEADROOM_MB = 300
_TEST_TEXT = "DOCTOR 2468"


@dataclass(frozen=True)
class Check:
    """One line of the report. `fix` is empty where there is nothing to do."""

    verdict: Literal["ok", "warn", "FAIL"]
    name: str
    found: str
    fix: str = ""


def main(settings: Settings, *, write: Callable[[str], object] = print) -> ExitCode:
    """Run every check; 0 where none failed, 69 otherwise."""
    log.set_up("error", None, 1, 1)
    failed = 0
    for check in checks(settings):
        write(f"{check.verdict:<4}  {check.name:<14} {check.found}")
        if check.fix:
            write(f"{'':<6}{'':<14} -> {check.fix}")
        failed += check.verdict == "FAIL"
    write(
        "all is well" if not failed else f"{failed} problem{'s' if failed > 1 else ''} to mend before `run`"
    )
    return ExitCode.UNAVAILABLE if failed else ExitCode.OK


def checks(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which mending makes sense."""
    failed: set[str] = set()
    for name, check in (
        ("python", _python),
        ("packages", _packages),
        ("paddle", _paddle),
        ("opencv", _opencv),
        ("configuration", _configuration),
        ("models", _models),
        ("provider", _provider),
        ("orientation", _orientation),
        ("pdf", _pdf),
        ("heic", _heic),
        ("inbox", _inboxes),
        ("state folder", _state),
        ("log folder", _log_folder),
        ("watching", _watching),
        ("cluster", _cluster),
        ("memory", _memory),
        ("ocr", _ocr),
    ):
        if name == "ocr" and "models" in failed:
            # It would fail for the same reason, and one problem would be counted as two.
            yield Check("warn", name, "not tried: there is no model to read with")
            continue
        try:
            yield from check(settings)
        except OcrWatcherError as error:
            failed.add(name)
            yield Check("FAIL", name, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - the other checks go on; the line says what happened
            yield Check("FAIL", name, f"{type(error).__name__}: {error}", "This check itself failed.")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _python(_settings: Settings) -> Iterator[Check]:
    yield Check(
        "ok", "python", f"{platform.python_version()} on {platform.machine()}, {platform.libc_ver()[0]}"
    )


def _packages(_settings: Settings) -> Iterator[Check]:
    for package in ("paddleocr", "paddlex", "onnxruntime", "watchdog", "pillow"):
        version = _version(package)
        if version:
            yield Check("ok", package, version)
        else:
            yield Check("FAIL", package, "not installed", f"pip install {package}")


def _paddle(settings: Settings) -> Iterator[Check]:
    version = _version("paddlepaddle")
    used = settings.ocr.engine == "paddle"
    if not version and used:
        yield Check("FAIL", "paddlepaddle", "not installed", "pip install paddlepaddle==3.2.2")
    elif not version:
        yield Check("ok", "paddlepaddle", "not installed; only ocr.engine: paddle needs it")
    elif version in paddle_ocr.KNOWN_BAD_PADDLE:
        try:
            paddle_ocr.check_paddle_version(version)
        except OcrWatcherError as error:
            unused = "" if used else "; not used by ocr.engine: onnxruntime, but by ocr.engine: paddle"
            yield Check("FAIL" if used else "warn", "paddlepaddle", f"{error}{unused}", error.hint)
    else:
        yield Check("ok", "paddlepaddle", version + ("" if used else " (not loaded by this engine)"))


def _opencv(_settings: Settings) -> Iterator[Check]:
    wheels = sorted(
        {
            name
            for distribution in metadata.distributions()
            if (name := (distribution.metadata["Name"] or "").lower()).startswith("opencv-")
        }
    )
    if len(wheels) > 1:
        yield Check(
            "warn",
            "opencv",
            f"{', '.join(wheels)} are all installed and overwrite each other's cv2",
            "pip uninstall all of them, then pip install opencv-contrib-python==4.10.0.84",
        )
    else:
        yield Check("ok", "opencv", f"{wheels[0]} {_version(wheels[0])}" if wheels else "none")


def _configuration(settings: Settings) -> Iterator[Check]:
    notes = params.examine_params(settings.ocr.params).notes
    yield Check("ok", "configuration", str(settings.source or "built-in defaults"))
    for note in notes:
        yield Check("warn", "configuration", note)


def _models(settings: Settings) -> Iterator[Check]:
    spec = models.resolve(
        settings.ocr.model, settings.ocr.model_store, settings.ocr.engine, settings.ocr.lang
    )
    where = {
        "store": f"verified in {settings.ocr.model_store}",
        "folder": "from its folder",
        "paddleocr": "PaddleOCR's own download: the first start needs the network",
    }[spec.source]
    yield Check("ok", "model", f"{spec.name}, {where}")
    if assembly.line_orientation_model(settings.ocr) is not None:  # raises where it is missing
        yield Check("ok", "model", f"{models.LINE_ORIENTATION}, for lines on their head")


def _provider(settings: Settings) -> Iterator[Check]:
    if settings.ocr.engine == "onnxruntime":
        choice = inference.choose(settings.ocr.provider, settings.ocr.precision)
        yield Check(
            "ok",
            "provider",
            f"{choice.provider}: {choice.reason}; "
            f"detection in {choice.detector}, recognition in {choice.recogniser}",
        )


def _orientation(settings: Settings) -> Iterator[Check]:
    if settings.ocr.orientation == "off":
        yield Check("ok", "orientation", "off: pages are read as they lie")
    elif assembly.orientation_model(settings) is not None:
        yield Check("ok", "orientation", "pages on their side or head are read upright")
    elif settings.ocr.params.get("use_doc_orientation_classify"):
        yield Check("ok", "orientation", "PaddleOCR's own, by ocr.params")
    else:
        fix = f"ocr-watcher models pull {models.ORIENTATION}; or set ocr.orientation: off"
        yield Check("warn", "orientation", "pages are read as they lie: its model is not in the store", fix)


def _pdf(_settings: Settings) -> Iterator[Check]:
    protection = pdf.try_out()
    filters = [name for name, holds in vars(protection).items() if holds]
    found = f"pypdfium2 {_version('pypdfium2')}, in a process that can write and send nothing"
    if protection.seccomp:
        yield Check("ok", "pdf", f"{found} ({', '.join(filters)})")
    else:
        fix = "It is confined by resource limits only: this kernel or processor has no seccomp filter for it."
        yield Check("warn", "pdf", f"pypdfium2 {_version('pypdfium2')}, in a process of its own", fix)


def _heic(settings: Settings) -> Iterator[Check]:
    wanted = {".heic", ".heif"} & set(settings.watch.extensions)
    if heif.is_installed():
        yield Check("ok", "heic", f"pillow-heif {_version('pillow-heif')} (GPLv2 wheels)")
    elif wanted:
        yield Check("warn", "heic", "watch.extensions names HEIC, and no decoder is installed", heif.INSTALL)
    else:
        yield Check("ok", "heic", f"not installed; {heif.INSTALL}, or `make heic`, adds it (GPLv2 wheels)")


def _inboxes(settings: Settings) -> Iterator[Check]:
    assembly.check_inboxes(settings)
    for inbox in settings.watch.inbox:
        yield _writable("inbox", inbox, "Results are written next to the images.")


def _state(settings: Settings) -> Iterator[Check]:
    yield _writable("state folder", settings.state_dir, "Set state_dir to a folder that may be written.")


def _log_folder(settings: Settings) -> Iterator[Check]:
    fix = "Set logging.file to a file that may be written."
    yield _writable("log folder", settings.logging.file.parent, fix)


def _writable(name: str, folder: Path, fix: str) -> Check:
    """Write, flush and rename a file in `folder`, or in the nearest folder above that exists."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".ocr-watcher-", suffix=".tmp", dir=there) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            renamed = f"{file.name}.renamed.tmp"
            os.rename(file.name, renamed)
            os.rename(renamed, file.name)
    except OSError as error:
        return Check("FAIL", name, f"{there} cannot be written: {error.strerror}", fix)
    free_mb = psutil.disk_usage(str(there)).free / _MIB
    if free_mb < 100:
        return Check("warn", name, f"{folder}: {free_mb:.0f} MiB free", "Free some space.")
    state = "writable" if there == folder else f"can be created in {there}"
    return Check("ok", name, f"{folder}: {state}, {free_mb / 1024:.0f} GiB free")


def _watching(settings: Settings) -> Iterator[Check]:
    for inbox in settings.watch.inbox:
        if not inbox.is_dir():
            continue
        mode, reason = watch.choose_mode(settings.watch.mode, inbox)
        kind = watch.file_system_of(inbox)
        if mode == "native" and watch.is_network(kind):
            yield Check("warn", "watching", f"{inbox} is on {kind}: {reason}", "Set watch.mode: auto.")
        else:
            yield Check("ok", "watching", f"{inbox}: {mode}, {reason}")
        if mode == "native":
            yield _inotify(inbox, recursive=settings.watch.recursive)


def _inotify(inbox: Path, *, recursive: bool) -> Check:
    folders = scan.count_folders(str(inbox)) if recursive else 1
    try:
        limit = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text("ascii"))
    except (OSError, ValueError):
        return Check("warn", "inotify", "the limits cannot be read", "Is /proc mounted?")
    if folders > limit // 2:
        fix = f"sysctl fs.inotify.max_user_watches={max(65536, folders * 4)}"
        return Check("warn", "inotify", f"{folders} folders of {limit} watches that one user may have", fix)
    return Check("ok", "inotify", f"{folders} folder{'s' if folders > 1 else ''}, limit {limit}")


def _cluster(settings: Settings) -> Iterator[Check]:
    if settings.cluster.is_on:
        from ocr_watcher.cluster import examination  # noqa: PLC0415 - needs libraries that are an extra

        for found in examination.examine(settings):
            yield Check(found.verdict, found.name, found.found, found.fix)


def _memory(settings: Settings) -> Iterator[Check]:
    limits = settings.memory
    figures = memory.Memory().figures()
    said = f"{figures.available_mb:.0f} MiB available, rss_limit_mb {limits.rss_limit_mb}"
    if figures.available_mb < limits.rss_limit_mb:
        fix = "Lower memory.rss_limit_mb below what the machine can give, or free memory."
        yield Check("warn", "memory", said, fix)
    else:
        yield Check("ok", "memory", said)


def _ocr(settings: Settings) -> Iterator[Check]:
    probe = memory.Memory()
    started = time.monotonic()
    reader = assembly.make_engine(settings)
    loaded = time.monotonic()
    try:
        lines = result.normalise(reader.read(engine.drawn_text(_TEST_TEXT)))
    except FileError as error:  # its own hint is to run this
        reader.close()
        yield Check("FAIL", "ocr", str(error), assembly.unreadable_hint(error))
        return
    read = time.monotonic()
    figures, data_mb = probe.figures(), probe.data_mb()
    reader.close()
    text = " ".join(line.text for line in lines)
    if "2468" not in text:
        fix = "The model does not read Latin digits: try another ocr.model; or ocr.params spoil it."
        yield Check("FAIL", "ocr", f"read {text!r} instead of {_TEST_TEXT!r}", fix)
        return
    try:
        memory.check_ceiling(settings.memory.hard_limit_mb, data_mb)
    except OcrWatcherError as error:
        yield Check("FAIL", "memory", str(error), error.hint)
    needed = figures.peak_rss_mb + _HEADROOM_MB
    found = (
        f"read {text!r}; start {loaded - started:.1f} s, image {read - loaded:.2f} s, "
        f"{figures.rss_mb:.0f} MiB"
    )
    if needed > settings.memory.rss_limit_mb:
        fix = f"Raise memory.rss_limit_mb to {needed:.0f} or more: one image would reach it."
        yield Check("warn", "ocr", found, fix)
    else:
        yield Check("ok", "ocr", found)
