"""Takes from a process what it does not need to decode a document: writing, the network, other processes.

Meant for a helper process that has opened and imported everything it needs. What the kernel does not offer is
left out and reported; the resource limits hold everywhere. Uses the standard library only, because the helper
can import nothing else.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

# New descriptors: a folder and a font file at a time.
_MAX_DESCRIPTORS = 16

_libc = ctypes.CDLL(None, use_errno=True)


class Protection(NamedTuple):
    """Which of the kernel's own filters hold."""

    seccomp: bool
    landlock: bool


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends, in whatever way.

    `parent` is the process that started it: if it is gone already, this process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(*, threads: bool) -> None:
    """Allow no byte in a file, no further process, few descriptors and no core dump.

    With `threads` the number of processes is left to `confine`: to this limit a thread is one.
    RLIMIT_DATA is lifted as far as it may be: PDFium leaves pictures out of a page when an allocation is
    refused, and reports success. (The parent sets it on itself for `memory.hard_limit_mb`.)
    """
    with suppress(OSError):  # where memory is short, the kernel ends this process first
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    if not threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def confine(readable: Iterable[str], *, threads: bool) -> Protection:
    """Give up everything but memory, the open descriptors, and reading below the folders in `readable`.

    Cannot be undone. From here on nothing can be imported and no code be loaded. With `threads`, threads of
    this process may be started, and nothing else.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    landlock = _restrict_reading(readable)
    return Protection(_filter_calls(threads=threads), landlock)


# -- prctl, syscall ------------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38


def _prctl(option: int, value: int, address: object = 0) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), address or zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


# -- Landlock: which files (linux/landlock.h) ----------------------------------------------------

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ALL_OF_ABI_1 = (1 << 13) - 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_PATH_BENEATH = 1


def _restrict_reading(readable: Iterable[str]) -> bool:
    """Allow opening nothing but files to read below some folders. False where there is no Landlock."""
    handled = ctypes.create_string_buffer(struct.pack("=Q", _ALL_OF_ABI_1), 8)
    ruleset = _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    try:
        for folder in readable:
            with suppress(OSError):  # a folder that is not there cannot be read either
                _allow(ruleset, folder)
        return bool(_libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, folder: str) -> None:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", _READ_FILE | _READ_DIR, fd)
        _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(fd)


# -- seccomp: which system calls (linux/seccomp.h, linux/filter.h) -------------------------------

# What memory, the C library, reading a font and answering the parent take: the kernel's numbers on x86-64 and
# on aarch64; None where an architecture does not have the call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "close": (3, 57),
    "lseek": (8, 62),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Allowed unless an argument has one of these bits: (numbers, which argument, bits).
_PROT_EXEC = 4
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ALLOWED_WITHOUT: dict[str, tuple[tuple[int | None, int | None], int, int]] = {
    "open": ((2, None), 1, _WRITES),
    "openat": ((257, 56), 2, _WRITES),
    "mmap": ((9, 222), 2, _PROT_EXEC),
    "mprotect": ((10, 226), 2, _PROT_EXEC),
}
# Further ones for threads. clone3 has its flags in memory, where a filter cannot look: without it, the C
# library takes clone.
_ALLOWED_TO_THREADS: dict[str, tuple[int, int]] = {
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_getaffinity": (204, 123),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000
# AUDIT_ARCH_*, and the column above.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data, little-endian
_SECCOMP_MODE_FILTER = 2


_Row: TypeAlias = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter_calls(*, threads: bool) -> bool:
    """Refuse every system call that is not listed, with EPERM. False where that is not possible."""
    known = _ARCHITECTURES.get(os.uname().machine)
    if known is None:
        return False
    code = b"".join(struct.pack("=HBBI", *row) for row in _program(*known, threads=threads))
    program = _Program(len(code) // 8, ctypes.cast(ctypes.create_string_buffer(code), ctypes.c_void_p))
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))
    except OSError:
        return False
    return True


def _program(architecture: int, column: int, *, threads: bool) -> list[_Row]:
    """Give the filter as rows (code, jump if true, jump if false, operand) of classic BPF."""
    rows = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    for numbers in (_ALLOWED | _ALLOWED_TO_THREADS if threads else _ALLOWED).values():
        rows += _for_call(numbers[column], [(_RETURN, 0, 0, _ALLOW)])
    for numbers, argument, bits in _ALLOWED_WITHOUT.values():
        rows += _for_call(numbers[column], _by_bits(argument, bits, any_set=_EPERM, none_set=_ALLOW))
    if threads:
        rows += _for_call(_CLONE3[column], [(_RETURN, 0, 0, _ENOSYS)])
        rows += _for_call(_CLONE[column], _by_bits(0, _CLONE_THREAD, any_set=_ALLOW, none_set=_EPERM))
    return [*rows, (_RETURN, 0, 0, _EPERM)]


def _for_call(number: int | None, decide: list[_Row]) -> list[_Row]:
    """Give rows that decide about one call, and are jumped over at others."""
    return [] if number is None else [(_EQUAL, 0, len(decide), number), *decide]


def _by_bits(argument: int, bits: int, *, any_set: int, none_set: int) -> list[_Row]:
    return [
        (_LOAD, 0, 0, _AT_ARGUMENTS + 8 * argument),
        (_ANY_BIT, 1, 0, bits),
        (_RETURN, 0, 0, none_set),
        (_RETURN, 0, 0, any_set),
    ]
