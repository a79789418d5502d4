"""A mount that can hang: `python -m tests.fuse SOURCE MOUNT` shows the files of a folder, read-only.

Speaks the FUSE protocol itself (linux/fuse.h, 7.31), so that no library is needed. Whoever stops this
process with SIGSTOP makes the mount hang; with SIGCONT it answers again; with its end the mount is dead.
It stops itself, with a request in hand, when a file whose name contains `swallow` is read for the first time:
the kernel lets no process end that waits for the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = 1
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 25, 26, 27, 28, 29, 36, 38, 42
UNKNOWN = (4, 20, 21, 22, 23, 24, 34, 43, 44, 45, 46)  # links, attributes, locks, access: not here
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)


def why_not() -> str:
    """Why this machine can have no such mount; empty where it can."""
    return (
        "" if os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK) else "not root, or no /dev/fuse"
    )


class Server:
    """Answers the kernel."""

    def __init__(self, source: Path, fd: int) -> None:
        self._source = source
        self._fd = fd
        self._nodes: dict[int, str] = {ROOT: ""}
        self._swallows = True

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # unmounted
            _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
            if opcode in UNANSWERED:
                continue
            try:
                answer, code = self._answer(opcode, node, request[40:]), 0
            except OSError as error:
                answer, code = b"", -(error.errno or errno.EIO)
            os.write(self._fd, struct.pack("=IiQ", 16 + len(answer), code, unique) + answer)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:  # noqa: PLR0911 - a line a call
        match opcode:
            case c if c == INIT:
                return struct.pack("=IIIIHHIIHHI7I", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 0, 0, 0, *[0] * 7)
            case c if c == GETATTR:
                return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
            case c if c == LOOKUP:
                child = self._node(body.rstrip(b"\0").decode())
                return struct.pack("=QQQQII", child, 0, 0, 0, 0, 0) + self._attributes(child)
            case c if c in (OPEN, OPENDIR):
                return struct.pack("=QII", 0, 0, 0)
            case c if c == READDIR:
                return self._listing(*struct.unpack_from("=QI", body, 8))
            case c if c == READ:
                offset, size = struct.unpack_from("=QI", body, 8)
                if self._swallows and "swallow" in self._nodes[node]:
                    self._swallows = False
                    os.kill(os.getpid(), signal.SIGSTOP)
                return (self._source / self._nodes[node]).read_bytes()[offset : offset + size]
            case c if c == STATFS:
                return struct.pack("=5Q4I6I", 1, 1, 1, 1, 1, 4096, 255, 4096, 0, *[0] * 6)
            case c if c in (RELEASE, FLUSH, RELEASEDIR, DESTROY):
                return b""
        raise OSError(errno.ENOSYS if opcode in UNKNOWN else errno.EROFS, "")

    def _node(self, name: str) -> int:
        if not (self._source / name).exists():
            raise OSError(errno.ENOENT, "")
        for number, known in self._nodes.items():
            if known == name:
                return number
        self._nodes[len(self._nodes) + 1] = name
        return len(self._nodes)

    def _attributes(self, node: int) -> bytes:
        status = (self._source / self._nodes[node]).stat()
        times, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        mode = status.st_mode if stat.S_ISDIR(status.st_mode) else stat.S_IFREG | 0o644
        whole = (node, status.st_size, 1, times, times, times)
        return struct.pack("=6Q10I", *whole, *[nanoseconds] * 3, mode, 1, 0, 0, 0, 4096, 0)

    def _listing(self, offset: int, size: int) -> bytes:
        rows = b""
        for number, name in enumerate(sorted(os.listdir(self._source)), 1):
            encoded = name.encode()
            row = struct.pack("=QQII", self._node(name), number, len(encoded), stat.S_IFREG >> 12) + encoded
            row += bytes(-len(row) % 8)
            if number > offset and len(rows) + len(row) <= size:
                rows += row
        return rows


@contextlib.contextmanager
def mounted(source: Path, mount: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The mount is there, and answers; yields its server."""
    command = [sys.executable, "-m", "tests.fuse", str(source), str(mount)]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    try:
        until(lambda: os.path.ismount(mount))
        yield server
    finally:
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.wait()
        subprocess.run(["umount", "--lazy", mount], check=True)


def main() -> None:
    """Mount, and answer until unmounted."""
    source, mount = sys.argv[1:]
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tests", os.fsencode(mount), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    Server(Path(source), fd).run()


if __name__ == "__main__":
    main()
