"""The parent's side of a helper process: starts it, asks it, and kills it when it takes too much.

What takes gigabytes or hours does not always show in a header. So it need not be predicted: the helper's
memory is read every few milliseconds while it works. One helper opens one document and nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ocr_watcher.errors import EngineError, ShortOfMemoryError
from ocr_watcher.inputs import helper, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# How often memory is looked at while a helper works. A look takes 20 µs.
_LOOK_MS = 5
# An answer that is longer is none: the text of a page is a hundredth of it.
_MAX_ANSWER_BYTES = 32 << 20
# For the interpreter and PDFium to start, on a machine that is busy.
_START_TIMEOUT_S = 30.0
_START_RSS_MB = 150.0
_KILL_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class HelperEndedError(Exception):
    """The helper is gone; the message says more.

    `why` is `time` or `memory` where it took too much, `crash` where it ended by itself, and `killed` where
    somebody else ended it: mostly the kernel, which takes it first where memory runs out.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Budget:
    """What one answer may take."""

    seconds: float
    rss_mb: float


@dataclass(frozen=True)
class Protection:
    """Which of the kernel's filters hold in a helper."""

    seccomp: bool = False
    landlock: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of helper: its name in `helper`, and the libraries that it imports.

    `package` is what to install where one of them is missing.
    """

    name: str
    libraries: tuple[str, ...]
    package: str


class Helper:
    """A running helper, with one document. Belongs to one thread, and dies with it."""

    def __init__(
        self,
        kind: Kind,
        document: int,
        shared_bytes: int,
        *,
        start_rss_mb: float = _START_RSS_MB,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start a helper for a document, which is an open descriptor of a file that is not empty.

        Args:
            kind: What is to be decoded.
            document: May be closed once this is made.
            shared_bytes: Size of the largest picture that will be asked for, or of what will be put.
            start_rss_mb: Resident memory that it may have until it is asked (MiB).
            clock: Monotonic seconds.

        Raises:
            ShortOfMemoryError: The system has no room for another process just now.
            EngineError: It does not start.
        """
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        libraries = {name: _origin(name, kind.package) for name in kind.libraries}
        shared = os.memfd_create("ocr-watcher-page", os.MFD_CLOEXEC)
        try:
            os.ftruncate(shared, shared_bytes)
            self.shared_bytes = shared_bytes
            self._shared = mmap.mmap(shared, shared_bytes)
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._process = _start(kind, libraries, document, theirs.fileno(), shared)
        except OSError as error:
            raise ShortOfMemoryError(
                f"a helper process cannot be started: {error.strerror or error}"
            ) from error
        finally:
            os.close(shared)
        try:
            told = self._answer(Budget(_START_TIMEOUT_S, start_rss_mb))
        except HelperEndedError as error:
            raise EngineError(f"the helper process did not start: {error}") from error
        self.protection = Protection(bool(told.get("seccomp")), bool(told.get("landlock")))

    @property
    def pid(self) -> int:
        """Id of its process; 0 once it is gone."""
        return self._process.pid if self._process is not None else 0

    def ask(self, request: dict[str, Any], budget: Budget) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            HelperEndedError: It took too much and was killed, or ended by itself.
        """
        try:
            self._channel.sendall(messages.encoded(request))
        except OSError as error:
            raise self._crashed() from error
        return self._answer(budget)

    def pixels(self, width: int, height: int) -> NDArray[np.uint8]:
        """Copy the picture that was drawn: uint8, (height, width, 3), blue first."""
        count = 3 * width * height
        return np.frombuffer(self._shared, np.uint8, count).reshape(height, width, 3).copy()

    def put(self, content: bytes) -> None:
        """Give bytes to the helper, at most `shared_bytes`."""
        self._shared[: len(content)] = content

    def content(self, size_bytes: int) -> bytes:
        """Copy so many bytes that the helper gave."""
        return self._shared[:size_bytes]

    def close(self) -> None:
        """End the process; it has nothing to lose."""
        process, self._process = self._process, None
        if process is None:
            return
        self._channel.close()
        self._shared.close()
        process.kill()
        with suppress(
            subprocess.TimeoutExpired
        ):  # one that waits for a share that is away dies when that ends
            process.wait(_KILL_TIMEOUT_S)

    # -- waiting -------------------------------------------------------------------------------

    def _answer(self, budget: Budget) -> dict[str, Any]:
        deadline = self._clock() + budget.seconds
        length = int.from_bytes(self._read(messages.LENGTH_BYTES, deadline, budget), "little")
        if length > _MAX_ANSWER_BYTES:
            self.close()
            raise HelperEndedError("memory", f"it answered with {length} bytes")
        content = self._read(length, deadline, budget)
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.close()
            raise HelperEndedError("crash", "the decoder answered with nonsense")
        return answer

    def _read(self, size_bytes: int, deadline: float, budget: Budget) -> bytes:
        content = bytearray()
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        looked_at = self._clock()
        while len(content) < size_bytes:
            if poller.poll(_LOOK_MS):
                content += self._receive(size_bytes - len(content))
            # Also while an answer comes: one that trickles in must not keep it from being looked at.
            if (now := self._clock()) - looked_at >= _LOOK_MS / 1000:
                self._look(deadline, budget)
                looked_at = now
        return bytes(content)

    def _receive(self, at_most: int) -> bytes:
        try:
            part = self._channel.recv(min(at_most, 1 << 16))
        except OSError as error:
            raise self._crashed() from error
        if not part:
            raise self._crashed()
        return part

    def _look(self, deadline: float, budget: Budget) -> None:
        """Kill the helper where it takes too much."""
        rss_mb = self.rss_mb()
        if rss_mb > budget.rss_mb:
            self.close()
            raise HelperEndedError(
                "memory", f"it takes more than {budget.rss_mb:.0f} MiB of memory and was stopped"
            )
        if self._clock() > deadline:
            self.close()
            raise HelperEndedError("time", f"it takes longer than {budget.seconds:g} s and was stopped")

    def rss_mb(self) -> float:
        """Its resident memory now (MiB); 0 where it is gone."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_bytes().split()
        except OSError:
            return 0.0
        return int(fields[1]) * _PAGE_BYTES / _MIB

    def _crashed(self) -> HelperEndedError:
        code = None
        if self._process is not None:
            # It ends a moment after its end of the channel; one that does not is killed here, not by others.
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_END_TIMEOUT_S)
        self.close()
        if code == -signal.SIGKILL:
            return HelperEndedError("killed", "the system ended the decoder, probably for want of memory")
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        return HelperEndedError("crash", f"the decoder ended over it ({how})")


def _start(
    kind: Kind, libraries: dict[str, str], document: int, channel: int, shared: int
) -> subprocess.Popen[bytes]:
    arguments = [kind.name, os.getpid(), document, channel, shared, json.dumps(libraries)]
    return subprocess.Popen(  # noqa: S603 - this interpreter, this package
        [sys.executable, "-I", "-S", helper.__file__, *(str(argument) for argument in arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(document, channel, shared),
        cwd="/",
        env={},
        start_new_session=True,  # Ctrl-C in a terminal is for the parent
    )


def _origin(library: str, package: str) -> str:
    """The file of a library, which is not imported here."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise EngineError(f"{package} is not installed", hint=f"pip install {package}")
    return spec.origin


# -- what a helper works with ----------------------------------------------------------------------


@contextmanager
def descriptor_of(file: BinaryIO) -> Iterator[int]:
    """Give the file's own descriptor; where it has none, that of a copy in memory."""
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):
        file.seek(0)
        copy = os.memfd_create("ocr-watcher-document", os.MFD_CLOEXEC)
        try:
            with os.fdopen(copy, "wb", closefd=False) as target:
                shutil.copyfileobj(file, target)
            yield copy
        finally:
            os.close(copy)
    else:
        yield descriptor
