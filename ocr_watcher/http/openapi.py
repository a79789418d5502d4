"""The description of every address, as OpenAPI 3.1. A test holds it against the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ocr_watcher import __version__
from ocr_watcher.http import results
from ocr_watcher.http.history import SPANS_S
from ocr_watcher.http.listing import MAX_ROWS
from ocr_watcher.outputs import sidecar

if TYPE_CHECKING:
    from ocr_watcher.config import HttpSettings

_Json = dict[str, Any]
_BINARY: Final[_Json] = {"type": "string", "format": "binary"}
_TEXT: Final[_Json] = {"text/plain": {"schema": {"type": "string"}}}
_PROBLEMS: Final = {
    "400": "The request is not understood.",
    "401": "A key is needed.",
    "403": "Host or Origin is not allowed.",
    "408": "The body came too slowly.",
    "413": "More than http.max_body_mb.",
    "415": "The document is no image or PDF, by its content.",
    "429": "http.max_waiting documents wait; Retry-After says when to come again.",
    "503": "The daemon has been away for more than 30 s.",
    "504": "It did not come in time.",
    "507": "The disk is full.",
}
_READING: Final = ("400", "401", "403", "404")
_TAKING: Final = ("400", "401", "403", "408", "413", "415", "429", "503", "507")


_JOBS: Final = {
    "name": "job",
    "in": "query",
    "description": "a job to tell of; may be given several times",
    "schema": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "maxItems": 100},
}


def description(settings: HttpSettings) -> _Json:
    """Everything."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ocr-watcher",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "A document in, its text out. One is read at a time; the others wait in line.",
        },
        "paths": _paths(settings),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
        # Without http.api_keys_file none is needed.
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _paths(settings: HttpSettings) -> _Json:
    wait = _query("wait", {"type": "number", "minimum": 0}, f"seconds, at most {settings.wait_s:g}")
    kind = _query(
        "format", {"type": "string", "enum": list(results.FORMATS), "default": "json"}, "of the result"
    )
    kinds = _query(
        "format",
        {"type": "string", "pattern": _list_pattern()},
        "formats to make, with commas between them; those of pictures only if asked for here",
    )
    name = _query("name", {"type": "string"}, "what the document is called, where it is the body")
    job = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    batch = {"name": "batch", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/ocr": {
            "post": _operation(
                "Read a document and wait for its record",
                _answers(
                    _TAKING,
                    {
                        "200": _result("The record, or the format that was asked for."),
                        "202": _ref("The wait is over; the job goes on.", "Job", location=True),
                        "422": _ref("The document cannot be read.", "Failed"),
                        "409": _ref("The format was not made.", "Error"),
                    },
                ),
                parameters=[kind, wait, name],
                body=_document_body("file"),
            )
        },
        "/v1/jobs": {
            "post": _operation(
                "Read a document; ask for its result later",
                _answers(_TAKING, {"202": _ref("It is in the line.", "Job", location=True)}),
                parameters=[kinds, name],
                body=_document_body("file"),
            )
        },
        "/v1/jobs/{id}": {
            "parameters": [job],
            "get": _operation(
                "How a job stands", _answers(_READING, {"200": _ref("The job.", "Job")}), parameters=[wait]
            ),
            "delete": _operation(
                "Forget a job and its result", _answers(_READING, {"204": {"description": "It is gone."}})
            ),
        },
        "/v1/jobs/{id}/result": {
            "parameters": [job],
            "get": _operation(
                "The result of a job",
                _answers(
                    _READING,
                    {
                        "200": _result("The record, or the format that was asked for."),
                        "409": _ref("It is not ready, or the format was not made.", "Error"),
                        "422": _ref("The document cannot be read.", "Failed"),
                    },
                ),
                parameters=[kind, wait],
            ),
        },
        "/v1/status": {
            "get": _operation(
                "What `ocr-watcher status --json` says",
                _answers(("401", "403"), {"200": _json("The status.", {"type": "object"})}),
            )
        },
        "/v1/events": {
            "get": _operation(
                "What happens, as server-sent events; a snapshot first",
                _answers(
                    ("400", "401", "403", "503"),
                    {"200": {"description": "Events.", "content": {"text/event-stream": {}}}},
                ),
                parameters=[_JOBS],
            )
        },
        "/v1/overview": {
            "get": _operation(
                "What the first of the events tells, as one answer",
                _answers(("400", "401", "403"), {"200": _json("The snapshot.", {"type": "object"})}),
                parameters=[_JOBS],
            )
        },
        "/v1/memory": {
            "get": _operation(
                "What the daemon's memory was, and when its process started",
                _answers(("400", "401", "403"), {"200": _ref("The figures.", "Memory")}),
                parameters=[_query("span_s", {"enum": list(SPANS_S), "default": 3600}, "how far back (s)")],
            )
        },
        **_files(),
        "/livez": {"get": _open("The server answers", _answers(("403",), {"200": _text("ok")}))},
        "/readyz": {
            "get": _open(
                "A document would be taken in", _answers(("403", "429", "503", "507"), {"200": _text("ok")})
            )
        },
        "/metrics": {
            "get": _operation(
                "Figures for Prometheus", _answers(("401", "403"), {"200": _text("Prometheus' text format.")})
            )
        },
        "/openapi.json": {
            "get": _open("This description", _answers(("403",), {"200": _json("It.", {"type": "object"})}))
        },
        "/": {
            "get": _open(
                "The page",
                _answers(("403",), {"200": {"description": "HTML.", "content": {"text/html": {}}}}),
            )
        },
        "/page/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": _open(
                "A part of the page",
                _answers(("403", "404"), {"200": {"description": "A script, style or picture."}}),
            ),
        },
        **_paddle(job, batch),
        **_tika(),
    }


