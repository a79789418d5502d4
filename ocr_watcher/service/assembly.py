"""Puts together what takes a job from the queue to its record: engine, reader, journal, memory guard, worker.

The daemon and `once` are built from the same parts. The engine comes in as a factory, so that tests run the
real program on a fake one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ocr_watcher import __version__, log, memory, names
from ocr_watcher.document import EngineFacts
from ocr_watcher.errors import FileError, OutOfMemoryError, UnavailableError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.keeper import Habits
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inputs.base import DecodeLimits, PdfLimits
from ocr_watcher.job import Stamp
from ocr_watcher.jobs import totals
from ocr_watcher.jobs.attempt import Tools
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.observers import LogObserver, Observers
from ocr_watcher.jobs.reader import Reader
from ocr_watcher.jobs.supervision import Supervision
from ocr_watcher.jobs.turns import EngineInTurns
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.memory import Guard, Memory, MemoryLimits
from ocr_watcher.ocr import models, paddle_ocr, params
from ocr_watcher.outputs.formats import FORMATS
from ocr_watcher.service import reread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ocr_watcher.config import Settings
    from ocr_watcher.config.settings import OcrSettings
    from ocr_watcher.job import Job
    from ocr_watcher.jobs.observers import Observer
    from ocr_watcher.jobs.totals import Totals
    from ocr_watcher.ocr.engine import Engine

MakeEngine: TypeAlias = "Callable[[Settings], Engine]"

_MIB = 1 << 20
# Where the spool's file system tells no changes, as a client that waits for an answer would like it.
_SPOOL_POLL_S = 0.1


@dataclass(frozen=True)
class Loaded:
    """An engine that works, and what is needed to read with it."""

    engine: Engine
    facts: EngineFacts
    reader: Reader
    limits: DecodeLimits
    memory: Memory
    guard: Guard
    settings: str = ""  # `Document.settings`

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()


def load(settings: Settings, make_engine: MakeEngine) -> Loaded:
    """Load the engine, see that it reads, and hold the limits against it. Raises `ServiceError`."""
    probe = Memory()
    engine = make_engine(settings)
    _warm_up(engine)
    probe.settle()
    return Loaded(
        engine,
        EngineFacts(engine.name, engine.provider, engine.model, engine.version, __version__),
        Reader(
            engine,
            min_score=settings.ocr.min_score,
            words=needs_words(settings),
            give_back=probe.give_back,
        ),
        decode_limits(settings),
        probe,
        _guard(settings, probe),
        reread.key(settings),
    )


@dataclass(frozen=True)
class Assembly:
    """Everything behind the queue, ready to work."""

    engine: Engine
    journal: Journal
    memory: Memory
    supervision: Supervision
    worker: Worker
    ends: threading.Event

    def close(self) -> None:
        """Release the engine and the journal."""
        self.ends.set()
        self.engine.close()
        self.journal.close()


def build(
    settings: Settings,
    make_engine: MakeEngine,
    *,
    queue_depth: Callable[[], int],
    others_wait: Callable[[], bool] = lambda: False,
    somebody_hurries: Callable[[Job], bool] = lambda _job: False,
    observers: Sequence[Observer] = (),
) -> Assembly:
    """Load the engine and build everything behind the queue. Raises `ServiceError`.

    `queue_depth` tells how many jobs are queued, for the log; `others_wait` whether a long document should
    let others go first; `observers` are told beside the log.
    """
    supervision = Supervision()
    loaded = load(settings, lambda settings: EngineInTurns(make_engine(settings), supervision))
    journal, ends = _journal(settings), threading.Event()
    # In a thread of its own: a file of the journal may lie on a mount that hangs.
    places = Places.of(settings)
    threading.Thread(target=_sweep, args=(journal, places, ends), name="sweep", daemon=True).start()
    tools = Tools(
        reader=loaded.reader,
        limits=loaded.limits,
        page_mb=loaded.engine.page_mb,
        engine=loaded.facts,
        settings_key=settings_key(settings, loaded.facts),
        settings=reread.key(settings),
        max_attempts=settings.retry.max_attempts,
        journal=journal,
        memory=loaded.memory,
        guard=loaded.guard,
        supervision=supervision,
        # Supervision first: whoever is told of an end may look at it.
        observer=Observers([supervision, LogObserver(log.get(), queue_depth), *observers]),
        others_wait=others_wait,
        somebody_hurries=somebody_hurries,
        spool=settings.http.spool if settings.http is not None else None,
        bridge_spool=settings.cluster.spool if settings.cluster.is_on else None,
        shows_folders=settings.http is not None and settings.http.shows_folders,
        places=places,
        formats=tuple(kind for kind in settings.output.formats if kind in FORMATS),
        words=settings.output.words,
    )
    return Assembly(loaded.engine, journal, loaded.memory, supervision, Worker(tools), ends)


def make_engine(settings: Settings) -> Engine:
    """Load the configured engine. Raises `ServiceError`."""
    memory.use_one_heap()
    memory.apply_environment(settings.memory.env)
    ocr = settings.ocr
    _, notes = params.translate_params(ocr.params)
    for note in notes:
        log.get().info("config.note", message=note)
    spec = models.resolve(ocr.model, ocr.model_store, ocr.engine, ocr.lang)
    return paddle_ocr.create(
        ocr.engine,
        spec,
        ocr.threads,
        ocr.params,
        provider=ocr.provider,
        precision=ocr.precision,
        orientation=orientation_model(settings),
        line_orientation=line_orientation_model(settings.ocr),
    )


def orientation_model(settings: Settings) -> Path | None:
    """The file of the model that tells how a page lies, where pages are to be turned and it is there."""
    # Whoever has PaddleOCR turn pages would have them turned twice.
    if settings.ocr.orientation == "off" or settings.ocr.params.get("use_doc_orientation_classify"):
        return None
    return models.further_file(models.ORIENTATION, settings.ocr.model_store)


def line_orientation_model(ocr: OcrSettings) -> Path | None:
    """The file of the model that tells lines on their head, where they are to be read.

    Raises:
        UnavailableError: it is not in the store.
    """
    # Whoever has PaddleOCR turn lines would have them turned twice.
    if not ocr.upside_down_lines or ocr.params.get("use_textline_orientation"):
        return None
    return models.line_orientation_file(ocr.model_store)


def needs_words(settings: Settings) -> bool:
    """Whether lines must have words: for the sidecar, for a further format, or for who may ask by HTTP."""
    formats = settings.output.formats
    return (
        settings.output.words
        or settings.http is not None
        or settings.cluster.is_on
        or any(FORMATS[kind].words for kind in formats if kind in FORMATS)
    )


def decode_limits(settings: Settings) -> DecodeLimits:
    """What a file may cost, by the settings alone."""
    return DecodeLimits(
        max_file_bytes=int(settings.image.max_file_mb * _MIB),
        max_pixels=int(settings.image.max_megapixels * 1_000_000),
        max_side_px=settings.image.max_side_px,
        decode_timeout_s=settings.ocr.job_timeout_s / 2,
        pdf=PdfLimits(
            max_file_bytes=int(settings.pdf.max_file_mb * _MIB),
            max_pages=settings.pdf.max_pages,
            # A page is decoded twice at the most; the daemon takes one that is in hand for longer than
            # ocr.job_timeout_s for a hang.
            page_timeout_s=min(settings.pdf.page_timeout_s, settings.ocr.job_timeout_s / 2),
            text=settings.pdf.text,
            passwords=settings.pdf.passwords,
        ),
    )


def settings_key(settings: Settings, facts: EngineFacts) -> str:
    """A short name for everything that decides how a page is read, versions too: 16 hexadecimal digits."""
    everything = [reread.decisive(settings), vars(facts), needs_words(settings)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()[:16]


def make_spool(folder: Path, key: str) -> Path:
    """A spool, made where it is missing; `key` is its setting. Raises `UnavailableError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot make the spool {folder}: {error.strerror}",
            hint=f"Set {key} to a folder that the service may write.",
        ) from error
    return folder


def bridge_habits(settings: Settings) -> Habits:
    """How a bridge's spool is watched. As the server does, it renames into it what is whole."""
    watch = settings.watch
    return Habits(
        Rules.of(watch.extensions, watch.ignore, 0.0),
        watch.mode,
        recursive=True,
        poll_interval_s=min(watch.poll_interval_s, _SPOOL_POLL_S),
        rescan_interval_s=watch.rescan_interval_s,
        queue_size=settings.queue.max_size,
    )


def spool_habits(settings: Settings) -> Habits:
    """How the server's spool is watched: it renames into it what is whole, so nothing has to settle."""
    watch = settings.watch
    return Habits(
        Rules.of(names.SPOOL_EXTENSIONS, (".*",), 0.0),
        watch.mode,
        recursive=False,
        poll_interval_s=min(watch.poll_interval_s, _SPOOL_POLL_S),
        rescan_interval_s=watch.rescan_interval_s,
        queue_size=settings.http.max_waiting if settings.http is not None else 1,
    )


def check_inboxes(settings: Settings) -> None:
    """Every folder that documents come from and go to is there and may be used. Raises `UnavailableError`."""
    for check in Places.of(settings).checks(*settings.watch.inbox):
        check()


def unreadable_hint(error: FileError) -> str:
    """What to do where not even a test image can be read."""
    if isinstance(error, OutOfMemoryError):
        return error.hint
    return "Check ocr.model, and each of ocr.params: without them, and with a model of the store, it reads."


def _warm_up(reader: Engine) -> None:
    try:
        reader.warm_up()
    except FileError as error:
        raise UnavailableError(
            f"the engine cannot read a test image: {error}", hint=unreadable_hint(error)
        ) from error


def _guard(settings: Settings, probe: Memory) -> Guard:
    limits = settings.memory
    guard = Guard(
        MemoryLimits(limits.soft_limit_mb, limits.rss_limit_mb, limits.max_jobs, limits.hard_limit_mb),
        log.get(),
    )
    guard.start(probe.rss_mb(), probe.data_mb())
    memory.set_ceiling(limits.hard_limit_mb, probe.data_mb())
    return guard


def _journal(settings: Settings) -> Journal:
    with suppress(OSError):  # the journal says so itself where it cannot be written
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    return Journal(settings.state_dir / names.JOURNAL, log.get())


def _sweep(journal: Journal, places: Places, ends: threading.Event) -> None:
    journal.sweep(lambda path: None if ends.is_set() else _ended(path, places))


def _ended(path: str, places: Places) -> Totals | None:
    """What a file that is gone or has its record adds to the totals; None where it is still to be read."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return {} if isinstance(error, FileNotFoundError) else None
    if not stat.S_ISREG(status.st_mode):
        return {}
    state = places.lookup(path, Stamp.of(status))
    if state not in (RecordState.DONE, RecordState.FAILED):
        return None
    return _recorded(places.with_records(path), state)


def _recorded(path: str, state: RecordState) -> Totals:
    """What a file adds by the record beside `path`."""
    if state is RecordState.FAILED:
        error = records.read_error(path)
        return {} if error is None else totals.of_failed(error.code)
    folder, name = os.path.split(path)
    try:
        return totals.of_record(os.path.join(folder, names.records_of(name).sidecar))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
