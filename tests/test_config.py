"""The configuration: what is accepted, what every mistake is called, and that nothing else is ever raised."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ocr_watcher import config
from ocr_watcher.config import (
    DEFAULT_MEMORY_ENV,
    Check,
    Key,
    MemorySettings,
    OcrSettings,
    Settings,
    WatchSettings,
    effective,
    load,
    suggest,
)
from ocr_watcher.config.settings import SECTIONS
from ocr_watcher.errors import ConfigError, ExitCode
from ocr_watcher.ocr.params import translate_params

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[str], Path]

SHIPPED = Path(__file__).parent.parent / "config.yaml"
JARGON = re.compile(r"pydantic|https?://|Input should|validation error|type=|Traceback", re.IGNORECASE)


@pytest.fixture(autouse=True)
def _fresh_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (config.CONFIG_VARIABLE, config.MODEL_STORE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes(path: Path, *checks: Check) -> list[str]:
    """What `load` complains about, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load(path, checks)
    assert caught.value.exit_code == ExitCode.CONFIG
    return [line.removeprefix(f"{path.parent}/") for line in str(caught.value).split("\n")]


# -- defaults and files ------------------------------------------------------------------------


def test_without_a_file_everything_has_its_default_relative_to_the_current_folder(tmp_path: Path) -> None:
    settings = load(None)
    assert settings == Settings()
    assert settings.source is None
    assert settings.watch.inbox == (tmp_path / "inbox",)
    assert settings.state_dir == tmp_path / ".ocr-watcher"
    assert settings.logging.file == tmp_path / "logs" / "ocr_watcher.log"
    assert settings.memory.env == DEFAULT_MEMORY_ENV
    assert (settings.ocr.engine, settings.ocr.model, settings.ocr.lang) == (
        "onnxruntime",
        "PP-OCRv6_small",
        None,
    )


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n", "{}\n", "\ufeffwatch:\n"])
def test_an_empty_file_is_all_defaults(write: Write, text: str) -> None:
    assert load(write(text)) == Settings()


def test_an_empty_section_is_its_defaults(write: Write) -> None:
    sections = [name for name in Settings.model_fields if name not in ("state_dir", "source", "http")]
    assert load(write("".join(f"{name}:\n" for name in sections))) == Settings()


def test_the_shipped_file_holds_exactly_the_defaults(tmp_path: Path, write: Write) -> None:
    settings = load(write(SHIPPED.read_text(encoding="utf-8")))
    assert settings.model_copy(update={"http": None}) == Settings()
    assert settings.http == load(write("http:\n")).http  # it is on where the section is there
    assert settings.source == tmp_path / "config.yaml"
    # As it is written there, too: merging would hide a default that the file lacks.
    written = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert written["memory"]["env"] == DEFAULT_MEMORY_ENV


def test_http_is_off_until_its_section_is_there(write: Write, tmp_path: Path) -> None:
    assert load(write("state_dir: s\n")).http is None
    assert "http" not in yaml.safe_load(effective(load(write("state_dir: s\n"))))
    for text in ("http:\n", "http: {}\n", "http:\n  # port: 1\n"):
        http = load(write("state_dir: s\n" + text)).http
        assert http is not None
        assert (http.host, http.port, http.spool) == ("127.0.0.1", 8080, tmp_path / "s-http")
    again = load(write(effective(load(write("http: {port: 1, spool: x}\n")))))
    assert again.http is not None
    assert (again.http.port, again.http.spool) == (1, tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("http: {host: 0.0.0.0}", "http.api_keys_file: not set; must be set where http.host (0.0.0.0)"),
        (
            "http: {host: 0.0.0.0, api_keys_file: null}",
            "http.api_keys_file: found nothing (null); must be set",
        ),
        ("http: {spool: inbox/spool}", 'http.spool: found "inbox/spool"; must be a folder apart from'),
        ("http: {spool: .}", 'http.spool: found "."; must be a folder apart from'),
        ("http: {spool: .ocr-watcher/x}", "must be a folder apart from"),
        ("http: {port: 65536}", "http.port: found 65536 (integer); must be at most 65535"),
        ("http: {max_waitin: 1}", "http.max_waitin: unknown key; did you mean max_waiting?"),
        ("http: 8080", "http: found 8080 (integer); must be a section"),
    ],
)
def test_mistakes_of_http_have_their_line(write: Write, text: str, mistake: str) -> None:
    [found] = mistakes(write("\n# on line 3\n" + text))
    assert found.startswith("config.yaml:3: ")
    assert mistake in found


