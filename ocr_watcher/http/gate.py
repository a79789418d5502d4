"""Who may: keys, and what a browser that shows another site's page must not do to a local server.

Without keys the server is for this machine: it answers to names of this machine only, so that a name which
its owner points here (DNS rebinding) is refused, and no page of another origin may send anything.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ocr_watcher.config import is_loopback
from ocr_watcher.errors import ConfigError
from ocr_watcher.http.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

_MAX_FILE_BYTES: Final = 1 << 20
_BEARER = re.compile(r"Bearer +(\S+) *\Z", re.IGNORECASE)
_SAFE: Final = ("GET", "HEAD")


def _digest(key: str) -> bytes:
    """Of one length for keys of any, so that comparing two takes one time."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """The keys of `http.api_keys_file`, one a line; `#` begins a comment. Read again when it changes."""

    def __init__(self, file: Path) -> None:
        """Raises `ConfigError` where the file cannot be read or has no key."""
        self._file = file
        self._version: object = None
        self._digests: tuple[bytes, ...] = ()
        try:
            self._load(os.stat(file))
        except OSError as error:
            raise ConfigError(f"http.api_keys_file: cannot read {file}: {error.strerror}") from error
        if not self._digests:
            raise ConfigError(f"http.api_keys_file: there is no key in {file}", hint="Write one key a line.")

    def allow(self, key: str) -> bool:
        """Whether this is one of the keys; takes the same time for any. A file that is gone allows nobody."""
        try:
            status = os.stat(self._file)
            if self._version != _version(status):
                self._load(status)
        except OSError:
            self._digests = ()
        sent, found = _digest(key), False
        for digest in self._digests:
            found |= hmac.compare_digest(sent, digest)
        return found

    def _load(self, status: os.stat_result) -> None:
        with open(self._file, "rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("utf-8", "surrogateescape")
        lines = (line.strip() for line in text.splitlines())
        self._digests = tuple(_digest(line) for line in lines if line and not line.startswith("#"))
        self._version = _version(status)


def _version(status: os.stat_result) -> object:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


class Gate:
    """Decides about one request by its head."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    @property
    def needs_key(self) -> bool:
        """Whether there are keys."""
        return self._keys is not None

    def check(self, request: web.BaseRequest, *, is_open: bool) -> None:
        """Raise `Problem` 401 or 403. `is_open`: what tells nothing and does nothing needs no key."""
        self._check_host(request)
        self._check_origin(request)
        if self._keys is not None and not is_open and not self._keys.allow(key_of(request)):
            raise Problem(
                401,
                "no_key",
                "a key is needed, and this is none",
                hint="Send `Authorization: Bearer KEY` or `X-Api-Key: KEY`, a line of http.api_keys_file.",
                headers={"WWW-Authenticate": 'Bearer realm="ocr-watcher"'},
            )

    def _check_host(self, request: web.BaseRequest) -> None:
        if self._keys is not None:  # a page that got here by another name has no key
            return
        if not is_loopback(_host_of(request.headers.get("Host", ""))):
            raise Problem(
                403,
                "wrong_host",
                "the server is for this machine only, and Host names another",
                hint="Use http://127.0.0.1 or http://localhost; for other names set http.api_keys_file.",
            )

    @staticmethod
    def _check_origin(request: web.BaseRequest) -> None:
        origin = request.headers.get("Origin")
        foreign = origin is not None and urlsplit_netloc(origin) != request.headers.get("Host", "").lower()
        site = request.headers.get("Sec-Fetch-Site", "none")
        if foreign or (request.method not in _SAFE and site in ("cross-site", "same-site")):
            raise Problem(
                403,
                "wrong_origin",
                "a page of another site may not use this server",
                hint="Call it from a program, or through a server of your own.",
            )


def key_of(request: web.BaseRequest) -> str:
    """The key that came with a request; "" where there is none."""
    match = _BEARER.match(request.headers.get("Authorization", ""))
    return match[1] if match is not None else request.headers.get("X-Api-Key", "").strip()


def owner_of(request: web.BaseRequest) -> str:
    """A name for whoever sent the request, made of the key, which cannot be told from it; "" without."""
    key = key_of(request)
    return _digest(key).hex()[:32] if key else ""


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an origin in lower case; "" for `null` and what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+)(:\d*)?", header)
    return "" if match is None else match[1].strip("[]").rstrip(".")