def _files() -> _Json:
    file: _Json = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "of the list, or a job's",
        "schema": {"type": "string"},
    }
    page: _Json = {
        "name": "page",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
    failures = {
        "409": _ref("It is not ready, or the format was not made.", "Error"),
        "422": _ref("The document could not be read.", "Error"),
    }
    kinds = {"type": "string", "enum": list(results.FORMATS), "default": "json"}
    return {
        "/v1/files": {
            "get": _operation(
                "Documents, the latest first: of the inboxes where these are shown, and jobs of the same key",
                _answers(("400", "401", "403", "504"), {"200": _ref("A page of the list.", "Files")}),
                parameters=[
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_ROWS}, "rows at most"),
                    _query("before", {"type": "string"}, "where the page before ended, as it says itself"),
                    _query("q", {"type": "string"}, "words that the name or the text has in a row"),
                    _query("state", {"enum": ["failed"]}, "only those that failed"),
                    _JOBS,
                ],
            )
        },
        "/v1/files/{id}": {
            "parameters": [file],
            "get": _operation(
                "A document, and which formats there are of it",
                _answers((*_READING, "504"), {"200": _ref("The document.", "File")}),
            ),
        },
        "/v1/files/{id}/result": {
            "parameters": [file],
            "get": _operation(
                "The result of a document",
                _answers(
                    (*_READING, "504"),
                    {"200": _result("The record, or the format that was asked for."), **failures},
                ),
                parameters=[_query("format", kinds, "of the result")],
            ),
        },
        "/v1/files/{id}/pages/{page}": {
            "parameters": [file, page],
            "get": _operation(
                "A page of the record",
                _answers((*_READING, "504"), {"200": _json("It.", {"type": "object"}), **failures}),
            ),
        },
        "/v1/files/{id}/pages/{page}/picture": {
            "parameters": [file, page],
            "get": _operation(
                "What a page looks like, where a browser can show it",
                _answers(
                    (*_READING, "504"),
                    {"200": {"description": "A picture.", "content": {"image/*": {"schema": _BINARY}}}},
                ),
            ),
        },
        "/v1/files/{id}/retry": {
            "parameters": [file],
            "post": _operation(
                "Read a document again that failed",
                _answers(
                    (*_READING, "504"),
                    {
                        "202": _ref("It is in the line.", "File"),
                        "409": _ref("It has not failed.", "Error"),
                        "429": _ref("Too many are to be read again already.", "Error"),
                        "503": _ref("The spool cannot be written.", "Error"),
                    },
                ),
            ),
        },
    }


