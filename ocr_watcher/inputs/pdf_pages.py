"""A PDF document and its pages through PDFium: size, text layer, picture.

Runs in the helper process: standard library and PDFium's raw bindings only. PDFium is not thread-safe, not
even across documents (pypdfium2 #303, #309).
"""

from __future__ import annotations

import ctypes
import math
from ctypes import byref
from typing import TYPE_CHECKING, Any

import pypdfium2_raw as pdfium

from ocr_watcher.inputs import pdf_text
from ocr_watcher.inputs.messages import RefusalError
from ocr_watcher.inputs.pdf_text import Box, Character, Layer, TextLine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.inputs.helper import Answer

DPI = 300
"""Pages are measured at this resolution, pixels an inch."""

# A page with more is read from its picture: nobody reads so much text on one page.
MAX_CHARACTERS = 100_000
# A page with more objects counts as one with pictures; going through them takes 0.1 s.
_MAX_OBJECTS = 100_000
_MAX_DEPTH = 8  # of forms within forms
_MAX_ANNOTATIONS = 1000

_SCALE = DPI / 72
_INVISIBLE = pdfium.FPDF_TEXTRENDERMODE_INVISIBLE
_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_TEXT_ANNOTATIONS = frozenset(
    (
        pdfium.FPDF_ANNOT_FREETEXT,
        pdfium.FPDF_ANNOT_STAMP,
        pdfium.FPDF_ANNOT_INK,
        pdfium.FPDF_ANNOT_WATERMARK,
    )
)
_TEXT_FIELDS = frozenset(
    (
        pdfium.FPDF_FORMFIELD_COMBOBOX,
        pdfium.FPDF_FORMFIELD_LISTBOX,
        pdfium.FPDF_FORMFIELD_TEXTFIELD,
        pdfium.FPDF_FORMFIELD_SIGNATURE,
    )
)
_RENDER_FLAGS = pdfium.FPDF_ANNOT | pdfium.FPDF_RENDER_LIMITEDIMAGECACHE

_PASSWORD_ERRORS = {pdfium.FPDF_ERR_PASSWORD: "password", pdfium.FPDF_ERR_SECURITY: "security"}


def serve(document: ctypes.Array[ctypes.c_char], shared: ctypes.Array[ctypes.c_char]) -> Answer:
    """Give what answers requests about a document, see `helper`.

    They are `{"do": "open", "passwords": [...]}`, `{"do": "size", "page": n}`, `{"do": "text", "page": n,
    "always": false}` and `{"do": "draw", "page": n, "width": w, "height": h}`.
    """
    opened: list[PdfPages] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "open":
                opened[:] = [PdfPages(document, request["passwords"])]
                return {"pages": opened[0].count}
            case "size":
                return {"size_pt": opened[0].size_pt(request["page"])}
            case "text":
                return {"lines": opened[0].text(request["page"], always=request["always"])}
        opened[0].draw(request["page"], request["width"], request["height"], shared)
        return {}

    return answer


