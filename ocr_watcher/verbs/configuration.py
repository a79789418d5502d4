"""How the verbs load the configuration, and what `run` will need beside it.

Every verb that works with the configuration calls `load`, so that none of them forgets the rules that
only the OCR modules know. Imports nothing heavy: `check-config` answers at once.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, NamedTuple

from ocr_watcher import config
from ocr_watcher.config import Check
from ocr_watcher.errors import ConfigError, UnavailableError
from ocr_watcher.inbox import access
from ocr_watcher.inbox.places import Places
from ocr_watcher.log import one_line
from ocr_watcher.ocr import models, params

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.config import Key, OcrSettings, Settings

SERVICE_FILES = "/etc/ocr-watcher/*.yaml"
"""Where `make install` puts the service's configuration, and where those of further instances belong."""


def load(path: Path | None) -> Settings:
    """The configuration for work: all of it is checked, `ocr.model` and `ocr.params` included.

    Args:
        path: the file that the command line names, or None.

    Raises:
        ConfigError: see `config.load`.
    """
    return config.load(path, CHECKS)


def load_to_run(path: Path | None) -> Settings:
    """The configuration that a running daemon would start afresh with; its model is there too.

    Raises:
        ConfigError: see `config.load`.
        UnavailableError: the model is missing or damaged: a daemon with this configuration would not start.
    """
    settings = load(path)
    _check_model(settings.ocr)
    return settings


def load_existing(path: Path | None, *, service_files: str = SERVICE_FILES) -> Settings:
    """The configuration of a service that is asked about.

    Without a file the built-in defaults would be loaded, and the answer would be about a service that nobody
    runs. `ocr.model` and `ocr.params` are not checked: the answer does not depend on them.

    Args:
        path: the file that the command line names, or None.
        service_files: glob of the configurations of installed services.

    Raises:
        ConfigError: there is no configuration file, or see `config.load`.
    """
    if path is None and config.file_by_convention() is None:
        found = sorted(glob.glob(service_files))
        raise ConfigError(
            f"which service? No configuration is named, and this folder has no {config.DEFAULT_FILE}",
            hint=f"use -c {' or -c '.join(map(one_line, found))}"
            if found
            else f"Name it with -c FILE, or in the environment variable {config.CONFIG_VARIABLE}.",
        )
    return config.load(path)


# -- rules that belong to the OCR modules -------------------------------------------------------


def _model(settings: Settings) -> Iterator[tuple[Key, str]]:
    if problem := models.problem_with(settings.ocr.model, settings.ocr.engine):
        yield ("ocr", "model"), ". ".join(part for part in problem if part)


def _params(settings: Settings) -> Iterator[tuple[Key, str]]:
    for name, text in params.examine_params(settings.ocr.params).problems:
        yield ("ocr", "params", name), text


CHECKS = (
    Check((("ocr", "model"), ("ocr", "engine")), _model),
    Check((("ocr", "params"),), _params),
)
"""For `config.load`."""


# -- what `run` will need -----------------------------------------------------------------------


class Remark(NamedTuple):
    """A sentence about the configuration, and what to do about it (may be empty)."""

    text: str
    hint: str = ""


def remarks(settings: Settings) -> Iterator[Remark]:
    """What a user should know about a configuration without mistakes.

    These are the arguments of `ocr.params` that are renamed or left out, and whatever `run` needs and would
    not find now: inboxes, the model, the right to write. Changes nothing and loads no model.
    """
    for note in params.examine_params(settings.ocr.params).notes:
        yield Remark(note)
    for check in Places.of(settings).checks(*settings.watch.inbox):
        try:
            check()
        except UnavailableError as error:
            yield _missing(str(error), error.hint)
    yield from _about_model(settings.ocr)
    if obstacle := access.obstacle(settings.state_dir):
        yield _missing(f"the state folder {settings.state_dir}: {obstacle}")
    log_file = settings.logging.file
    if obstacle := access.obstacle(log_file.parent):
        yield _missing(f"the log file {log_file}: {obstacle}")
    elif os.path.exists(log_file) and not access.may(log_file, os.W_OK):
        yield _missing(f"the log file {log_file}: it cannot be written by this user")


def _about_model(ocr: OcrSettings) -> Iterator[Remark]:
    try:
        spec = _check_model(ocr)
    except UnavailableError as error:
        yield _missing(str(error), error.hint)
        return
    if spec.source == "paddleocr":
        yield Remark(
            f"PaddleOCR downloads the model {spec.name} at the first start, if it does not have it yet; "
            "it was not checked whether there is such a model"
        )


def _check_model(ocr: OcrSettings) -> models.ModelSpec:
    """The configured model; raises `UnavailableError` where files of it are missing or damaged."""
    spec = models.resolve(ocr.model, ocr.model_store, ocr.engine, ocr.lang)
    if ocr.upside_down_lines and not ocr.params.get("use_textline_orientation"):
        models.line_orientation_file(ocr.model_store)
    return spec


def _missing(text: str, hint: str = "") -> Remark:
    # The message about a damaged model has a line for each of its files.
    flat = text.replace("\n", " ")
    return Remark(f"`run` will end with {int(UnavailableError.exit_code)}: {flat}", hint)
