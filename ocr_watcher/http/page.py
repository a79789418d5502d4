"""The page at `/`: a few files that are sent as they are. Nothing of it comes from elsewhere."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

from aiohttp import web

STATIC: Final = "/page"
"""Where the files of the page are."""
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts and styles are these files and never a text in the page. What came from a document can become text
# and nothing else, since nothing may be parsed as HTML.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_START: Final = "index.html"


class Page:
    """Handlers of the page."""

    def __init__(self) -> None:
        folder = resources.files(__package__).joinpath("static")
        self._files = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
        self._tags = {name: _tag(data) for name, data in self._files.items()}

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [web.get("/", self.start), web.get(STATIC + "/{name}", self.file)]

    async def start(self, request: web.Request) -> web.Response:
        """The page."""
        return self._send(request, _START)

    async def file(self, request: web.Request) -> web.Response:
        """A file of it."""
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return self._send(request, name)

    def _send(self, request: web.Request, name: str) -> web.Response:
        tag = self._tags[name]
        headers = {
            "Content-Type": _MEDIA_TYPES["." + name.rpartition(".")[2]],
            "Content-Security-Policy": _POLICY,
            # Asked for each time, and sent only where it is another one.
            "Cache-Control": "no-cache",
            "ETag": tag,
        }
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=self._files[name], headers=headers)


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'