def test_the_profiles_of_the_documentation_are_configurations(write: Write) -> None:
    text = (SHIPPED.parent / "docs/configuration.md").read_text("utf-8")
    section = text.partition("## Which settings")[2].partition("\n## ")[0]
    profiles = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert len(profiles) == 2
    for profile in profiles:
        settings = load(write(profile))
        assert settings.ocr.model == "PP-OCRv6_tiny"
        assert translate_params(settings.ocr.params) == (dict(settings.ocr.params), [])


def test_the_shipped_file_explains_every_key() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    section = ""
    explained: set[str] = set()
    for above, line in pairwise(lines):
        if match := re.match(r"( *)(?:# )?([a-z_]+):( |$)", line):
            indent, key = match[1], match[2]
            section = section if indent else key
            if above.strip().startswith("# "):
                explained.add(f"{section}.{key}" if indent else key)
    expected = {"state_dir", "http"}
    for name, model in SECTIONS.items():
        expected |= {f"{name}.{key}" for key in model.model_fields}
    assert explained == expected


def test_the_current_folder_s_file_is_read_when_none_is_named(write: Write) -> None:
    path = write("queue: {max_size: 7}")
    settings = load(None)
    assert settings.queue.max_size == 7
    assert settings.source == path


def test_the_environment_names_the_file_but_the_command_line_wins(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.yaml").write_text("queue: {max_size: 8}")
    monkeypatch.setenv(config.CONFIG_VARIABLE, "elsewhere/c.yaml")
    given_path = write("queue: {max_size: 7}")
    assert load(None).queue.max_size == 8
    assert load(None).watch.inbox == (elsewhere / "inbox",)
    assert load(given_path).queue.max_size == 7


def test_a_file_the_environment_names_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.CONFIG_VARIABLE, "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: cannot be read: No such file"):
        load(None)


def test_a_dangling_link_is_not_the_same_as_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to("gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"watch:\n  inbox: caf\xe9\n", "config.yaml:2: not UTF-8 text"),
        (b"#" * 70_000, "config.yaml: larger than 64 KiB"),
        (
            b"- watch\n",
            "config.yaml:1: found a list; must be keys and values (allowed here: watch, queue, image,",
        ),
        (b"watch\n", 'config.yaml:1: found "watch"; must be keys and values'),
        (b"a: 1\n--- {b: 1}\n", "config.yaml:2: not valid YAML at column 1: expected a single document"),
        (b"# \xc3\xa4\nstate_dir: a\x07b\n", "config.yaml:2: not valid YAML: contains the character U+0007"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    [mistake] = mistakes(path)
    assert mistake.startswith(message)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "nul\0byte"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(tmp_path / name)
    assert str(caught.value).isprintable()


# -- paths -------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/somebody")
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.yaml").write_text(
        "watch: {inbox: [a, ../b, ~/c, /d]}\n"
        "ocr: {model: ./m, model_store: store}\n"
        "logging: {file: x.log}\n"
        "state_dir: state\n"
    )
    settings = load(Path("etc/c.yaml"))
    assert settings.source == folder / "c.yaml"
    assert settings.watch.inbox == (folder / "a", tmp_path / "b", Path("/users/somebody/c"), Path("/d"))
    assert settings.ocr.model == str(folder / "m")
    assert settings.ocr.model_store == folder / "store"
    assert settings.logging.file == folder / "x.log"
    assert settings.state_dir == folder / "state"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("PP-OCRv6_tiny", "PP-OCRv6_tiny"),
        ("models/mine", "{here}/models/mine"),
        ("/srv/m", "/srv/m"),
        (".", "{here}"),
        ("~/m", "/users/somebody/m"),
        ("./~m", "{here}/~m"),
    ],
)
def test_a_model_that_looks_like_a_path_is_a_folder(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, model: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/users/somebody")
    assert load(write(f"ocr: {{model: '{model}'}}")).ocr.model == expected.format(here=tmp_path)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/users/somebody/.cache/ocr-watcher/models"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/ocr-watcher/models"),
        ({"XDG_CACHE_HOME": "relative"}, "/users/somebody/.cache/ocr-watcher/models"),
        ({"XDG_CACHE_HOME": "/cache", "OCR_WATCHER_MODEL_STORE": "/models"}, "/models"),
        ({"OCR_WATCHER_MODEL_STORE": "~/models"}, "/users/somebody/models"),
        ({"OCR_WATCHER_MODEL_STORE": "models"}, "{here}/models"),
    ],
)
def test_the_model_store_comes_from_the_environment_when_it_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in ({"HOME": "/users/somebody"} | environment).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.yaml").write_text("ocr: {model_store: null}")
    assert load(folder / "c.yaml").ocr.model_store == Path(expected.format(here=tmp_path))
    assert OcrSettings().model_store == Path(expected.format(here=tmp_path))


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("output: {formats: txt pdf}", ("txt", "pdf", "json")),
        ("output: {formats: [json, hocr]}", ("json", "hocr")),
        ("output: {formats: []}", ("json",)),
    ],
)
def test_the_json_is_always_among_the_formats(write: Write, text: str, formats: tuple[str, ...]) -> None:
    assert load(write(text)).output.formats == formats


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("output: {formats: [docx]}", 'output.formats: found "docx"; must be one of json, txt, hocr, alto'),
        ("output: {formats: [txt, txt]}", "must not name a format twice"),
        ("output: {formats: 5}", "output.formats: found 5 (integer); must be a list of formats"),
        ("output: {on_success: archive}", 'output.on_success: found "archive"; needs output.archive'),
        ("output: {folder: inbox/text}", 'output.folder: found "inbox/text"; must be outside the inbox'),
        ("output: {archive: inbox}", 'output.archive: found "inbox"; must be outside the inbox'),
        ("output: {folder: a, archive: a}", 'output.archive: found "a"; must not be output.folder'),
        (
            "watch: {inbox: [a/x, b/x]}\noutput: {folder: o}",
            'output.folder: found "o"; needs inboxes of different',
        ),
    ],
)
def test_mistakes_about_outputs(write: Write, text: str, mistake: str) -> None:
    (found,) = mistakes(write(text))
    assert mistake in found