class PdfPages:
    """An open document; one page is loaded at a time.

    Raises `RefusalError`: `password`, `security`, `damaged`, `xfa`, `no_pages`, `size` or `memory`.
    """

    def __init__(self, data: ctypes.Array[ctypes.c_char], passwords: list[str]) -> None:
        """`data` is the whole file, and must live as long as this."""
        pdfium.FPDF_InitLibrary()
        self._data = data
        self._document = _load(data, passwords)
        self._form, self._form_info = self._load_form()
        self._page: pdfium.FPDF_PAGE | None = None
        self._index = -1
        self.count = pdfium.FPDF_GetPageCount(self._document)
        if self.count < 1:
            raise RefusalError("no_pages")

    def _load_form(self) -> tuple[pdfium.FPDF_FORMHANDLE | None, pdfium.FPDF_FORMFILLINFO]:
        """Without this, PDFium does not draw what was filled in; to be called before a page is loaded."""
        info = pdfium.FPDF_FORMFILLINFO(version=2)
        match pdfium.FPDF_GetFormType(self._document):
            case pdfium.FORMTYPE_NONE:
                return None, info
            case pdfium.FORMTYPE_XFA_FULL:  # its only page asks to wait until the program has made others
                raise RefusalError("xfa")
        return pdfium.FPDFDOC_InitFormFillEnvironment(self._document, info), info

    def size_pt(self, index: int) -> tuple[float, float]:
        """Width and height of a page as displayed, in points, without loading what is on it."""
        size = self._displayed_size(index)
        if 0 in (size.width, size.height) and self._show_all_of(index):
            size = self._displayed_size(index)
        if not (0 < size.width < math.inf and 0 < size.height < math.inf):
            raise RefusalError("size")
        return size.width, size.height

    def _displayed_size(self, index: int) -> pdfium.FS_SIZEF:
        size = pdfium.FS_SIZEF()
        if not pdfium.FPDF_GetPageSizeByIndexF(self._document, index, byref(size)):
            raise RefusalError("damaged")
        return size

    def _show_all_of(self, index: int) -> bool:
        """Display a page as far as its MediaBox goes, as viewers do if its CropBox leaves nothing of it."""
        page, sides = self._load_page(index), [ctypes.c_float() for _ in range(4)]
        if found := bool(pdfium.FPDFPage_GetMediaBox(page, *map(byref, sides))):
            pdfium.FPDFPage_SetCropBox(page, *sides)
        self.unload_page()  # it was measured when it was loaded
        return found

    def _load_page(self, index: int) -> pdfium.FPDF_PAGE:
        if self._index != index or self._page is None:
            self.unload_page()
            page = pdfium.FPDF_LoadPage(self._document, index)
            if not page:
                raise RefusalError("damaged")
            if self._form:
                pdfium.FORM_OnAfterLoadPage(page, self._form)
            self._page, self._index = page, index
        return self._page

    def unload_page(self) -> None:
        """Free what the page that was looked at last takes."""
        if self._page is not None:
            if self._form:
                pdfium.FORM_OnBeforeClosePage(self._page, self._form)
            pdfium.FPDF_ClosePage(self._page)
            self._page = None

    def draw(self, index: int, width: int, height: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
        """Draw a page into `buffer`, which has at least 3 * width * height bytes: BGR, row by row."""
        page = self._load_page(index)
        bitmap = pdfium.FPDFBitmap_CreateEx(width, height, pdfium.FPDFBitmap_BGR, buffer, 3 * width)
        if not bitmap:
            raise RefusalError("memory")
        try:
            pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
            where = (bitmap, page, 0, 0, width, height, 0, _RENDER_FLAGS)
            pdfium.FPDF_RenderPageBitmap(*where)
            if self._form:
                pdfium.FPDF_FFLDraw(self._form, *where)
        finally:
            pdfium.FPDFBitmap_Destroy(bitmap)
            self.unload_page()

    def text(self, index: int, *, always: bool) -> list[TextLine] | None:
        """Give the lines of a page's text layer, in pixels; None where the picture should be read.

        With `always` what is there is given in any case, text of an old OCR layer too, but not more than
        `MAX_CHARACTERS`.
        """
        page = self._load_page(index)
        view = _View(page)
        # PDFium gives coordinates as if the page were not rotated, and the lines of a rotated page backwards.
        pdfium.FPDFPage_SetRotation(page, 0)
        text_page = pdfium.FPDFText_LoadPage(page)
        pdfium.FPDFPage_SetRotation(page, view.quarter)
        if not text_page:
            return [] if always else None
        try:
            return self._text(page, text_page, view, always=always)
        finally:
            pdfium.FPDFText_ClosePage(text_page)

    def _text(
        self, page: pdfium.FPDF_PAGE, text_page: pdfium.FPDF_TEXTPAGE, view: _View, *, always: bool
    ) -> list[TextLine] | None:
        count = max(0, pdfium.FPDFText_CountChars(text_page))
        if not always and not pdf_text.MIN_CHARACTERS <= count <= MAX_CHARACTERS:
            return None
        layer = Layer()
        if not always:
            layer.drawn_over = self._is_drawn_over(page)
            layer.pictures = _pictures_share(page, view)
        found = _characters(text_page, min(count, MAX_CHARACTERS), view, layer, with_invisible=always)
        lines = pdf_text.lines_of(found)
        return lines if always or pdf_text.is_usable(layer, lines) else None

    def _is_drawn_over(self, page: pdfium.FPDF_PAGE) -> bool:
        """Tell whether a stamp, a note on the page, or a filled field may say what the layer does not."""
        for number in range(min(_MAX_ANNOTATIONS, pdfium.FPDFPage_GetAnnotCount(page))):
            annotation = pdfium.FPDFPage_GetAnnot(page, number)
            if not annotation:
                continue
            try:
                if self._has_text(annotation):
                    return True
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)
        return False

    def _has_text(self, annotation: pdfium.FPDF_ANNOTATION) -> bool:
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
            return False
        if kind in _TEXT_ANNOTATIONS:
            return True
        if kind != pdfium.FPDF_ANNOT_WIDGET or not self._form:
            return False
        if pdfium.FPDFAnnot_GetFormFieldType(self._form, annotation) not in _TEXT_FIELDS:
            return False
        # In bytes of UTF-16, with a zero at the end.
        return bool(pdfium.FPDFAnnot_GetFormFieldValue(self._form, annotation, None, 0) > 2)