def _paddle(job: _Json, batch: _Json) -> _Json:
    states = ("400", "401", "403", "404")
    return {
        "/ocr": {
            "post": _operation(
                "PaddleX serving's (JSON) and RapidOCR API's (form)",
                _answers(
                    (*_TAKING, "422", "504"),
                    {"200": _json("The result in the shape of the API that was called.", {"type": "object"})},
                    error="CompatibleError",
                ),
                body={
                    "application/json": {"schema": {"$ref": "#/components/schemas/PaddleXRequest"}},
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {"image_file": _BINARY},
                            "required": ["image_file"],
                        }
                    },
                    "application/x-www-form-urlencoded": {
                        "schema": {
                            "type": "object",
                            "properties": {"image_data": {"type": "string", "contentEncoding": "base64"}},
                            "required": ["image_data"],
                        }
                    },
                },
            )
        },
        "/health": {
            "get": _open(
                "PaddleX serving's",
                _answers(
                    ("403",),
                    {"200": _json("It is there.", {"type": "object"})},
                    error="CompatibleError",
                ),
            )
        },
        "/api/v2/ocr/jobs": {
            "post": _operation(
                "PaddleOCR's own client: send a document",
                _answers(
                    _TAKING, {"200": _json("The job's id.", {"type": "object"})}, error="CompatibleError"
                ),
                body={
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "file": _BINARY,
                                "model": {"enum": ["PP-OCRv5", "PP-OCRv5-latin", "PP-OCRv6"]},
                                "optionalPayload": {"type": "string"},
                                "batchId": {"type": "string", "maxLength": 256},
                            },
                            "required": ["file"],
                        }
                    }
                },
            )
        },
        "/api/v2/ocr/jobs/{id}": {
            "parameters": [job],
            "get": _operation(
                "PaddleOCR's own client: how a job stands",
                _answers(states, {"200": _json("Its state.", {"type": "object"})}, error="CompatibleError"),
            ),
        },
        "/api/v2/ocr/jobs/batch/{batch}": {
            "parameters": [batch],
            "get": _operation(
                "PaddleOCR's own client: how the jobs of a batch stand",
                _answers(
                    states, {"200": _json("Their states.", {"type": "object"})}, error="CompatibleError"
                ),
            ),
        },
        "/api/v2/ocr/results/{id}.jsonl": {
            "parameters": [job],
            "get": _open(
                "PaddleOCR's own client: the pages of a job, one a line",
                _answers(
                    ("403", "404"),
                    {"200": {"description": "JSON Lines.", "content": {"application/jsonl": {}}}},
                    error="CompatibleError",
                ),
            ),
        },
    }


def _tika() -> _Json:
    text = {
        "200": {"description": "The text.", "content": {**_TEXT, "text/html": {}, "application/json": {}}}
    }
    nothing = {"204": {"description": "There is no text."}}
    listed = {"200": _json("The text, in Tika's names.", {})}
    failures = (*_TAKING, "422", "504")

    def put(words: str, answers: _Json) -> _Json:
        answers = _answers(failures, answers, error="TextError")
        return {"put": _operation(words, answers, body={"*/*": {"schema": _BINARY}})}

    def post(words: str, answers: _Json) -> _Json:
        answers = _answers(failures, answers, error="TextError")
        form = {"type": "object", "properties": {"upload": _BINARY}, "required": ["upload"]}
        return {"post": _operation(words, answers, body={"multipart/form-data": {"schema": form}})}

    return {
        "/tika": {
            **put("Apache Tika's: the text as Accept wants it", {**text, **nothing}),
            "get": _operation(
                "Apache Tika's", _answers(("401", "403"), {"200": _text("Hello.")}, error="TextError")
            ),
        },
        "/tika/text": put("Apache Tika's: the text in JSON", listed),
        "/tika/form": post("Apache Tika's: from a form", {**text, **nothing}),
        "/tika/form/text": post("Apache Tika's: from a form, in JSON", listed),
        "/rmeta": put("Apache Tika's: a list of one", listed),
        "/rmeta/text": put("Apache Tika's: a list of one, plain text", listed),
        "/rmeta/form": post("Apache Tika's: a list of one, from a form", listed),
        "/rmeta/form/text": post("Apache Tika's: a list of one, plain text, from a form", listed),
    }


# -- pieces ----------------------------------------------------------------------------------------


def _operation(
    summary: str, answers: _Json, *, parameters: list[_Json] | None = None, body: _Json | None = None
) -> _Json:
    made: _Json = {"summary": summary, "responses": answers}
    if parameters:
        made["parameters"] = parameters
    if body:
        made["requestBody"] = {"required": True, "content": body}
    return made


def _open(summary: str, answers: _Json) -> _Json:
    return {**_operation(summary, answers), "security": [{}]}


def _answers(problems: tuple[str, ...], others: _Json, *, error: str = "Error") -> _Json:
    found = {
        status: _text(_PROBLEMS.get(status, "It cannot be done."))
        if error == "TextError"
        else _ref(_PROBLEMS.get(status, "It is not there, or cannot be done."), error)
        for status in problems
    }
    if "400" in found:
        # Of a line or head that is too long it is told before anybody knows what is asked for.
        found["400"] = {**found["400"], "content": {**found["400"]["content"], **_TEXT}}
    return dict(sorted({**found, **others}.items()))


def _query(name: str, schema: _Json, text: str) -> _Json:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _json(text: str, schema: _Json) -> _Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _ref(text: str, schema: str, *, location: bool = False) -> _Json:
    made = _json(text, {"$ref": f"#/components/schemas/{schema}"})
    if location:
        made["headers"] = {"Location": {"schema": {"type": "string"}, "description": "The job's address."}}
    return made