def test_a_home_folder_nobody_has_is_refused_wherever_it_comes_from(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.MODEL_STORE_VARIABLE, "~no-such-user/m")
    assert mistakes(write("state_dir: ~no-such-user/s")) == [
        (
            "config.yaml: ocr.model_store: not set (default ~no-such-user/m); must begin with "
            "a known user's home folder; a folder of that name is ./~no-such-user/m"
        ),
        (
            'config.yaml:1: state_dir: found "~no-such-user/s"; must begin with a known user\'s home folder; '
            "a folder of that name is ./~no-such-user/s"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("inbox: []", "found a list; must name at least one folder"),
        ("inbox: [a, b, ./a]", "found a list; must not name a folder twice: {here}/a"),
        (
            "inbox: [a, a/b]",
            "found a list; must not have {here}/a/b inside {here}/a while watch.recursive is true",
        ),
        (
            "inbox: [a, link/b]",
            "found a list; must not have {here}/link/b inside {here}/a while watch.recursive",
        ),
        ("inbox: {a: b}", "found keys and values; must be a folder or a list of folders"),
        ("inbox: ' '", 'found " "; must not be empty'),
    ],
)
def test_inboxes_do_not_overlap(tmp_path: Path, write: Write, text: str, mistake: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    [found] = mistakes(write(f"watch:\n  {text}\n"))
    assert found.startswith(f"config.yaml:2: watch.inbox: {mistake.format(here=tmp_path)}")


def test_an_inbox_may_be_inside_another_that_is_not_searched_deeply(tmp_path: Path, write: Write) -> None:
    settings = load(write("watch: {inbox: [a, a/b], recursive: false}"))
    assert settings.watch.inbox == (tmp_path / "a", tmp_path / "a" / "b")


def test_names_that_only_begin_alike_are_not_inside_each_other(write: Write) -> None:
    text = "watch: {inbox: [scan, scan2]}\nstate_dir: scan-state\nlogging: {file: scan.log/x}"
    assert len(load(write(text)).watch.inbox) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state_dir: in/s\nlogging: {file: in/l/x.log}", ["1: state_dir: found", "2: logging.file: found"]),
        ("state_dir: in\nlogging: {file: in/x.log}", ["1: state_dir: found", "2: logging.file: found"]),
        ("state_dir: link/s", ["1: state_dir: found"]),
    ],
)
def test_what_the_program_writes_is_outside_the_inbox(
    tmp_path: Path, write: Write, text: str, expected: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    found = mistakes(write(text + "\nwatch: {inbox: in}"))
    assert [line.startswith(f"config.yaml:{start}") for line, start in zip(found, expected, strict=True)]
    assert all(line.endswith(f"; must be outside the inbox {tmp_path}/in") for line in found)


def test_a_default_in_the_way_is_named_as_one(tmp_path: Path, write: Write) -> None:
    assert mistakes(write("watch: {inbox: .}")) == [
        f"config.yaml: logging.file: not set; must be outside the inbox {tmp_path}",
        f"config.yaml: state_dir: not set (default .ocr-watcher); must be outside the inbox {tmp_path}",
    ]


# -- mistakes ----------------------------------------------------------------------------------

SECTION_KEYS = {
    name: ", ".join(info.annotation.model_fields)
    for name, info in Settings.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
}
TOP = "watch, queue, image, pdf, ocr, output, memory, retry, logging, state_dir, http, cluster"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        # keys
        (
            "memory: {rss_limit_md: 5}",
            (
                "memory.rss_limit_md: unknown key; did you mean rss_limit_mb? "
                f"(allowed here: {SECTION_KEYS['memory']})"
            ),
        ),
        (
            "ocr: {max_side_px: 5}",
            (
                "ocr.max_side_px: unknown key; max_side_px belongs under image "
                f"(allowed here: {SECTION_KEYS['ocr']})"
            ),
        ),
        (
            "watch.inbox: x",
            f"watch.inbox: unknown key; inbox belongs under watch (allowed here: {TOP})",
        ),
        (
            "max_side_px: 5",
            f"max_side_px: unknown key; max_side_px belongs under image (allowed here: {TOP})",
        ),
        ("Memroy:", f"Memroy: unknown key; did you mean memory? (allowed here: {TOP})"),
        ("source: x", f"source: unknown key (allowed here: {TOP})"),
        (
            "queue: {state_dir: x}",
            (
                "queue.state_dir: unknown key; state_dir belongs at the top level, without indentation "
                "(allowed here: max_size)"
            ),
        ),
        ("queue: 5", "queue: found 5 (integer); must be a section (allowed here: max_size)"),
        ("queue: [max_size]", "queue: found a list; must be a section (allowed here: max_size)"),
        ("queue: {[a]: 5}", "queue: found a list or a mapping as a key, which cannot be used here"),
        ("queue: {<<: {max_size: 5}}", "queue: found a merge key (<<), which cannot be used here"),
        (r'"a\0b": 5', r"a\x00b: contains the character U+0000, which cannot be used here"),
        # numbers
        ("image: {max_side_px: -5}", "image.max_side_px: found -5 (integer); must be greater than 0"),
        ("image: {max_side_px: 1.5}", "image.max_side_px: found 1.5 (number); must be a whole number"),
        ("image: {max_side_px: '5'}", 'image.max_side_px: found "5"; must be a whole number'),
        ("image: {max_side_px: true}", "image.max_side_px: found true (boolean); must be a whole number"),
        ("image: {max_side_px: }", "image.max_side_px: found nothing (null); must be a whole number"),
        ("image: {max_file_mb: 10MB}", 'image.max_file_mb: found "10MB"; must be a number'),
        ("image: {max_file_mb: yes}", "image.max_file_mb: found yes (boolean); must be a number"),
        (
            "image: {max_file_mb: 10485760}",
            "image.max_file_mb: found 10485760 (integer); must be at most 100000 MiB",
        ),
        (
            "memory: {rss_limit_mb: 1610612736}",
            "memory.rss_limit_mb: found 1610612736 (integer); must be at most 16777216 MiB",
        ),
        (
            "ocr: {job_timeout_s: 120000}",
            "ocr.job_timeout_s: found 120000 (integer); must be at most 86400 seconds",
        ),
        ("ocr: {min_score: 50}", "ocr.min_score: found 50 (integer); must be at most 1"),
        ("ocr: {min_score: -0.5}", "ocr.min_score: found -0.5 (number); must be at least 0"),
        ("ocr: {min_score: .nan}", "ocr.min_score: found .nan; must be a finite number of at most 18 digits"),
        ("ocr: {threads: 0x_}", 'ocr.threads: found "0x_", which cannot be read; text needs quotes'),
        ("watch: {settle_s: 1:30}", 'watch.settle_s: found "1:30"; must be a number'),
        (
            "ocr: {params: {a: [1000000000000000000]}}",
            "ocr.params.a: found 1000000000000000000; must be a finite number of at most 18 digits",
        ),
        (
            "memory: {rss_limit_mb: 800}",
            "memory.rss_limit_mb: found 800 (integer); must be at least memory.soft_limit_mb, which is 1024",
        ),
        (
            "memory: {soft_limit_mb: 2000}",
            (
                "memory.rss_limit_mb: not set (default 1536); must be at least memory.soft_limit_mb, "
                "which is 2000"
            ),
        ),
        # choices and text
        (
            "watch: {mode: inotify}",
            'watch.mode: found "inotify"; must be one of auto, native, polling; did you mean native?',
        ),
        (
            "logging: {level: WARN}",
            'logging.level: found "WARN"; must be one of debug, info, warning, error; did you mean warning?',
        ),
        ("ocr: {engine: 7}", "ocr.engine: found 7 (integer); must be one of onnxruntime, paddle"),
        ("watch: {recursive: 1}", "watch.recursive: found 1 (integer); must be true or false"),
        ("ocr: {lang: no}", "ocr.lang: found no (boolean); must be text; write it in quotes"),
        ("ocr: {model: ''}", 'ocr.model: found ""; must not be empty'),
        (r'state_dir: "a\0b"', "state_dir: contains the character U+0000, which cannot be used here"),
        (r'state_dir: "a\ud800b"', "state_dir: contains the character U+D800, which cannot be used here"),
        ("state_dir: [a]", "state_dir: found a list; must be a path"),
        (
            "state_dir: !mine a",
            "state_dir: found the YAML tag !mine, which cannot be used here; text needs quotes",
        ),
        (
            "state_dir: !!python/name:x a",
            "state_dir: found the YAML tag !!python/name:x, which cannot be used here; text needs quotes",
        ),
        ("ocr: {params: !!set {a}}", "ocr.params: found the YAML tag !!set, which cannot be used here; "),
        # lists and mappings
        ("watch: {extensions: .png jpg}", "must be a file extension such as .png, not 'jpg'"),
        ("watch: {extensions: [.png, .JSON]}", "must not have .json in it, the extension of the results"),
        ("watch: {extensions: []}", "watch.extensions: found a list; must name at least one file extension"),
        (
            "watch: {extensions: 5}",
            "watch.extensions: found 5 (integer); must be a list of file extensions, or ",
        ),
        ("watch: {ignore: x}", 'watch.ignore: found "x"; must be a list; [] is an empty one'),
        ("watch: {ignore: [a/b]}", 'watch.ignore: found "a/b"; must be a pattern for one name, without a /'),
        ("watch: {ignore: ['']}", 'watch.ignore: found ""; must not be empty'),
        (
            "watch: {ignore: [null]}",
            "watch.ignore: found nothing (null); must be text; text that begins with # needs quotes",
        ),
        ("ocr: {params: [a]}", "ocr.params: found a list; must be keys and values"),
        ("memory: {env: [a]}", "memory.env: found a list; must be keys and values"),
        ("memory: {env: {A: [1]}}", "memory.env.A: found a list; must be text, a number, or true or false"),
        (
            "memory: {env: {A=B: 1}}",
            "memory.env.A=B: found 1 (integer); must be the name of an environment variable",
        ),
    ],
)
def test_a_mistake_is_named_in_plain_words(write: Write, text: str, mistake: str) -> None:
    [found] = mistakes(write("\n# on line 3\n" + text))
    assert found.startswith("config.yaml:3: ")
    assert mistake in found
    assert not JARGON.search(found)
    if not mistake.endswith(("; ", ", or ")):
        assert found.endswith(mistake)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            "watch:\n  ignore: [*.tmp]",
            "2: not valid YAML at column 13: while scanning an alias",
            "* needs quotes",
        ),
        ("watch:\n  ignore: [*tmp]", "2: not valid YAML at column 12: found an alias", "* needs quotes"),
        ("watch:\n  ignore: [@eaDir]", "2: not valid YAML at column 12: while scanning", "needs quotes"),
        ("watch:\n\tinbox: x", "2: not valid YAML at column 1: while scanning", "spaces, not tabs"),
        ("state_dir: a: b", "1: not valid YAML at column 13: mapping values", "with a colon and a space"),
        (
            "queue:\n  max_size: 5\n    watch: {}",
            "3: not valid YAML at column 10: mapping values",
            "indentation is wrong",
        ),
        (
            "watch:\n  recursive: true\n  inbox x\nqueue:",
            "4: not valid YAML at column 1: while scanning a simple key",
            "a key has a colon",
        ),
        (
            "watch:\n  inbox: x\n queue:",
            "3: not valid YAML at column 2: while parsing",
            "indentation differs",
        ),
        ("a: &x [1]\nb: *x", "2: not valid YAML at column 4: found an alias", "* needs quotes"),
        ("a: &x [*x]", "1: not valid YAML at column 8: found an alias", "* needs quotes"),
        ("[" * 60_000, "1: not valid YAML at column 34: nested too deeply", "nested too deeply"),
        ("- " * 30_000, "1: not valid YAML at column 67: nested too deeply", "nested too deeply"),
        (
            "a: 'b",
            "1: not valid YAML at column 6: while scanning a quoted scalar",
            "unexpected end of stream",
        ),
    ],
)
def test_broken_yaml_is_located_and_explained(write: Write, text: str, said: str, hint: str) -> None:
    [found] = mistakes(write(text))
    assert found.startswith(f"config.yaml:{said}")
    assert hint in found


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = """\
watch:
  inbox: [a, 5,
    b, 6]
  mode: native
  mode: auto
  ignore:
    - "ok"
    - #recycle
    - a/b
image: {max_side_px: -5, max_file_mb: ten}
mem: {}
state_dir: {}
memory:
  env: {A: {}}
  rss_limit_mb: 10
"""
    assert [line.split(" ")[0:2] for line in mistakes(write(text))] == [
        ["config.yaml:2:", "watch.inbox:"],
        ["config.yaml:3:", "watch.inbox:"],
        ["config.yaml:5:", "watch.mode:"],
        ["config.yaml:8:", "watch.ignore:"],
        ["config.yaml:9:", "watch.ignore:"],
        ["config.yaml:10:", "image.max_file_mb:"],
        ["config.yaml:10:", "image.max_side_px:"],
        ["config.yaml:11:", "mem:"],
        ["config.yaml:12:", "state_dir:"],
        ["config.yaml:14:", "memory.env.A:"],
        ["config.yaml:15:", "memory.rss_limit_mb:"],
    ]