def _load(data: ctypes.Array[ctypes.c_char], passwords: list[str]) -> pdfium.FPDF_DOCUMENT:
    """Open a document without password, then with each in turn."""
    # Up to revision 4 of the standard a password is Latin-1, later UTF-8.
    spelled = [word.encode(codec, "ignore") for word in passwords for codec in ("utf-8", "latin-1") if word]
    reason = 0
    for password in (None, *dict.fromkeys(spelled)):
        document = pdfium.FPDF_LoadMemDocument64(data, len(data), password)
        if document:
            return document
        reason = pdfium.FPDF_GetLastError()
        if reason != pdfium.FPDF_ERR_PASSWORD:
            break
    raise RefusalError(_PASSWORD_ERRORS.get(reason, "damaged"))


# -- where things are on the page ----------------------------------------------------------------


class _View:
    """From a page's own coordinates (points, y upwards, not rotated, not cropped) to displayed pixels."""

    def __init__(self, page: pdfium.FPDF_PAGE) -> None:
        box = pdfium.FS_RECTF()
        pdfium.FPDF_GetPageBoundingBox(page, byref(box))
        self.left, self.right = float(box.left), float(box.right)
        self.bottom, self.top = float(box.bottom), float(box.top)
        self.quarter = int(pdfium.FPDFPage_GetRotation(page)) % 4

    @property
    def area(self) -> float:
        """Square points."""
        return (self.right - self.left) * (self.top - self.bottom)

    def to_pixels(self, left: float, bottom: float, right: float, top: float) -> Box:
        """Give a rectangle's left, top, right, bottom."""
        x0, x1, y0, y1 = left - self.left, right - self.left, self.top - top, self.top - bottom
        width, height = self.right - self.left, self.top - self.bottom
        turned = (
            (x0, y0, x1, y1),
            (height - y1, x0, height - y0, x1),
            (width - x1, height - y1, width - x0, height - y0),
            (y0, width - x1, y1, width - x0),
        )[self.quarter]
        left, top, right, bottom = (value * _SCALE for value in turned)
        return left, top, right, bottom

    def shows(self, left: float, bottom: float, right: float, top: float) -> bool:
        """Tell whether the middle of a rectangle is on the page."""
        return self.left <= (left + right) / 2 <= self.right and self.bottom <= (bottom + top) / 2 <= self.top

    def covered(self, left: float, bottom: float, right: float, top: float) -> float:
        """Give what a rectangle covers of the page, in square points."""
        width = min(right, self.right) - max(left, self.left)
        height = min(top, self.top) - max(bottom, self.bottom)
        return max(0.0, width) * max(0.0, height)


