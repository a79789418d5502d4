"""The configuration as the verbs load it: with the rules about models and arguments, and what `run` needs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ocr_watcher.config import CONFIG_VARIABLE
from ocr_watcher.errors import ConfigError, ExitCode
from ocr_watcher.ocr import models
from ocr_watcher.ocr.params import PADDLEOCR_PARAMS, RENAMED_PARAMS
from ocr_watcher.verbs import configuration
from tests import support
from tests.support import unprivileged, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[1] / "examples"


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configuration.load(path)
    return [line.removeprefix(f"{path.parent}/") for line in str(caught.value).split("\n")]


# -- load --------------------------------------------------------------------------------------


def test_mistakes_in_model_and_params_stand_among_all_others_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "image:\n"
        "  max_side_px: -5\n"
        "ocr:\n"
        "  params:\n"
        "    text_det_tresh: 0.3\n"
        "    rec_batch_num: 6\n"
        "    use_gpu: false\n"
        "    text_recognition_batch_size: 8\n"
        "    det_limit_side_len: 896px\n"
        "  model: PP-OCRv6_smal\n"
        "logging: {level: x}\n"
    )
    assert [line.partition("; must be one of")[0] for line in mistakes(path)] == [
        "config.yaml:2: image.max_side_px: found -5 (integer); must be greater than 0",
        (
            "config.yaml:5: ocr.params.text_det_tresh: PaddleOCR has no such argument; "
            "did you mean text_det_thresh?"
        ),
        (
            "config.yaml:8: ocr.params.text_recognition_batch_size: is the same argument as rec_batch_num, "
            "which has another value"
        ),
        "config.yaml:9: ocr.params.det_limit_side_len: must be a whole number of at least 1, not '896px'",
        "config.yaml:10: ocr.model: there is no model 'PP-OCRv6_smal'. Did you mean PP-OCRv6_small?",
        'config.yaml:11: logging.level: found "x"',
    ]


@pytest.mark.parametrize(
    ("ocr", "mistake"),
    [
        (
            {"engine": "paddle"},
            (
                "PP-OCRv6_small works with ocr.engine onnxruntime, not paddle. "
                "With ocr.engine paddle use ocr.model PP-OCRv5_mobile."
            ),
        ),
        ({"model": "a model"}, "'a model' is neither a folder nor a model name"),
    ],
)
def test_a_model_that_cannot_work_is_a_mistake(tmp_path: Path, ocr: dict[str, str], mistake: str) -> None:
    [found] = mistakes(write_config(tmp_path, ocr=ocr))
    assert found.endswith(f": ocr.model: {mistake}")
    assert found.startswith("config.yaml:")


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_configurations(example: Path) -> None:
    configuration.load(example)


NAMES = st.sampled_from(sorted(PADDLEOCR_PARAMS | RENAMED_PARAMS.keys() | {"use_gpu", "det"})) | st.text(
    max_size=9
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "config.yaml"


@hypothesis_settings(deadline=None)
@given(
    model=st.text(max_size=300) | st.sampled_from(list(models.CATALOGUE)),
    engine=st.sampled_from(["onnxruntime", "paddle", "padle"]),
    params=st.dictionaries(NAMES, VALUES, max_size=5),
)
def test_whatever_model_and_params_say_nothing_else_than_config_error_is_raised(
    scratch: Path, model: str, engine: str, params: dict[str, Any]
) -> None:
    text = yaml.safe_dump({"ocr": {"model": model, "engine": engine, "params": params}})
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        configuration.load(scratch)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert line.startswith(str(scratch))
            assert line.isprintable()


# -- load_existing -----------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("installed", "hint"),
    [
        ([], "Name it with -c FILE, or in the environment variable OCR_WATCHER_CONFIG."),
        (["config.yaml"], "use -c {etc}/config.yaml"),
        (["b.yaml", "config.yaml", "notes.txt"], "use -c {etc}/b.yaml or -c {etc}/config.yaml"),
    ],
)
def test_without_any_file_there_is_no_service_to_ask_about(
    nowhere: Path, installed: list[str], hint: str
) -> None:
    etc = nowhere / "etc"
    etc.mkdir()
    for name in installed:
        (etc / name).touch()
    with pytest.raises(ConfigError) as caught:
        configuration.load_existing(None, service_files=f"{etc}/*.yaml")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert caught.value.hint == hint.format(etc=etc)


def test_the_service_s_configuration_is_where_it_is_installed() -> None:
    install = (EXAMPLES.parent / "systemd" / "install.sh").read_text("utf-8")
    assert "/etc/ocr-watcher/config.yaml" in install
    assert Path("/etc/ocr-watcher/config.yaml").match(configuration.SERVICE_FILES)


def test_any_file_will_do_to_ask_about_its_service(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(nowhere)
    assert configuration.load_existing(None).source == path
    other = path.rename(nowhere / "other.yaml")
    assert configuration.load_existing(other).source == other
    monkeypatch.setenv(CONFIG_VARIABLE, str(other))
    assert configuration.load_existing(None).source == other


# -- remarks -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, model_store: Path) -> Path:
    """A store with one model in it, to be damaged at will."""
    store = tmp_path / "store"
    for part in models.CATALOGUE["PP-OCRv6_small"].files:
        source = model_store / "PP-OCRv6_small" / part.path
        target = store / "PP-OCRv6_small" / part.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    return store


def remarks(folder: Path, **sections: Any) -> list[str]:
    return [remark.text for remark in configuration.remarks(support.settings(folder, **sections))]


def test_nothing_is_said_where_run_finds_everything(tmp_path: Path, store: Path) -> None:
    assert remarks(tmp_path, ocr={"model_store": str(store)}) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "inbox", "store"]


def test_a_model_that_is_missing_or_damaged_is_said(tmp_path: Path, store: Path) -> None:
    [remark] = configuration.remarks(support.settings(tmp_path, ocr={"model_store": str(tmp_path / "none")}))
    assert remark.text.startswith("`run` will end with 69: model PP-OCRv6_small is not in the model store ")
    assert remark.hint == "run: ocr-watcher models pull PP-OCRv6_small"
    (store / "PP-OCRv6_small/det/inference.yml").unlink()
    [text] = remarks(tmp_path, ocr={"model_store": str(store)})
    assert "is damaged" in text
    assert "\n" not in text
    [text] = remarks(tmp_path, ocr={"model": "./mine"})
    assert text == f"`run` will end with 69: ocr.model: there is no folder {tmp_path}/mine"


def test_a_model_that_only_paddleocr_knows_is_said_not_to_be_checked(tmp_path: Path) -> None:
    [text] = remarks(tmp_path, ocr={"model": "korean_PP-OCRv5_mobile"})
    assert "PaddleOCR downloads the model korean_PP-OCRv5_mobile at the first start" in text
    assert "not checked" in text


def test_an_inbox_that_cannot_be_used_is_said(tmp_path: Path, store: Path) -> None:
    (tmp_path / "file").touch()
    watch = {"inbox": ["inbox", "none", "file"]}
    assert remarks(tmp_path, watch=watch, ocr={"model_store": str(store)}) == [
        f"`run` will end with 69: the inbox {tmp_path}/none is missing",
        f"`run` will end with 69: the inbox {tmp_path}/file is not a folder",
    ]


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder with an inbox that any user may look into; pytest's own may be private to one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder)
        for path, mode in ((folder, 0o755), (folder / "inbox", 0o777)):
            path.chmod(mode)
        yield folder


# The name of a model that is not in the catalogue: nothing is looked for in a store.
FOREIGN = {"model": "korean_PP-OCRv5_mobile"}


def test_folders_that_cannot_be_written_are_said(reachable: Path) -> None:
    log = {"file": "shut/log/x.log"}
    settings = support.settings(reachable, ocr=FOREIGN, logging=log, state_dir="shut/state")
    (reachable / "shut").mkdir(mode=0o555)
    (reachable / "inbox").chmod(0o555)
    with unprivileged():
        found = [remark.text for remark in configuration.remarks(settings)]
    why = f"{reachable}/shut cannot be written by this user"
    assert found == [
        f"`run` will end with 69: the inbox {reachable}/inbox cannot be read and written by this user",
        found[1],  # about the model
        f"`run` will end with 69: the state folder {reachable}/shut/state: {why}",
        f"`run` will end with 69: the log file {reachable}/shut/log/x.log: {why}",
    ]


def test_a_file_in_the_way_of_a_folder_and_a_log_file_of_somebody_else_are_said(reachable: Path) -> None:
    (reachable / "file").touch()
    (reachable / "log").mkdir()
    (reachable / "log").chmod(0o777)
    log = reachable / "log" / "their.log"
    log.touch(0o444)
    settings = support.settings(reachable, ocr=FOREIGN, logging={"file": str(log)}, state_dir="file/state")
    with unprivileged():
        found = [remark.text for remark in configuration.remarks(settings)]
    assert found[1:] == [
        f"`run` will end with 69: the state folder {reachable}/file/state: {reachable}/file is not a folder",
        f"`run` will end with 69: the log file {log}: it cannot be written by this user",
    ]


def test_a_store_that_may_not_be_read_is_said(reachable: Path) -> None:
    settings = support.settings(reachable, ocr={"model_store": "store"}, state_dir="inbox2")
    (reachable / "store").mkdir(mode=0o700)
    (reachable / "store" / "PP-OCRv6_small").mkdir()
    if os.geteuid() != 0:
        (reachable / "store").chmod(0)
    with unprivileged():
        found = [remark.text for remark in configuration.remarks(settings)]
    assert found[0].count("Permission denied") == len(models.CATALOGUE["PP-OCRv6_small"].files)