def test_a_key_given_twice_names_the_first_line(write: Write) -> None:
    assert mistakes(write("queue:\n  max_size: 1\n  max_size: 2\nqueue:\n  max_size: 0\n")) == [
        "config.yaml:3: queue.max_size: given twice, first on line 2",
        "config.yaml:4: queue: given twice, first on line 1",
    ]


# -- rules of other modules --------------------------------------------------------------------


def rule(*reads: Key, about: Key) -> Check:
    """A rule that always finds something, and says which model and engine it was given."""
    return Check(reads, lambda settings: [(about, f"no {settings.ocr.model} with {settings.ocr.engine}")])


MODEL, ENGINE, PARAMS = ("ocr", "model"), ("ocr", "engine"), ("ocr", "params")


def test_mistakes_that_a_rule_finds_stand_among_all_others(write: Write) -> None:
    path = write("queue: {max_size: 0}\nocr:\n  model: m\n  engine: paddle\n  threads: x\nstate_dir: 5\n")
    assert mistakes(path, rule(MODEL, ENGINE, about=MODEL)) == [
        "config.yaml:1: queue.max_size: found 0 (integer); must be at least 1",
        "config.yaml:3: ocr.model: no m with paddle",
        'config.yaml:5: ocr.threads: found "x"; must be a whole number',
        "config.yaml:6: state_dir: found 5 (integer); must be a path",
    ]
    # The only mistake is one that a rule finds.
    assert mistakes(write("ocr:\n  model: m"), rule(MODEL, about=MODEL)) == [
        "config.yaml:2: ocr.model: no m with onnxruntime"
    ]


