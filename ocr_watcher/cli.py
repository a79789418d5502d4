"""The command line: its verbs and options, and the exit code of every error.

A verb imports what it needs when it runs, so that `--help` and `check-config` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ocr_watcher import __version__, config, names
from ocr_watcher.errors import ExitCode, OcrWatcherError, ServiceError, UsageError
from ocr_watcher.privacy import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocr_watcher.cluster.overview import ClusterStatus
    from ocr_watcher.config import Settings
    from ocr_watcher.verbs.once import Summary


_MAX_SHOWN = 20  # failed files in the summary of `once`


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line is 64 here; argparse itself would say 2."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ocr-watcher",
        description="Drop an image into a folder; a JSON file with its text appears next to it.",
    )
    parser.add_argument("--version", action="version", version=f"ocr-watcher {__version__}")
    _add_config(parser, default=None)
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    configured = _Parser(add_help=False)
    # A default here would replace what was given before the verb.
    _add_config(configured, default=argparse.SUPPRESS)

    def verb(name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name, parents=[configured], help=text, description=text[0].upper() + text[1:] + "."
        )
        made.set_defaults(act=act)
        return made

    verb("run", _run, "watch the inbox until stopped")
    once = verb("once", _once, "do what is in the inbox, or the given files, then exit")
    once.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="images, or folders of images")
    text = verb("text", _text, "read files and print their text; writes nothing")
    text.add_argument(
        "--format", choices=("txt", "json", "hocr", "alto", "tsv"), default="txt", help="default: txt"
    )
    text.add_argument("files", nargs="+", metavar="FILE", help="images; - is standard input")
    verb(
        "check-config",
        _check_config,
        "print the effective settings and what `run` still needs, or every mistake",
    )
    serve = verb("serve", _serve, "serve over HTTP; a process of its own beside `run`")
    serve.add_argument("--host", help="instead of http.host")
    serve.add_argument("--port", type=_port, help="instead of http.port")
    serve.add_argument(
        "--workers",
        type=int,
        default=1,
        help="accepted and ignored: there is one consumer, more means more hosts",
    )
    dispatch = verb("dispatch", _dispatch, "watch shared folders and offer their documents to other hosts")
    bridge = verb("bridge", _bridge, "take documents of shared folders from the broker to this host's daemon")
    for process in (dispatch, bridge):
        process.add_argument(
            "--metrics", type=_address, metavar="[HOST:]PORT", help="serve figures for Prometheus there"
        )
    bridge.add_argument("--name", help="by what the other hosts know this one (default: its host name)")
    verb("doctor", _doctor, "check this machine, the models and the folders, and read a test image")
    status = verb("status", _status, "tell what the service is doing, and how far it is")
    shown = status.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="one JSON object")
    shown.add_argument("--failed", action="store_true", help="which files failed, why, and what to do")
    shown.add_argument("--watch", action="store_true", help="refreshed every second until Ctrl-C")
    retry = verb("retry", _retry, "forget the failure of files, so that they are tried again")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "paths",
        nargs="*",
        default=[],
        type=Path,
        metavar="PATH",
        help="images, their error records, or folders",
    )
    which.add_argument("--all", action="store_true", help="every file that failed")
    which.add_argument(
        "--outdated", action="store_true", help="every file that was read with other settings than now"
    )
    export = verb("export", _export, "make further outputs of finished documents, without reading them again")
    export.add_argument(
        "--format",
        required=True,
        metavar="F[,F]",
        help=f"{', '.join(names.OUTPUT_SUFFIXES)}",
    )
    export.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="documents, their sidecars, or folders of them"
    )
    store = verbs.add_parser(
        "models", parents=[configured], help="the model store", description="The model store."
    )
    actions = store.add_subparsers(metavar="ACTION", required=True, parser_class=_Parser)
    listed = actions.add_parser("list", parents=[configured], help="what there is and what is here")
    listed.set_defaults(act=_models_list)
    pulled = actions.add_parser("pull", parents=[configured], help="fetch models and verify them")
    pulled.add_argument(
        "names", nargs="*", metavar="NAME", help="catalogue names (default: the configured model)"
    )
    pulled.add_argument("--all", action="store_true", help="every model of the catalogue")
    pulled.set_defaults(act=_models_pull)
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not 0 <= int(port) <= 65_535:
        raise ValueError
    return host.strip("[]") or "127.0.0.1", int(port)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError
    return port


def _add_config(parser: argparse.ArgumentParser, default: object) -> None:
    """Let `-c FILE` stand here. It may stand before and after the verb; the last one counts."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help="configuration (default: $OCR_WATCHER_CONFIG, then ./config.yaml, then built-in defaults)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.act(asked))
    except OcrWatcherError as error:
        _complain(error)
        return int(error.exit_code if isinstance(error, ServiceError) else ExitCode.BUG)
    except BrokenPipeError:  # `ocr-watcher models list | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except KeyboardInterrupt:
        return 130


