"""The rooms of the house: who may import whom, and what must stay out of the light verbs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ocr_watcher

PACKAGE = Path(ocr_watcher.__file__).parent
# Each layer may import those before it, and the modules named here within its own.
LAYERS = (
    {"privacy", "errors", "config", "result", "ready"},
    {
        "files",
        "image",
        "engine",
        "graph",
        "inference",
        "models",
        "sidecar",
        "journal",
        "memory",
        "log",
        "health",
        "lock",
    },
    {"inotify", "watch", "intake", "worker"},
    {"daemon"},
    {"once", "doctor", "status", "retry"},
    {"cli"},
    {"__main__"},
)
WITHIN = {
    ("config", "errors"),
    ("config", "privacy"),
    ("watch", "inotify"),
    ("result", "errors"),
    ("engine", "models"),
    ("engine", "inference"),
    ("inference", "graph"),
    ("sidecar", "files"),
    ("sidecar", "image"),  # for types only
    ("worker", "intake"),
    ("intake", "watch"),  # for types only
}


def imports_of(module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "ocr_watcher":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ocr_watcher."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ocr_watcher.")}
    return found - {"__version__"}


def test_every_module_has_its_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set().union(*LAYERS)


def test_imports_point_one_way() -> None:
    wrong = []
    for depth, layer in enumerate(LAYERS):
        below = set().union(*LAYERS[:depth])
        for module in layer:
            beyond = {(module, imported) for imported in imports_of(module) - below}
            wrong += [f"{module} imports {imported}" for module, imported in beyond - WITHIN]
    assert wrong == []


def test_only_the_engine_and_its_inference_import_the_libraries() -> None:
    for path in PACKAGE.glob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert path.stem in {"engine", "inference"} or not names & {
            "paddleocr",
            "paddlex",
            "paddle",
            "onnxruntime",
        }


@pytest.mark.parametrize("verb", ["--version", "check-config"])
def test_the_light_verbs_load_no_heavy_library(tmp_path: Path, verb: str) -> None:
    # The configuration has something to check in every module that check-config asks.
    (tmp_path / "config.yaml").write_text("ocr: {params: {drop_score: 0.5}}")
    code = (
        "import contextlib, sys; from ocr_watcher import cli\n"
        f"with contextlib.suppress(SystemExit): assert cli.main([{verb!r}]) == 0\n"
        "heavy = {'paddleocr', 'paddlex', 'paddle', 'onnxruntime', 'openvino', 'numpy', 'PIL', 'watchdog'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