def test_a_rule_finds_each_key_on_its_own_line(write: Write) -> None:
    path = write("ocr:\n  params:\n    a: 1\n    b: 2\n")
    found = Check((PARAMS,), lambda settings: [((*PARAMS, name), "!") for name in settings.ocr.params])
    assert mistakes(path, found) == ["config.yaml:3: ocr.params.a: !", "config.yaml:4: ocr.params.b: !"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ocr:\n  engine: paddle", ":2"),  # the default model is at fault because of the engine on this line
        ("ocr:\n  threads: 1", ":1"),
        ("queue:", ""),
    ],
)
def test_a_default_that_a_rule_refuses_is_reported_on_the_line_that_caused_it(
    write: Write, text: str, line: str
) -> None:
    [found] = mistakes(write(text), rule(MODEL, ENGINE, about=MODEL))
    assert found.startswith(f"config.yaml{line}: ocr.model: no PP-OCRv6_small with ")


@pytest.mark.parametrize(
    "text", ["ocr: {engine: padle}", "ocr: 5", "ocr: {engine: paddle, engine: paddle}", "ocr:\nocr:"]
)
def test_a_rule_is_not_asked_about_settings_that_are_wrong_themselves(write: Write, text: str) -> None:
    assert "no PP-OCRv6_small with" not in "".join(mistakes(write(text), rule(MODEL, ENGINE, about=MODEL)))


