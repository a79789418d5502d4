"""Small PDFs for the tests, written byte by byte: text, scans, passwords, and what takes a reader hours."""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass, field

from PIL import Image

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
A4 = (595, 842)


@dataclass
class Pdf:
    """A PDF in the making: objects by number, 1 is the catalogue, 2 the page tree, 3 a font."""

    objects: dict[int, bytes] = field(default_factory=dict)
    pages: list[int] = field(default_factory=list)
    catalogue: bytes = b""

    def __post_init__(self) -> None:
        self.objects[3] = HELVETICA

    def add(self, content: bytes) -> int:
        number = max(self.objects) + 1
        self.objects[number] = content
        return number

    def stream(self, data: bytes, entries: bytes = b"", *, packed: bool = True) -> int:
        if packed:
            data, entries = zlib.compress(data), entries + b" /Filter /FlateDecode"
        return self.add(b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data))

    def page(
        self,
        content: bytes = b"",
        size: tuple[float, float] = A4,
        *,
        resources: bytes = b"",
        entries: bytes = b"",
    ) -> int:
        stream = self.stream(content)
        number = self.add(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %.12g %.12g] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> %s >> %s >>" % (*size, stream, resources, entries)
        )
        self.pages.append(number)
        return number

    def image(self, image: Image.Image, **options: object) -> int:
        """A picture as JPEG."""
        out = io.BytesIO()
        image.save(out, "JPEG", **options)
        space = b"/DeviceGray" if image.mode == "L" else b"/DeviceRGB"
        return self.jpeg(out.getvalue(), image.size, space)

    def jpeg(self, data: bytes, size: tuple[int, int], space: bytes = b"/DeviceGray") -> int:
        entries = (
            b"/Type /XObject /Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace %s"
            % (
                *size,
                space,
            )
        )
        return self.stream(data, entries + b" /Filter /DCTDecode", packed=False)

    def scan(
        self, image: Image.Image, size: tuple[float, float] = A4, over: bytes = b"", **options: object
    ) -> int:
        """A page that is a picture, with further content over it."""
        number = self.image(image, **options)
        return self.page(
            b"q %d 0 0 %d 0 0 cm /Im Do Q " % (*map(int, size),) + over,
            size,
            resources=b"/XObject << /Im %d 0 R >>" % number,
        )

    def bytes(self, *, trailer: bytes = b"") -> bytes:
        kids = b" ".join(b"%d 0 R" % page for page in self.pages)
        self.objects[1] = b"<< /Type /Catalog /Pages 2 0 R %s >>" % self.catalogue
        self.objects[2] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(self.pages))
        out, places = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), []
        for number in range(1, max(self.objects) + 1):
            places.append(len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, self.objects[number])
        start = len(out)
        out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
        out += b"".join(b"%010d 00000 n \n" % place for place in places)
        out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(places) + 1, trailer)
        return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def text(*lines: str, at: tuple[float, float] = (72, 770), size: float = 12, leading: float = 18) -> bytes:
    """Content of a page: lines of text, one below the other."""
    shown = b"".join(b"(%s) Tj T* " % _escaped(line) for line in lines)
    return b"BT /F1 %g Tf %g TL %g %g Td %sET\n" % (size, leading, *at, shown)


def _escaped(line: str) -> bytes:
    raw = line.encode("cp1252")
    return raw.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


PROSE = [
    "The quick brown fox jumps over the lazy dog near the bank",
    "of the river, where five boxing wizards wait for the boat.",
    "Invoice 4711 is due on Friday, 30 January 2026: 1,234.56",
]


def prose(*, over: bytes = b"", **options: object) -> bytes:
    """A born-digital PDF of one page."""
    made = Pdf()
    made.page(text(*PROSE) + over, **options)  # type: ignore[arg-type]
    return made.bytes()


def locked(password: str) -> bytes:
    """A PDF that asks for a password: RC4 with 40 bits, the standard's revision 2."""
    made = Pdf()
    made.page()
    identity = b"0123456789abcdef"
    user = (password.encode("latin-1") + _PADDING)[:32]
    owner = _rc4(hashlib.md5(user, usedforsecurity=False).digest()[:5], user)
    permissions = (-4).to_bytes(4, "little", signed=True)
    key = hashlib.md5(user + owner + permissions + identity, usedforsecurity=False).digest()[:5]
    # The one stream there is.
    (number,) = (n for n, content in made.objects.items() if b"stream" in content)
    of_object = hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0", usedforsecurity=False).digest()[:10]
    data = _rc4(of_object, text(*PROSE))
    made.objects[number] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data)
    encrypt = made.add(
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>"
        % (owner.hex().encode(), _rc4(key, _PADDING).hex().encode())
    )
    name = identity.hex().encode()
    return made.bytes(trailer=b"/Encrypt %d 0 R /ID [<%s> <%s>]" % (encrypt, name, name))


def _rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)


# -- hostile ones ----------------------------------------------------------------------------------


def many_operators(count: int = 3_000_000) -> bytes:
    """As many strokes, in a hundred kilobytes: PDFium makes an object of each while it loads the page."""
    made = Pdf()
    made.page(b"0 0 m 9 9 l S\n" * count)
    return made.bytes()


def nested_forms(depth: int = 10, width: int = 10) -> bytes:
    """Forms within forms, ten of the next in each."""
    made = Pdf()
    inner = made.stream(b"0 0 9 9 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 99 99]")
    for _ in range(depth):
        resources = b"/Resources << /XObject << /X %d 0 R >> >>" % inner
        inner = made.stream(
            b"/X Do " * width, b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] " + resources
        )
    made.page(b"/X Do", resources=b"/XObject << /X %d 0 R >>" % inner)
    return made.bytes()


def tiling(step: float = 0.01) -> bytes:
    """A page painted with tiles of a hundredth of a point."""
    made = Pdf()
    tile = made.stream(
        b"0 0 5 5 re f",
        b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] "
        b"/XStep %g /YStep %g /Resources << >>" % (step, step),
    )
    made.page(b"/Pattern cs /P scn 0 0 595 842 re f", resources=b"/Pattern << /P %d 0 R >>" % tile)
    return made.bytes()


def progressive(side_px: int = 20_000) -> bytes:
    """A progressive JPEG of 400 megapixels by its header: all coefficients come before the first pixel."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(out, "JPEG", progressive=True)
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = side_px.to_bytes(2, "big") * 2
    made = Pdf()
    number = made.jpeg(bytes(data), (side_px, side_px))
    made.page(b"595 0 0 842 0 0 cm /Im Do", resources=b"/XObject << /Im %d 0 R >>" % number)
    return made.bytes()


def soft_mask(side_px: int = 20_000) -> bytes:
    """A small picture whose transparency has 400 megapixels."""
    packer, data, row = zlib.compressobj(1), bytearray(), bytes(side_px * 100)
    for _ in range(side_px // 100):
        data += packer.compress(row)
    data += packer.flush()
    made = Pdf()
    entries = (
        b"/Type /XObject /Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace /DeviceGray"
    )
    mask = made.stream(bytes(data), entries % (side_px, side_px) + b" /Filter /FlateDecode", packed=False)
    number = made.stream(bytes(64 * 64), entries % (64, 64) + b" /SMask %d 0 R" % mask)
    made.page(b"595 0 0 842 0 0 cm /Im Do", resources=b"/XObject << /Im %d 0 R >>" % number)
    return made.bytes()
