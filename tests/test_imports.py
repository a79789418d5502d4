"""The floors of the house: who may import whom, and what must stay out of the light verbs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ocr_watcher

PACKAGE = Path(ocr_watcher.__file__).parent
# From the ground up. A module or sub-package may import from the floors below it, and a sub-package from
# itself; what stands on one floor does not know of each other.
FLOORS = (
    ("errors", "privacy", "names", "job"),
    ("document",),
    ("config", "log", "memory"),
    ("inbox", "inputs", "ocr"),
    ("outputs",),
    ("jobs",),
    ("service",),
    ("http", "cluster"),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
# One place reaches into each library whose insides are needed.
ONLY_IN = {
    "celery": ("cluster",),
    "kombu": ("cluster",),
    "aiohttp": ("http",),
    "prometheus_client": ("http", "cluster"),
    "watchdog": ("inbox",),
    "PIL": ("inputs", "ocr", "outputs"),
    "cv2": ("inputs", "ocr"),
    "pypdfium2_raw": ("inputs",),
    "paddleocr": ("ocr",),
    "paddlex": ("ocr",),
    "paddle": ("ocr",),
    "onnxruntime": ("ocr",),
    "onnx": ("ocr",),
    "openvino": ("ocr",),
    "sqlite3": ("jobs",),
    "yaml": ("config", "ocr"),
    "pydantic": ("config",),
    "pydantic_core": ("config",),
}


def room_of(path: Path) -> str:
    """The module or sub-package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, for types too, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_floor() -> None:
    assert {room_of(path) for path in files()} - {"__init__"} == {room for floor in FLOORS for room in floor}


def test_imports_point_down() -> None:
    depth = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    wrong = []
    for path in files():
        if path == PACKAGE / "__init__.py":
            continue
        here = room_of(path)
        for name in imports_of(path):
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package != "ocr_watcher" or room in ("__version__", here):
                continue
            if depth[room] > depth[here] or (depth[room] == depth[here] and depth[here] >= 2):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("library", list(ONLY_IN))
def test_a_library_is_known_in_its_rooms_only(library: str) -> None:
    users = {
        room_of(path) for path in files() if library in {name.split(".")[0] for name in imports_of(path)}
    }
    assert users <= set(ONLY_IN[library])


@pytest.mark.parametrize("verb", ["cli._parser()", "from ocr_watcher.verbs import status, retry"])
def test_the_light_verbs_load_no_heavy_library(verb: str) -> None:
    code = (
        f"import sys; from ocr_watcher import cli; {verb};"
        "heavy = {'paddleocr', 'paddlex', 'paddle', 'onnxruntime', 'numpy', 'PIL', 'watchdog'};"
        "heavy &= set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_the_server_decodes_nothing_and_loads_no_model() -> None:
    code = (
        "import sys; from ocr_watcher.http import server; from ocr_watcher.verbs import status;"
        "from ocr_watcher.outputs import alto, hocr, tsv, txt;"
        "heavy = {'paddleocr', 'paddlex', 'paddle', 'onnxruntime', 'onnx', 'numpy', 'PIL', 'cv2', 'sqlite3'};"
        "heavy |= {'pypdfium2', 'pypdfium2_raw', 'pikepdf', 'fontTools', 'pillow_heif'};"
        "heavy &= set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