@pytest.mark.parametrize(
    "text",
    ["watch: {inbox: .}", "memory: {soft_limit_mb: 2000}", "watch: {inbox: [a, a]}", "state_dir: inbox"],
)
def test_settings_that_contradict_each_other_do_not_keep_rules_from_being_asked(
    write: Write, text: str
) -> None:
    found = mistakes(write(f"{text}\nocr: {{model: m}}"), rule(MODEL, about=MODEL))
    assert found[-1] == "config.yaml:2: ocr.model: no m with onnxruntime"
    assert len(found) > 1


# -- what is accepted --------------------------------------------------------------------------


def test_yaml_s_own_traps_are_read_as_they_look(write: Write) -> None:
    settings = load(write("state_dir: 2024-01-31\nocr: {params: {on: off, 1: '5', eq: =}, model: =}"))
    assert settings.state_dir.name == "2024-01-31"
    assert settings.ocr.params == {"on": False, "1": "5", "eq": "="}
    assert settings.ocr.model == "="


def test_off_needs_no_quotes(write: Write) -> None:
    """YAML reads it as false; it is what the documentation says to write."""
    settings = load(write("ocr: {orientation: off}"))
    assert settings.ocr.orientation == "off"
    assert load(write(effective(settings))) == settings
    with pytest.raises(ConfigError, match="must be one of auto, off"):
        load(write("ocr: {orientation: on}"))