def _complain(error: OcrWatcherError) -> None:
    print(f"ocr-watcher: {error}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)


# -- verbs -------------------------------------------------------------------------------------


def _run(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.verbs import configuration

    settings = configuration.load(asked.config)
    logging = settings.logging
    log.set_up(logging.level, logging.file, logging.max_mb, logging.backups)
    # After the log: its libraries warn while they are imported.
    from ocr_watcher.service.assembly import make_engine
    from ocr_watcher.service.daemon import Daemon

    return _serve_until_stopped(
        "daemon", lambda: Daemon(settings, make_engine, lambda: configuration.load_to_run(asked.config)).run()
    )


def _dispatch(asked: argparse.Namespace) -> int:
    settings = _load_for_cluster(asked)
    from ocr_watcher.cluster.dispatch import Dispatch

    return _serve_until_stopped("dispatch", lambda: Dispatch(settings, asked.metrics).run())


def _bridge(asked: argparse.Namespace) -> int:
    settings = _load_for_cluster(asked)
    from ocr_watcher.cluster.bridge import Bridge

    return _serve_until_stopped("bridge", lambda: Bridge(settings, asked.name, asked.metrics).run())


def _load_for_cluster(asked: argparse.Namespace) -> Settings:
    from ocr_watcher import log

    settings = config.load(asked.config)
    # Not into logging.file: one process writes and rotates that, the daemon.
    log.set_up(settings.logging.level, None, 1, 1)
    return settings


def _serve_until_stopped(service: str, run: Callable[[], ExitCode]) -> int:
    """Run a service; what ends it is told by the log, as events of its name."""
    from ocr_watcher import log

    logger = log.get()
    failed, bug, exiting = (f"{service}.{what}" for what in ("failed", "bug", "exiting"))
    try:
        return run()
    except ServiceError as error:
        # A traceback would say nothing that the message does not.
        logger.error(failed, message=str(error), hint=error.hint, pid=os.getpid())  # noqa: TRY400 - see above
        logger.info(exiting, reason=str(error), exit_code=int(error.exit_code), pid=os.getpid())
        return error.exit_code
    except Exception:
        hint = "This is a bug in ocr-watcher: please report it with this line."
        logger.exception(bug, hint=hint)
        logger.info(exiting, reason="unexpected error", exit_code=int(ExitCode.BUG))
        return ExitCode.BUG


def _serve(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.http import server
    from ocr_watcher.verbs import status

    settings = config.load(asked.config)
    # Not into logging.file: one process writes and rotates that, the daemon.
    log.set_up(settings.logging.level, None, 1, 1)
    if settings.http is None:
        log.get().warning("config.note", message="there is no `http` section: the daemon watches no spool")
    return server.run(
        settings,
        settings.served(asked.host, asked.port),
        collect=lambda: status.collect(settings).as_json(),
        ready=lambda address: print(address, flush=True),
    )


def _check_config(asked: argparse.Namespace) -> int:
    from ocr_watcher.log import one_line
    from ocr_watcher.verbs import configuration

    settings = configuration.load(asked.config)
    # All of the output can be loaded again: remarks are comments. It is shown to others too: no passwords.
    shown, hidden = config.without_secrets(settings)
    print(config.effective(shown), end="")
    for key in hidden:
        print(f"# note: {key} has what is not shown here: a password")
    for remark in configuration.remarks(settings):
        print(f"# note: {one_line(remark.text)}")
        if remark.hint:
            print(f"#       {one_line(remark.hint)}")
    return ExitCode.OK


def _once(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.verbs import configuration

    settings = configuration.load(asked.config)
    on_terminal = sys.stderr.isatty()
    inside = [path for path in asked.paths if _is_in_an_inbox(path, settings)]
    locked = not asked.paths or bool(inside)
    if settings.source is None and not locked:
        settings = settings.model_copy(update={"state_dir": _own_state()})
    # A daemon may be writing the log file; whoever holds the lock may.
    log.set_up(
        settings.logging.level,
        settings.logging.file if locked else None,
        settings.logging.max_mb,
        settings.logging.backups,
        # On a terminal the bar shows what goes on; the details are in the file.
        stream=open(os.devnull, "w", encoding="utf-8") if on_terminal else sys.stderr,  # noqa: SIM115 - lives as long as the process
    )
    from ocr_watcher.service import assembly, lock
    from ocr_watcher.verbs import once

    bar = _Bar(enabled=on_terminal)
    with contextlib.ExitStack() as held:
        if not asked.paths:
            assembly.check_inboxes(settings)
        if locked:
            held.enter_context(lock.hold_all(settings))
        held.callback(bar.close)
        if asked.paths:
            summary = once.do_files(settings, assembly.make_engine, asked.paths, bar)
        else:
            summary = once.drain(settings, assembly.make_engine, bar)
    _print_summary(summary)
    if summary.signal:
        print("Stopped before the end, as asked. Run it again for the rest.")
        return 128 + summary.signal  # what a shell says of a program that a signal ended
    if summary.recycle:
        print(f"Stopped before the end: {summary.recycle}. Run it again for the rest.")
        return ExitCode.RECYCLE
    return ExitCode.SOME_FAILED if summary.failed else ExitCode.OK


def _own_state() -> Path:
    """Where `once FILE` keeps the pages of a document that it may not finish, without a configuration.

    The default would be a folder in whatever folder one stands in; this one is found again from anywhere.
    """
    folder = Path(cache_folder(), "once")
    with contextlib.suppress(OSError):  # the journal says so
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _text(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.verbs import configuration

    if asked.format not in ("txt", "json") and len(asked.files) > 1:
        raise UsageError(
            f"--format {asked.format} is of one file, and here are {len(asked.files)}",
            hint="Call it once for each, or have it made by the service: output.formats.",
        )
    settings = configuration.load(asked.config)
    log.set_up("warning", None, 1, 1)
    # Whatever a library prints goes to standard error: standard output is for the text.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ocr_watcher.jobs.observers import UNREADABLE, UNREADABLE_HINT
    from ocr_watcher.log import one_line
    from ocr_watcher.service import assembly
    from ocr_watcher.verbs import text

    def write(piece: bytes) -> None:
        out.write(piece)
        out.flush()  # a page at a time: whoever reads need not wait for the last

    failed = 0
    with out:
        for trouble in text.read(
            settings,
            assembly.make_engine,
            asked.files,
            asked.format,
            standard_input=sys.stdin.buffer,
            write=write,
        ):
            if isinstance(trouble, text.Unreadable):
                what, hint = UNREADABLE, UNREADABLE_HINT
            else:
                what, hint = str(trouble.error), trouble.error.hint
                failed += 1
            print(f"ocr-watcher: {one_line(trouble.file)}: {one_line(what)}", file=sys.stderr)
            print(f"  {hint}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failed else ExitCode.OK


def _is_in_an_inbox(path: Path, settings: Settings) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(inbox)) for inbox in settings.watch.inbox)


class _Bar:
    """A progress bar on a terminal; nothing elsewhere."""

    def __init__(self, *, enabled: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=0, unit="file", file=sys.stderr, disable=not enabled, dynamic_ncols=True, leave=True
        )
        self._ended = 0

    def begin(self, path: str) -> None:
        self._show(path)

    def page(self, path: str, page: int, pages: int) -> None:
        self._show(path, f", page {page} of {pages}")

    def _show(self, path: str, page: str = "") -> None:
        from ocr_watcher.log import one_line

        self._bar.set_postfix_str(one_line(Path(path).name)[:40] + page, refresh=False)
        self._bar.refresh()

    def end(self, path: str, left: int) -> None:  # noqa: ARG002 - the protocol's
        self._ended += 1
        self._bar.total = self._ended + left
        self._bar.update(1)

    def close(self) -> None:
        self._bar.close()


def _print_summary(summary: Summary) -> None:
    from ocr_watcher.inbox.unwanted import in_words
    from ocr_watcher.jobs.observers import UNREADABLE, UNREADABLE_HINT
    from ocr_watcher.log import one_line

    parts = [f"{summary.done} done"]
    if summary.current:
        parts.append(f"{summary.current} already done")
    parts.append(f"{len(summary.failed)} failed")
    if summary.unwanted:
        parts.append(
            f"{sum(summary.unwanted.values())} not read because of their names ({in_words(summary.unwanted)})"
        )
    print(f"{', '.join(parts)} in {summary.elapsed_s:.1f} s, start included")
    for path, why in list(summary.failed.items())[:_MAX_SHOWN]:
        print(f"  failed: {one_line(path)}: {one_line(why)}")
    if len(summary.failed) > _MAX_SHOWN:
        print(f"  … and {len(summary.failed) - _MAX_SHOWN} more; their .error.json files say why")
    for path in summary.unreadable[:_MAX_SHOWN]:
        print(f"  warning: {one_line(path)}: {UNREADABLE}")
    if len(summary.unreadable) > _MAX_SHOWN:
        print(f"  … and {len(summary.unreadable) - _MAX_SHOWN} more; their records have warnings")
    if summary.unreadable:
        print(f"  {UNREADABLE_HINT}")


def _doctor(asked: argparse.Namespace) -> int:
    from ocr_watcher.verbs import configuration, doctor

    return doctor.main(configuration.load(asked.config))


def _status(asked: argparse.Namespace) -> int:
    from ocr_watcher.verbs import configuration, status

    settings = configuration.load_existing(asked.config)
    if asked.failed:
        return _show_failed(settings)
    if asked.watch:
        return _watch_status(settings)
    now = status.collect(settings, _cluster(settings))
    print(json.dumps(now.as_json()) if asked.json else "\n".join(status.in_words(now)))
    return ExitCode.OK


def _show_failed(settings: Settings) -> int:
    from ocr_watcher.verbs import status

    number = 0
    for number, failure in enumerate(status.failed(settings), 1):  # noqa: B007 - counted
        print("\n".join(status.failed_in_words(failure)))
    print(f"{number} file{'s' if number > 1 else ''}" if number else "no file has failed")
    return ExitCode.OK


def _cluster(settings: Settings) -> ClusterStatus | None:
    """What hosts say of themselves, where there are several."""
    if not settings.cluster.is_on:
        return None
    from ocr_watcher.cluster import overview

    return overview.look(settings)


def _watch_status(settings: Settings) -> int:
    import time

    from ocr_watcher.verbs import status

    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            now = status.collect(settings, _cluster(settings))
            print(clear + "\n".join(status.in_words(now)), flush=True)
            time.sleep(0 if settings.cluster.is_on else 1)  # whoever listens waits meanwhile
    return ExitCode.OK


def _retry(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.log import one_line
    from ocr_watcher.service import lock
    from ocr_watcher.verbs import configuration, retry

    settings = configuration.load_existing(asked.config)
    log.set_up(settings.logging.level, None, settings.logging.max_mb, settings.logging.backups)
    if asked.outdated:
        return _read_again(settings)
    outcome = retry.forget(settings, None if asked.all else asked.paths)
    for path in outcome.again:
        print(f"will be tried again: {one_line(path)}")
    for path in outcome.waiting:
        print(f"waits to be read already: {one_line(path)}")
    for path, why in outcome.refused.items():
        print(f"not tried again: {one_line(path)}: {one_line(why)}", file=sys.stderr)
    if not (outcome.again or outcome.waiting or outcome.refused):
        print("no file has failed")
    if outcome.again and lock.running(settings.state_dir) is None:
        print("ocr-watcher is not running: at its next start")
    return ExitCode.SOME_FAILED if outcome.refused else ExitCode.OK


def _read_again(settings: Settings) -> int:
    from ocr_watcher.service import reread
    from ocr_watcher.verbs import status

    now = status.collect(settings)
    if now.outdated:
        reread.request(settings)
        print(
            f"{now.outdated} file{'s' if now.outdated > 1 else ''} will be read again, one at a time "
            "beside new ones; results stay until then"
        )
        if not now.running:
            print("ocr-watcher is not running: at its next start")
        elif now.config_changed:
            print("ocr-watcher still runs with its former settings: `systemctl reload`, or stop and start it")
    else:
        print("no file was read with other settings")
    if now.unknown_settings:
        print(
            f"{now.unknown_settings} more were read by a version that did not note its settings: "
            "delete the .json of what is to be read again"
        )
    return ExitCode.OK


def _export(asked: argparse.Namespace) -> int:
    from ocr_watcher import log
    from ocr_watcher.log import one_line
    from ocr_watcher.service import assembly
    from ocr_watcher.verbs import configuration, export

    kinds = [kind.strip() for kind in asked.format.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in names.OUTPUT_SUFFIXES:
            raise UsageError(
                f"there is no format {kind}", hint=f"The formats are {', '.join(names.OUTPUT_SUFFIXES)}."
            )
    settings = configuration.load(asked.config)
    log.set_up(settings.logging.level, None, settings.logging.max_mb, settings.logging.backups)
    outcome = export.export(
        settings, assembly.decode_limits(settings), list(dict.fromkeys(kinds)), asked.paths
    )
    print(f"{outcome.done} done, {len(outcome.refused)} failed")
    for path, why in list(outcome.refused.items())[:_MAX_SHOWN]:
        print(f"  failed: {one_line(path)}: {one_line(why)}", file=sys.stderr)
    if len(outcome.refused) > _MAX_SHOWN:
        print(f"  … and {len(outcome.refused) - _MAX_SHOWN} more", file=sys.stderr)
    return ExitCode.SOME_FAILED if outcome.refused else ExitCode.OK


def _models_list(asked: argparse.Namespace) -> int:
    from ocr_watcher.ocr import models

    settings = config.load(asked.config)
    print(f"model store: {settings.ocr.model_store}")
    for model in models.status(settings.ocr.model_store):
        mark = "*" if model.name == settings.ocr.model else " "
        print(
            f"{mark} {model.name:<21} {model.state:<8} {model.size_bytes / 1e6:6.1f} MB  "
            f"{model.licence}  for ocr.engine: {', '.join(model.engines)}"
        )
    return ExitCode.OK


def _models_pull(asked: argparse.Namespace) -> int:
    from ocr_watcher.ocr import models
    from ocr_watcher.verbs import configuration

    if asked.names or asked.all:
        # Only the store matters: models can be fetched before the rest of the configuration is right.
        settings = config.load(asked.config)
        names = asked.names or list(models.STORED)
    else:
        settings = configuration.load(asked.config)
        names = [settings.ocr.model]
        if settings.ocr.model not in models.CATALOGUE:
            where = (
                "its own folder"
                if os.sep in settings.ocr.model
                else "PaddleOCR's own download, at the first start"
            )
            print(f"nothing to pull: {settings.ocr.model} comes from {where}")
            return ExitCode.OK
        if settings.ocr.orientation == "auto":
            names.append(models.ORIENTATION)
        if settings.ocr.upside_down_lines:
            names.append(models.LINE_ORIENTATION)
    brought = models.pull(
        names, settings.ocr.model_store, progress=lambda text: print(text, file=sys.stderr, flush=True)
    )
    for name in names:
        print(f"{name}: {'pulled and verified' if name in brought else 'already here'}")
    return ExitCode.OK
