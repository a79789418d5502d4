"""Documents that come embedded in text: base64 in a member of a JSON object, or in a field of a form.

Both are taken apart as they come in, so that a document of any size takes no more memory than a block of it:
parsers are fed blocks, and give back the document's bytes. What else there is must be short.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any, Final, Protocol

from ocr_watcher.http.problems import Problem, bad_request

# Everything beside the document; such requests have a dozen short members.
_MAX_REST_BYTES: Final = 1 << 16
_MAX_DEPTH: Final = 16
# "data:image/png;base64," and the like.
_DATA_URL = re.compile(rb"data:[\w.+/-]*(;[\w.+=-]*)*;base64,", re.IGNORECASE)
_MAX_DATA_URL_BYTES: Final = 256


class Parser(Protocol):
    """Takes a document out of the text around it."""

    def feed(self, block: bytes) -> bytes:
        """Take the next bytes of the body; returns those of the document. Raises `Problem` 400 or 422."""

    def end(self) -> tuple[bytes, dict[str, Any]]:
        """Take the end of the body; returns the last bytes of the document, and everything else.

        Raises `Problem` 400 or 422.
        """


def not_base64(what: str) -> Problem:
    """422: the member that holds the document is something else."""
    return Problem(422, "bad_document", f"{what} is not base64", hint="Send the bytes of the file in base64.")


class Base64Decoder:
    """Decodes base64 that comes in pieces. Blanks and line ends in it do not count, nor does padding."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._head: bytes | None = b""  # until it is known whether a data URL's head comes first
        self._left = b""
        self._padded = False
        self.empty = True

    def feed(self, text: bytes) -> bytes:
        """Decode more. Raises `Problem` 422."""
        if self._head is not None:
            self._head += text
            if len(self._head) < _MAX_DATA_URL_BYTES:
                return b""
            text = self._begin()
        return self._decode(text)

    def end(self) -> bytes:
        """Decode the rest. Raises `Problem` 422."""
        out = b"" if self._head is None else self._decode(self._begin())
        left, self._left = self._left, b""
        if len(left) % 4 == 1:
            raise not_base64(self._what)
        return out + self._decode(left + b"=" * (-len(left) % 4)) if left else out

    def _begin(self) -> bytes:
        head, self._head = self._head or b"", None
        if head.lstrip().lower().startswith((b"http://", b"https://", b"file://", b"ftp://")):
            raise Problem(
                422,
                "url_not_fetched",
                f"{self._what} is an address, and this server fetches none",
                hint="Send the bytes of the file in base64.",
            )
        match = _DATA_URL.match(head.lstrip())
        return head if match is None else head.lstrip()[match.end() :]

    def _decode(self, text: bytes) -> bytes:
        text = self._left + text.translate(None, b" \t\r\n")
        whole = len(text) // 4 * 4
        text, self._left = text[:whole], text[whole:]
        if not text:
            return b""
        if self._padded:
            raise not_base64(self._what)
        self._padded = text.endswith(b"=")
        try:
            out = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            raise not_base64(self._what) from None
        self.empty = self.empty and not out
        return out