def test_extensions_are_a_list_or_words(write: Write) -> None:
    for text in ("[.PNG, .tif]", "' .png  .TIF '"):
        assert load(write(f"watch: {{extensions: {text}}}")).watch.extensions == (".png", ".tif")


def test_a_whole_number_will_do_for_a_duration_or_a_size(write: Write) -> None:
    assert load(write("watch: {settle_s: 3}\nimage: {max_megapixels: 2.5}")).watch.settle_s == 3.0


def test_variables_are_merged_over_the_defaults_and_null_removes_one(write: Write) -> None:
    text = "A: true\n    B: no\n    C: 5\n    D: 0.5\n    E: text\n    CUDA_VISIBLE_DEVICES:\n    F:"
    env = load(write(f"memory:\n  env:\n    {text}\n    FLAGS_use_mkldnn: 0\n")).memory.env
    mine = {"A": "1", "B": "0", "C": "5", "D": "0.5", "E": "text", "FLAGS_use_mkldnn": "0"}
    expected = DEFAULT_MEMORY_ENV | mine
    del expected["CUDA_VISIBLE_DEVICES"]
    assert env == expected


def test_settings_are_frozen_and_strict_in_code_as_well(tmp_path: Path) -> None:
    settings = Settings(watch=WatchSettings(inbox=(tmp_path / "in",)))
    with pytest.raises(ValidationError, match="frozen"):
        settings.watch.recursive = False
    with pytest.raises(ValidationError, match="extra"):
        WatchSettings(inboxes=("a",))  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="finite"):
        OcrSettings(job_timeout_s=math.inf)
    with pytest.raises(ValidationError, match="outside the inbox"):
        Settings(watch=settings.watch, state_dir=tmp_path / "in")
    assert MemorySettings(env={"A": "1"}).env == DEFAULT_MEMORY_ENV | {"A": "1"}


# -- effective and suggest ---------------------------------------------------------------------


def test_the_effective_settings_load_as_themselves_from_another_folder(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(
        write(
            "watch: {inbox: [a, 'b c', 1:2], ignore: ['*~', '#x', 'yes', '=', '2024-01-31']}\n"
            "ocr: {model: ./m, lang: 'no', params: {a: [1, 2.5, null, {b: 'ä\\u2028'}], c: '1:30'}}\n"
            "memory: {env: {FLAGS_use_mkldnn: , X: yes}, hard_limit_mb: 4096}\n"
        )
    )
    text = effective(settings)
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    (elsewhere / "c.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv(config.MODEL_STORE_VARIABLE, "/other")
    again = load(elsewhere / "c.yaml")
    assert again == settings
    assert again.source != settings.source
    assert effective(again) == text
    assert "FLAGS_use_mkldnn" not in again.memory.env
    assert load(None) == settings.model_copy(update={"ocr": load(None).ocr})
    assert Settings() != settings


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("rss_limit_md", "rss_limit_mb"),
        ("RSS_LIMIT_MB", "rss_limit_mb"),
        ("zebra", None),
        ("r" * 10**6, None),
    ],
)
def test_suggest_finds_what_was_meant_or_nothing(word: str, expected: str | None) -> None:
    assert suggest(word, ["rss_limit_mb", "soft_limit_mb", "env"]) == expected


# -- nothing but ConfigError -------------------------------------------------------------------

LINE = re.compile(r"(?s).*config\.yaml(:\d+)?: .+")


