"""Adds invisible text to the pages of a PDF, and otherwise leaves the document as it is.

Runs in the helper process: standard library and pikepdf only. Requests are `{"do": "add", "size": n, "pages":
[...], "passwords": [...]}`, with a layer of n bytes in the shared memory, and `{"do": "take", "at": n}`,
after which the shared memory has the next part of the result. A layer is a PDF with a page for each of
`pages`, of the shape in which a viewer shows it.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

import pikepdf
from pikepdf import Array, Dictionary, ObjectStreamMode, Pdf, Stream, StreamDecodeLevel

from ocr_watcher.inputs.messages import RefusalError

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

    from ocr_watcher.inputs.helper import Answer

_ENCRYPTED = b"/Encrypt"
# Trees of pages are no deeper.
_MAX_DEPTH = 64
_LETTER = (0.0, 0.0, 612.0, 792.0)
"""What a page is that does not say how large it is."""

Rectangle = tuple[float, float, float, float]
"""Left, bottom, right, top; points."""


def serve(document: ctypes.Array[ctypes.c_char], shared: ctypes.Array[ctypes.c_char]) -> Answer:
    """Give what answers requests about a document, see `helper`."""
    logging.disable()  # qpdf's warnings go nowhere
    if _ENCRYPTED in document.raw:
        _open_random_numbers()
    made: list[memoryview] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        there = memoryview(shared).cast("B")
        if request["do"] == "take":
            part = made[0][request["at"] : request["at"] + len(there)]
            there[: len(part)] = part
            return {"size": len(part)}
        try:
            layer = bytes(there[: request["size"]])
            made[:] = [with_layer(document.raw, layer, request["pages"], request["passwords"])]
        except pikepdf.PasswordError as error:
            raise RefusalError("password") from error
        except MemoryError:
            raise
        except Exception as error:  # anything may come out of hostile bytes
            raise RefusalError(str(error) or type(error).__name__) from error
        return {"size": len(made[0])}

    return answer


def _open_random_numbers() -> None:
    """Have qpdf open the source of random numbers, which cannot be opened later; it keeps it open."""
    with Pdf.new() as pdf:
        pdf.save(io.BytesIO(), encryption=pikepdf.Encryption(owner="a", user="b", R=6))


def with_layer(document: bytes, layer: bytes, pages: Sequence[int], passwords: Sequence[str]) -> memoryview:
    """Give the document with each page of the layer beneath the page of that index."""
    with _opened(document, passwords) as pdf, Pdf.open(io.BytesIO(layer)) as text:
        for number, index in enumerate(pages):
            _add(pdf, pdf.pages[index].obj, text.pages[number])
        made = io.BytesIO()
        pdf.save(
            made,
            compress_streams=False,
            # qpdf's word for "as they are" is refused with encryption, where they are so in any case.
            stream_decode_level=None if pdf.is_encrypted else StreamDecodeLevel.none,
            object_stream_mode=ObjectStreamMode.preserve,
            fix_metadata_version=False,  # would rewrite the document's metadata
            # As it was protected, so it stays. The same document gives the same bytes where it is not.
            encryption=True if pdf.is_encrypted else None,
            deterministic_id=not pdf.is_encrypted,
        )
    return made.getbuffer()


def _opened(document: bytes, passwords: Sequence[str]) -> Pdf:
    """Open a document without password, then with each in turn."""
    for password in ("", *passwords):
        try:
            return Pdf.open(io.BytesIO(document), password=password)
        except pikepdf.PasswordError:
            continue
    raise pikepdf.PasswordError


def _add(pdf: Pdf, page: Dictionary, layer: pikepdf.Page) -> None:
    """Show the layer first on a page: what the page's own content leaves behind has no effect on it then."""
    resources = Dictionary(_entries(_inherited(page, "/Resources")))
    others = _entries(resources.get("/XObject"))
    name = next(name for name in map("/OcrText{}".format, range(len(others) + 1)) if name not in others)
    form = pdf.copy_foreign(layer.as_form_xobject())
    resources["/XObject"] = Dictionary({**others, name: form})
    page["/Resources"] = resources
    matrix = _matrix(page, float(layer.mediabox[2]), float(layer.mediabox[3]))
    show = Stream(pdf, f"q {matrix} cm {name} Do Q\n".encode("ascii"))
    page["/Contents"] = Array([pdf.make_indirect(show), *_contents(page)])


def _entries(value: pikepdf.Object | None) -> dict[str, pikepdf.Object]:
    """What is in a dictionary; nothing where it is none."""
    return dict(value.items()) if isinstance(value, Dictionary) else {}


def _contents(page: Dictionary) -> list[pikepdf.Object]:
    found = page.get("/Contents")
    if found is None:
        return []
    return list(found) if isinstance(found, Array) else [found]


def _inherited(page: Dictionary, key: str) -> pikepdf.Object | None:
    """An entry of a page, or of what it hangs from."""
    node: pikepdf.Object | None = page
    for _ in range(_MAX_DEPTH):
        if not isinstance(node, Dictionary):
            return None
        if key in node:
            return node[key]
        node = node.get("/Parent")
    return None


def _matrix(page: Dictionary, width: float, height: float) -> str:
    """Bring a layer of that size, which lies as the page is displayed, to the page's own coordinates."""
    left, bottom, right, top = _shown(page)
    a = (right - left, top - bottom)
    rotated = _inherited(page, "/Rotate")
    quarter = int(rotated) // 90 % 4 if rotated is not None else 0
    across, down = a if quarter % 2 == 0 else a[::-1]
    x, y = across / width, down / height
    values = (
        (x, 0.0, 0.0, y, left, bottom),
        (0.0, x, -y, 0.0, right, bottom),
        (-x, 0.0, 0.0, -y, right, top),
        (0.0, -x, y, 0.0, left, top),
    )[quarter]
    return " ".join(f"{value:.6f}" for value in values)


def _shown(page: Dictionary) -> Rectangle:
    """The part of a page that a viewer shows: as PDFium, the crop box where it is on the media box."""
    media = _rectangle(_inherited(page, "/MediaBox")) or _LETTER
    crop = _rectangle(_inherited(page, "/CropBox"))
    if crop is None:
        return media
    left, bottom = max(media[0], crop[0]), max(media[1], crop[1])
    right, top = min(media[2], crop[2]), min(media[3], crop[3])
    return (left, bottom, right, top) if left < right and bottom < top else media


def _rectangle(value: pikepdf.Object | None) -> Rectangle | None:
    """A rectangle of which any two opposite corners may be given; None where it is none, or empty."""
    try:
        x0, y0, x1, y1 = (float(number) for number in value or ())
    except (TypeError, ValueError):
        return None
    left, bottom, right, top = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    return (left, bottom, right, top) if left < right and bottom < top else None