def _text(text: str) -> _Json:
    return {"description": text, "content": dict(_TEXT)}


def _result(text: str) -> _Json:
    content: _Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Record"}}}
    for made in results.FORMATS.values():
        content.setdefault(made.media_type.partition(";")[0], {})
    return {"description": text, "content": content}


def _document_body(field: str) -> _Json:
    form = {"type": "object", "properties": {field: _BINARY}, "required": [field]}
    return {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": _BINARY}}


def _list_pattern() -> str:
    one = "|".join(results.FORMATS)
    return f"^({one})(,({one}))*$"


def _schemas() -> _Json:
    record = sidecar.schema()
    definitions = record["$defs"]
    return {
        **{name: _renamed(schema) for name, schema in definitions.items()},
        "Record": {"$ref": f"#/components/schemas/{_ok(definitions)}"},
        "Failed": {"$ref": "#/components/schemas/failed"},
        "Error": {
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "hint": {"type": "string"},
                    },
                    "required": ["code", "message", "hint"],
                }
            },
            "required": ["error"],
        },
        "CompatibleError": {"type": "object", "description": "In the shape of the API that was called."},
        "Job": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "status": {"enum": ["waiting", "reading", "done", "failed"]},
                "name": {"type": "string"},
                "received_at": {"type": "string", "format": "date-time"},
                "place": {"type": "integer", "minimum": 1},
                "page": {"type": "integer", "minimum": 1},
                "pages": {"type": "integer", "minimum": 1},
                "links": {
                    "type": "object",
                    "properties": {"self": {"type": "string"}, "result": {"type": "string"}},
                    "required": ["self", "result"],
                },
                "error": {"type": "object"},
            },
            "required": ["id", "status", "name", "received_at", "links"],
        },
        "File": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "source": {"enum": ["folder", "http"]},
                "name": {"type": "string", "description": "below its inbox, or as the client calls it"},
                "state": {"enum": ["waiting", "reading", "done", "failed", "retrying"]},
                "changed_at": {"type": "string", "format": "date-time"},
                "page": {"type": "integer", "minimum": 1, "description": "in hand"},
                "page_count": {"type": "integer", "minimum": 1},
                "place": {"type": "integer", "minimum": 1},
                "lines": {"type": "integer", "minimum": 0},
                "ocr_ms": {"type": "integer", "minimum": 0},
                "error": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "hint": {"type": "string"},
                        "attempts": {"type": "integer"},
                        "will_retry": {"type": "boolean"},
                    },
                },
                "excerpt": {
                    "type": "array",
                    "description": "what was searched for, between what stands before and after it",
                    "items": {"type": "string"},
                },
                "formats": {"type": "array", "items": {"enum": list(results.FORMATS)}},
            },
            "required": ["id", "source", "name", "state", "changed_at"],
        },
        "Files": {
            "type": "object",
            "properties": {
                "files": {"type": "array", "items": {"$ref": "#/components/schemas/File"}},
                "before": {
                    "type": ["string", "null"],
                    "description": "for the next page; null: it is the last",
                },
                "searched": {"type": "integer"},
                "total": {"type": "integer"},
                "complete": {"type": "boolean", "description": "whether all was looked through once"},
                "version": {"type": "integer"},
            },
            "required": ["files", "before", "searched", "total", "complete", "version"],
        },
        "Memory": {
            "type": "object",
            "properties": {
                "span_s": {"type": "integer"},
                "step_s": {"type": "integer"},
                "points": {"type": "array", "description": "pairs of a time (s since 1970) and MiB"},
                "starts": {"type": "array", "description": "pairs of a time and why, null: by somebody"},
                "now": {"type": "number"},
            },
            "required": ["span_s", "step_s", "points", "starts", "now"],
        },
        "PaddleXRequest": {
            "type": "object",
            "properties": {
                "file": {"type": "string", "contentEncoding": "base64"},
                "fileType": {"enum": [None, 0, 1]},
                "visualize": {"type": ["boolean", "null"]},
                "textRecScoreThresh": {"type": ["number", "null"]},
                "logId": {"type": ["string", "null"]},
            },
            "required": ["file"],
        },
    }


def _ok(definitions: _Json) -> str:
    """What a record of a document that was read is called in the schema of the records."""
    return next(name for name, schema in definitions.items() if "pages" in schema.get("properties", {}))


def _renamed(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """The schema with references to where it is now."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _renamed(value)
            for key, value in schema.items()
        }
    return [_renamed(item) for item in schema] if isinstance(schema, list) else schema
