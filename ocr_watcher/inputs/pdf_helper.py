"""The helper process that opens one PDF: everything that is known to be dangerous about PDFs happens here.

Started by `pdf_process` as `python -I -S pdf_helper.py PARENT DOCUMENT SOCKET SHARED FOLDER`: the id of the
parent, three descriptors, and the folder of PDFium's raw bindings, the only thing beside the standard library
and this package that can be imported. Answers requests on the socket until it closes, or until the parent has
had enough: it watches this process's memory and time, and kills it.

A message is its length in four bytes, then JSON. Requests: `{"do": "open", "passwords": [...]}`,
`{"do": "size", "page": n}`, `{"do": "text", "page": n, "always": false}`,
`{"do": "draw", "page": n, "width": w, "height": h}`. An answer has what was asked for, or `{"error": code}`.
A picture comes through the shared memory.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import types
from ctypes import c_char
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.inputs.pdf_pages import PdfPages

LENGTH_BYTES = 4

# Where PDFium looks for the fonts that a document uses and does not bring (CFX_LinuxPlatform).
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/share/X11/fonts/Type1",
    "/usr/share/X11/fonts/TTF",
    "/usr/local/share/fonts",
)


def main() -> None:
    """Set up, confine this process, and serve."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent decides
    parent, document, channel, shared = (int(argument) for argument in sys.argv[1:5])
    _make_importable("pypdfium2_raw", sys.argv[5])
    package = types.ModuleType("ocr_watcher")
    package.__path__ = [
        os.path.dirname(os.path.dirname(__file__))
    ]  # without running what it does when it is imported
    sys.modules["ocr_watcher"] = package
    from ocr_watcher.inputs import pdf_pages, sandbox  # noqa: PLC0415 - importable from here on

    sandbox.die_with_parent(parent)
    served = _Served(
        pdf_pages.PdfPages,
        pdf_pages.PdfError,
        mmap.mmap(document, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
        mmap.mmap(shared, 0),
    )
    os.close(document)
    os.close(shared)
    sandbox.limit_resources()
    protection = sandbox.confine(FONT_FOLDERS)
    _send(channel, {"pid": os.getpid(), **protection._asdict()})
    while (request := _receive(channel)) is not None:
        _send(channel, served.answer(request))


def _make_importable(name: str, folder: str) -> None:
    """Import a package from its folder, whatever else lies beside it."""
    spec = spec_from_file_location(
        name, f"{folder}/__init__.py", submodule_search_locations=[folder]
    ) or ModuleSpec(name, None)
    sys.modules[name] = module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(sys.modules[name])


class _Served:
    """The document, and what can be asked of it."""

    def __init__(
        self,
        open_pages: Callable[[Any, list[str]], PdfPages],
        error: type[Exception],
        document: mmap.mmap,
        shared: mmap.mmap,
    ) -> None:
        self._open_pages = open_pages
        self._error = error
        self._document = document
        self._shared = (c_char * len(shared)).from_buffer(shared)
        self._pages: PdfPages | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; an error is an answer too."""
        try:
            return self._answer(request)
        except self._error as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": "memory"}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do = request["do"]
        if do == "open":
            data = (c_char * len(self._document)).from_buffer(self._document)
            self._pages = self._open_pages(data, request["passwords"])
            return {"pages": self._pages.count}
        pages, index = self._pages, request["page"]
        if pages is None:
            return {"error": "damaged"}
        if do == "size":
            return {"size_pt": pages.size_pt(index)}
        if do == "text":
            return {"lines": pages.text(index, always=request["always"])}
        pages.draw(index, request["width"], request["height"], self._shared)
        # Pages of the file that were looked at do not stay with this process.
        self._document.madvise(mmap.MADV_DONTNEED)
        return {}


def _receive(channel: int) -> dict[str, Any] | None:
    """Wait for a request; None at the end."""
    length = _read(channel, LENGTH_BYTES)
    if length is None:
        return None
    content = _read(channel, int.from_bytes(length, "little"))
    if content is None:
        return None
    request: dict[str, Any] = json.loads(content)
    return request


def _read(channel: int, size_bytes: int) -> bytes | None:
    content = b""
    while len(content) < size_bytes:
        part = os.read(channel, size_bytes - len(content))
        if not part:
            return None
        content += part
    return content


def _send(channel: int, answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    view = memoryview(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    while view:
        view = view[os.write(channel, view) :]


if __name__ == "__main__":
    main()