def _characters(
    text_page: pdfium.FPDF_TEXTPAGE, count: int, view: _View, layer: Layer, *, with_invisible: bool
) -> Iterator[Character]:
    """Go through a page's characters; counts them in `layer`."""
    edges = [ctypes.c_double() for _ in range(4)]
    left, right, bottom, top = edges
    where = [byref(edge) for edge in edges]
    loose = pdfium.FS_RECTF()
    for index in range(count):
        codepoint = pdfium.FPDFText_GetUnicode(text_page, index)
        generated = pdfium.FPDFText_IsGenerated(text_page, index) == 1
        if generated or (codepoint <= 0x20 and codepoint != 0x02):
            yield Character("\n" if codepoint in (0x0A, 0x0D) else " ", (0.0, 0.0, 0.0, 0.0), 0.0, 0)
            continue
        pdfium.FPDFText_GetCharBox(text_page, index, *where)
        if not view.shows(left.value, bottom.value, right.value, top.value):
            continue
        invisible = _is_invisible(text_page, index)
        layer.invisible += invisible
        layer.visible += not invisible
        if not invisible and (
            pdfium.FPDFText_HasUnicodeMapError(text_page, index) == 1 or not _is_known(codepoint)
        ):
            layer.unmapped += 1
        text = pdf_text.plain(codepoint)
        if not text or (invisible and not with_invisible):
            continue
        box = view.to_pixels(left.value, bottom.value, right.value, top.value)
        quarter = _quarter(text_page, index, view)
        height = box[2] - box[0] if quarter % 2 else box[3] - box[1]
        if pdfium.FPDFText_GetLooseCharBox(text_page, index, byref(loose)):
            sides = abs(loose.right - loose.left), abs(loose.top - loose.bottom)
            height = max(height, _SCALE * sides[(quarter + view.quarter) % 2 == 0])
        yield Character(text, box, height, quarter)


def _is_known(codepoint: int) -> bool:
    return codepoint == 0x02 or pdf_text.is_mapped(codepoint)


def _is_invisible(text_page: pdfium.FPDF_TEXTPAGE, index: int) -> bool:
    found = pdfium.FPDFText_GetTextObject(text_page, index)
    return bool(found) and pdfium.FPDFTextObj_GetTextRenderMode(found) == _INVISIBLE


def _quarter(text_page: pdfium.FPDF_TEXTPAGE, index: int, view: _View) -> int:
    """Which way the line of a character runs as displayed, see `Character`."""
    angle = pdfium.FPDFText_GetCharAngle(text_page, index)  # radians clockwise
    return (round(angle / (math.pi / 2)) + view.quarter) % 4 if math.isfinite(angle) else 0


# -- what else is on the page --------------------------------------------------------------------

_Matrix = tuple[float, float, float, float, float, float]
_SAME: _Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def _pictures_share(page: pdfium.FPDF_PAGE, view: _View) -> float:
    """Give the sum of the areas of all pictures, as a share of the page's."""
    if view.area <= 0:
        return 1.0
    areas = (
        view.covered(*_bounds(picture, matrix)) if picture else view.area
        for picture, matrix in _pictures(page)
    )
    return sum(areas) / view.area


def _pictures(page: pdfium.FPDF_PAGE) -> Iterator[tuple[pdfium.FPDF_PAGEOBJECT | None, _Matrix]]:
    """Find pictures on a page and in its forms, with the matrix of the form; None where there is too much."""
    left = _MAX_OBJECTS
    waiting = [(page, pdfium.FPDFPage_CountObjects, pdfium.FPDFPage_GetObject, _SAME, 0)]
    while waiting:
        holder, count, get, matrix, depth = waiting.pop()
        for number in range(max(0, count(holder))):
            left -= 1
            if left < 0:
                yield None, _SAME
                return
            found = get(holder, number)
            kind = pdfium.FPDFPageObj_GetType(found)
            if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
                yield found, matrix
            elif kind == pdfium.FPDF_PAGEOBJ_FORM and depth < _MAX_DEPTH:
                inner = _times(_matrix_of(found), matrix)
                waiting.append(
                    (found, pdfium.FPDFFormObj_CountObjects, pdfium.FPDFFormObj_GetObject, inner, depth + 1)
                )


def _matrix_of(found: pdfium.FPDF_PAGEOBJECT) -> _Matrix:
    matrix = pdfium.FS_MATRIX(*_SAME)
    pdfium.FPDFPageObj_GetMatrix(found, byref(matrix))
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _times(first: _Matrix, then: _Matrix) -> _Matrix:
    a, b, c, d, e, f = first
    g, h, i, j, k, m = then
    return a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + m


def _bounds(found: pdfium.FPDF_PAGEOBJECT, matrix: _Matrix) -> Box:
    """Left, bottom, right, top of an object on the page."""
    edges = [ctypes.c_float() for _ in range(4)]
    pdfium.FPDFPageObj_GetBounds(found, *(byref(edge) for edge in edges))
    left, bottom, right, top = (edge.value for edge in edges)
    a, b, c, d, e, f = matrix
    corners = [(a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
