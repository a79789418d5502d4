"""What a request can be refused for: one exception with status, code, message and hint.

Each API shows it in its own shape.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ocr_watcher.errors import OcrWatcherError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Problem(OcrWatcherError):  # noqa: N818 - of an answer, as in RFC 9457
    """A request that is not done.

    `status` is the HTTP status; `code` a word for programs, that of the error record where there is one;
    `headers` go into the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str = "",
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.headers = headers

    def as_json(self) -> dict[str, object]:
        """The body of the native API's answer."""
        return {"error": {"code": self.code, "message": str(self), "hint": self.hint}}


def bad_request(message: str, *, hint: str = "") -> Problem:
    """400: it does not say what is wanted in a way that is understood."""
    return Problem(400, "bad_request", message, hint=hint)


def not_found() -> Problem:
    """404: no such job, which may also be long over."""
    return Problem(
        404,
        "not_found",
        "there is no such job, or its result was kept long enough",
        hint="A result is kept for http.keep_s seconds after its document was read.",
    )


def too_large(max_body_mb: float) -> Problem:
    """413: more bytes than `http.max_body_mb`."""
    return Problem(
        413,
        "file_too_large",
        f"the body has more than {max_body_mb:g} MiB",
        hint="Raise http.max_body_mb, or send a smaller file.",
        headers={"Connection": "close"},
    )


def too_slow() -> Problem:
    """408: the body comes in more slowly than anybody sends."""
    return Problem(
        408,
        "too_slow",
        "the body did not come in time",
        hint="Send it again.",
        headers={"Connection": "close"},
    )
