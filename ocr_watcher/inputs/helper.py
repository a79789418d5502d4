"""The helper process that decodes one document: what is known to be dangerous about decoders happens here.

Started by `helper_process` as `python -I -S helper.py KIND PARENT DOCUMENT SOCKET SHARED LIBRARIES`: what is
to be decoded, the id of the parent, three descriptors, and where the few libraries are that can be imported
beside the standard library and this package. Answers requests on the socket until it closes, or until the
parent has had enough: it watches this process's memory and time, and kills it.

A picture goes back through the shared memory. An answer has what was asked for, or `{"error": why}`.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import types
from ctypes import Array, c_char
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Bytes: TypeAlias = "Array[c_char]"
Answer: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"

# Where PDFium looks for the fonts that a document uses and does not bring (CFX_LinuxPlatform).
_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/share/X11/fonts/Type1",
    "/usr/share/X11/fonts/TTF",
    "/usr/local/share/fonts",
)
# The module of each kind. Each has `serve(document, shared)`, which gives what answers requests.
_KINDS = {
    "pdf": "ocr_watcher.inputs.pdf_pages",
    "picture": "ocr_watcher.inputs.picture_helper",
    "heif": "ocr_watcher.inputs.picture_helper",
    "pdf_layer": "ocr_watcher.inputs.pdf_layer",
}
_WITH_THREADS = frozenset({"heif"})  # libheif decodes nothing without one


def main() -> None:
    """Set up, confine this process, and serve."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent decides
    kind, libraries = sys.argv[1], json.loads(sys.argv[6])
    parent, document, channel, shared = (int(argument) for argument in sys.argv[2:6])
    package = types.ModuleType("ocr_watcher")
    package.__path__ = [os.path.dirname(os.path.dirname(__file__))]  # without what importing it does
    sys.modules["ocr_watcher"] = package
    for name, file in libraries.items():
        _make_importable(name, file)
    from ocr_watcher.inputs import messages, sandbox  # noqa: PLC0415 - importable from here on

    sandbox.die_with_parent(parent)
    serve = import_module(_KINDS[kind]).serve
    content = mmap.mmap(document, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    answer: Answer = serve(_all_of(content), _all_of(mmap.mmap(shared, 0)))
    os.close(document)
    os.close(shared)
    threads = kind in _WITH_THREADS
    sandbox.limit_resources(threads=threads)
    messages.send(channel, sandbox.confine(_FONT_FOLDERS, threads=threads)._asdict())
    while (request := messages.receive(channel)) is not None:
        try:
            answered = answer(request)
        except messages.RefusalError as error:
            answered = {"error": str(error)}
        except MemoryError:
            answered = {"error": "memory"}
        messages.send(channel, answered)
        # Pages of the file that were looked at do not stay with this process.
        content.madvise(mmap.MADV_DONTNEED)


def _make_importable(name: str, file: str) -> None:
    """Import a library from its file, whatever else lies beside it."""
    folders = [os.path.dirname(file)] if os.path.basename(file) == "__init__.py" else None
    spec = spec_from_file_location(name, file, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {file}")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def _all_of(memory: mmap.mmap) -> Bytes:
    return (c_char * len(memory)).from_buffer(memory)


if __name__ == "__main__":
    main()
