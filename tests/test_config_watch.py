"""A changed configuration file is noticed once, when it is whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ocr_watcher import config
from ocr_watcher.errors import ConfigError
from ocr_watcher.service.config_watch import Change, ConfigWatch
from tests.support import write_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def watch(path: Path) -> ConfigWatch:
    return ConfigWatch(config.load(path), lambda: config.load(path))


def test_a_change_is_told_once(path: Path) -> None:
    watched = watch(path)
    assert watched.look() is None
    path.write_text("image: {max_side_px: 500}")
    assert watched.look() is None  # it may still be written
    path.write_text("image: {max_side_px: 501}")
    assert watched.look() is None
    assert (watched.look(), watched.look()) == (Change(), None)
    assert watched.differs


def test_what_says_the_same_is_no_change(path: Path) -> None:
    watched = watch(path)
    text = path.read_text()
    path.write_text("# a remark\n" + text)
    assert (watched.look(), watched.look(), watched.differs) == (None, None, False)
    path.write_text("image: {max_side_px: 500}")
    assert (watched.look(), watched.look(), watched.differs) == (None, Change(), True)
    path.write_text(text)
    assert (watched.look(), watched.look(), watched.differs) == (None, None, False)


def test_mistakes_and_a_file_that_is_gone_are_told_as_such(path: Path) -> None:
    watched = watch(path)
    path.write_text("image: {max_side_px: -1}")
    watched.look()
    change = watched.look()
    assert change is not None
    assert "image.max_side_px" in change.mistakes
    path.unlink()
    watched.look()
    change = watched.look()
    assert change is not None
    assert "cannot be read" in change.mistakes


def test_what_was_told_to_somebody_who_asked_is_not_told_again(path: Path) -> None:
    watched = watch(path)
    path.write_text("image: {max_side_px: -1}")
    watched.note_told()
    assert (watched.look(), watched.look(), watched.differs) == (None, None, True)


def test_without_a_file_nothing_is_looked_at(path: Path) -> None:
    settings = config.load(path).model_copy(update={"source": None})

    def stat(_path: Path) -> os.stat_result:
        raise AssertionError

    def load() -> config.Settings:
        raise ConfigError("not asked for")

    assert ConfigWatch(settings, load, stat).look() is None