def check_anything(path: Path, text: str) -> Settings | None:
    """Load `text`; whatever is wrong with it must come as a well-formed ConfigError."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return load(path)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert LINE.fullmatch(line)
            assert line.isprintable()
            assert not JARGON.search(line)
    return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "config.yaml"


TOKENS = (
    *("watch", "ocr", "params", ":", ": ", "\n", "\n  ", "- ", ",", "[", "]", "{", "}", "? ", "#", "---"),
    *("*a", "&a ", "<<", "!!int ", "!!bool ", "!!null ", "!!binary ", "!x ", "'", '"', "|\n", ">", "%", "\t"),
    *("1", "~", ".inf", "1e5", "=", "0x_", "2024-99-99", "1:99:99.5", "9" * 5000, "\\ud800", "\0"),
)
SYNTAX = st.lists(st.sampled_from(TOKENS), max_size=25).map("".join)


@hypothesis_settings(deadline=None)
@given(text=st.text() | SYNTAX)
def test_any_text_loads_or_is_refused(scratch: Path, text: str) -> None:
    check_anything(scratch, text)


KEYS = sorted({*SECTION_KEYS, "state_dir", "source", *", ".join(SECTION_KEYS.values()).split(", ")})
WORDS = ["auto", "native", "paddle", "info", "inbox", ".", "..", "~", "~x", "a/b", ".png", "*~", "*", "/", ""]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 2, 800, 0.5, 10**30, *WORDS])
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


def section(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(SECTION_KEYS[name].split(", ")), VALUES, max_size=4)


DOCUMENTS = st.fixed_dictionaries(
    {}, optional={name: section(name) for name in SECTION_KEYS}
) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=4)


@hypothesis_settings(deadline=None)
@given(document=DOCUMENTS)
def test_any_mapping_loads_or_is_refused(scratch: Path, document: dict[str, Any]) -> None:
    check_anything(scratch, yaml.safe_dump(document))


# What a file, a variable or a path can hold: everything but NUL and halves of surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
NAME = TEXT.filter(lambda text: "/" not in text and text.strip() != "" and text[0] not in "~.")
NUMBER = st.integers(-(10**17), 10**17) | st.floats(-1e17, 1e17)
ARGUMENT = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RIGHT = st.fixed_dictionaries(
    {
        "watch": st.fixed_dictionaries(
            {"inbox": NAME.map("in/".__add__), "ignore": st.lists(NAME, max_size=3)}
        ),
        "ocr": st.fixed_dictionaries({"model": TEXT.filter(lambda text: text[0] != "~"), "lang": TEXT}),
        "memory": st.fixed_dictionaries(
            {
                "env": st.dictionaries(
                    TEXT.filter(lambda text: "=" not in text) | st.sampled_from(sorted(DEFAULT_MEMORY_ENV)),
                    st.none() | st.booleans() | NUMBER | TEXT,
                    max_size=3,
                )
            }
        ),
        "state_dir": NAME.map("state/".__add__),
    }
)


@hypothesis_settings(deadline=None)
@given(document=RIGHT, params=st.dictionaries(TEXT, ARGUMENT, max_size=3))
def test_whatever_is_right_survives_effective(
    scratch: Path, document: dict[str, Any], params: dict[str, Any]
) -> None:
    document["ocr"]["params"] = params
    settings = check_anything(scratch, yaml.safe_dump(document))
    assert settings is not None
    assert settings.ocr.params == params
    assert check_anything(scratch, effective(settings)) == settings


CLUSTER = "cluster: {broker: 'redis://b/0', roots: {scans: /srv/scans}"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("cluster: {broker: 'http://b'}", 'cluster.broker: found "http://b"; must be a URL that begins with'),
        ("cluster: {broker: 'redis://b'}", "must name at least one shared folder"),
        ("cluster: {roots: {Scans: /srv/scans}}", "must be a name of small letters, digits, - and _"),
        (CLUSTER + ", spool: /srv/scans/spool}", "must be a folder apart from /srv/scans"),
        (CLUSTER + ", visibility_timeout_s: 1}", "cluster.visibility_timeout_s"),
        (CLUSTER + "}\nwatch: {inbox: /srv/scans/in}", "must be apart from /srv/scans/in"),
        (CLUSTER + "}\noutput: {folder: /srv/scans/out}", "must be outside the roots of the cluster"),
        ("cluster: {broker: 'redis://b', roots: {a: /srv/s, b: /srv/s/b}}", "must be apart from /srv/s/b"),
        ("http: {via: cluster}", "needs cluster.broker and cluster.roots"),
        (CLUSTER + "}\nhttp: {via: cluster}", "must be one of cluster.roots, or in one"),
        (
            CLUSTER + "}\nhttp: {via: cluster, spool: /srv/scans/up}\noutput: {folder: /srv/out}",
            "cannot be used with http.via: cluster",
        ),
    ],
)
def test_folders_of_a_cluster_are_apart(write: Write, text: str, mistake: str) -> None:
    assert mistake in "\n".join(mistakes(write(text)))


def test_a_cluster_is_off_without_a_broker_and_on_with_one(write: Write) -> None:
    assert not load(write("{}")).cluster.is_on
    settings = load(write(CLUSTER + "}\nhttp: {via: cluster, spool: /srv/scans/uploads}"))
    assert settings.cluster.is_on
    assert str(settings.cluster.spool) == f"{settings.state_dir}-cluster"