_ESCAPE = re.compile(rb"\\(u[0-9a-fA-F]{4}|[^u])", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def _meant(escape: re.Match[bytes]) -> bytes:
    """What an escape in a JSON string stands for: some writers escape the / and the + of base64."""
    mark = escape[1]
    if len(mark) == 1:
        return _ESCAPES.get(mark, mark)
    return chr(int(mark[1:], 16)).encode("utf-8", "replace")


class JsonParser:
    """A JSON object, one member of which is a document in base64."""

    _OUTSIDE = re.compile(rb'["{}\[\]:,]')
    _INSIDE = re.compile(rb'["\\]')

    def __init__(self, member: str) -> None:
        self._member = member
        self._decoder = Base64Decoder(member)
        self._rest = bytearray()  # the object with "" in the document's place
        self._text = b""  # the block in hand, and what was left of the one before
        self._at = 0  # up to where it was looked at
        self._depth = 0
        self._string_at = -1  # where the string that is being copied begins in `_rest`; -1: in none
        self._in_document = False
        self._expects_key = False
        self._key = ""
        self.found = False
        self.fields: dict[str, Any] = {}

    def feed(self, block: bytes) -> bytes:
        """See `Parser`."""
        self._text = self._text[self._at :] + block
        self._at = 0
        out = bytearray()
        while self._at < len(self._text):
            before = self._at
            if self._in_document:
                out += self._document()
            elif self._string_at >= 0:
                self._string()
            else:
                self._outside()
            if len(self._rest) > _MAX_REST_BYTES:
                raise bad_request(f"the JSON has too much beside {self._member}")
            if self._at == before:
                break  # the block ends within an escape
        return bytes(out)

    def end(self) -> tuple[bytes, dict[str, Any]]:
        """See `Parser`."""
        try:
            fields = json.loads(self._rest)
        except (ValueError, RecursionError):
            raise bad_request("the body is not JSON") from None
        if self._at < len(self._text) or self._in_document or not isinstance(fields, dict):
            raise bad_request("the body is not a JSON object")
        if self.found:
            fields.pop(self._member, None)
        self.fields = fields
        return self._decoder.end(), fields

    def _copy(self, to: int) -> None:
        self._rest += self._text[self._at : to]
        self._at = to

    def _outside(self) -> None:
        match = self._OUTSIDE.search(self._text, self._at)
        if match is None:
            self._copy(len(self._text))
            return
        mark = match[0]
        self._copy(match.end())
        if mark == b'"':
            if self._depth == 1 and not self._expects_key and self._key == self._member:
                if self.found:
                    raise bad_request(f"{self._member} is there twice")
                self._in_document = self.found = True
            else:
                self._string_at = len(self._rest) - 1
        elif mark in b"{[":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise bad_request("the JSON is nested too deep")
            self._expects_key = self._depth == 1 and mark == b"{"
        elif mark in b"}]":
            self._depth -= 1
        elif self._depth == 1:
            self._expects_key = mark == b","

    def _string(self) -> None:
        match = self._INSIDE.search(self._text, self._at)
        if match is None:
            self._copy(len(self._text))
        elif match[0] == b"\\":
            if len(self._text) > match.end():  # else wait for what is escaped
                self._copy(match.end() + 1)
        else:
            self._copy(match.end())
            if self._depth == 1 and self._expects_key:
                try:
                    self._key = str(json.loads(self._rest[self._string_at :]))
                except ValueError:
                    raise bad_request("the body is not JSON") from None
            self._string_at = -1

    def _document(self) -> bytes:
        # Base64 has no quote in it, so the next one ends the document.
        quote = self._text.find(b'"', self._at)
        end = len(self._text) if quote < 0 else quote
        if quote < 0:
            cut = self._text.rfind(b"\\", max(self._at, end - 5))
            if cut >= 0 and _ESCAPE.match(self._text, cut) is None:
                end = cut  # wait for what is escaped
        piece = self._text[self._at : end]
        self._at = end
        if quote >= 0:
            self._rest += b'"'
            self._at += 1
            self._in_document = False
        return self._decoder.feed(_ESCAPE.sub(_meant, piece) if b"\\" in piece else piece)


class FormParser:
    """A form as `application/x-www-form-urlencoded`, one field of which is a document in base64."""

    _MARK = re.compile(rb"[=&]")

    def __init__(self, field: str) -> None:
        self._field = field
        self._decoder = Base64Decoder(field)
        self._fields: dict[str, Any] = {}
        self._name: bytes | None = b""  # being read; None: in a value
        self._value = bytearray()
        self._key = ""
        self._text = b""
        self.found = False
        self._size = 0

    def feed(self, block: bytes) -> bytes:
        """See `Parser`."""
        text = self._text + block
        out = bytearray()
        at = 0
        while (match := self._MARK.search(text, at)) is not None:
            piece, mark = text[at : match.start()], match[0]
            at = match.end()
            if self._name is not None:
                self._add_to_name(piece)
                self._begin_value()
                if mark == b"=":
                    continue
            else:
                out += self._add_to_value(piece + (b"=" if mark == b"=" else b""))
                if mark == b"=":  # base64 that was not escaped ends in these
                    continue
            self._end_value()
        self._text = text[at:]
        # A percent sign and what belongs to it stay together.
        cut = self._text.rfind(b"%", max(0, len(self._text) - 2))
        piece = self._text if cut < 0 else self._text[:cut]
        self._text = b"" if cut < 0 else self._text[cut:]
        if self._name is not None:
            self._add_to_name(piece)
        else:
            out += self._add_to_value(piece)
        return bytes(out)

    def end(self) -> tuple[bytes, dict[str, Any]]:
        """See `Parser`."""
        out = b""
        if self._name is None:
            out = self._add_to_value(self._text)
            self._end_value()
        return out + self._decoder.end(), self._fields

    def _add_to_name(self, piece: bytes) -> None:
        self._count(piece)
        self._name = (self._name or b"") + piece

    def _begin_value(self) -> None:
        self._key = _unquoted(self._name or b"").decode("utf-8", "replace")
        self._name = None
        if self._key == self._field:
            if self.found:
                raise bad_request(f"{self._field} is there twice")
            self.found = True

    def _add_to_value(self, piece: bytes) -> bytes:
        if self._key == self._field:
            # A blank is a plus that was not escaped.
            return self._decoder.feed(_unquoted(piece).replace(b" ", b"+"))
        self._count(piece)
        self._value += piece
        return b""

    def _end_value(self) -> None:
        if self._key != self._field:
            self._fields[self._key] = _unquoted(bytes(self._value)).decode("utf-8", "replace")
        self._value.clear()
        self._name = b""

    def _count(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _MAX_REST_BYTES:
            raise bad_request(f"the form has too much beside {self._field}")


_ESCAPED = re.compile(rb"%([0-9a-fA-F]{2})")


def _unquoted(text: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), text.replace(b"+", b" "))
