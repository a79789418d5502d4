"""The systemd units, checked without booting them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ocr_watcher import config
from ocr_watcher.errors import ExitCode

FOLDER = Path(__file__).parents[1] / "systemd"
UNITS = ["ocr-watcher.service", "ocr-watcher@.service"]
HTTP = "ocr-watcher-http.service"
CLUSTER = ["ocr-watcher-dispatch.service", "ocr-watcher-bridge.service"]
SOCKET = "ocr-watcher-http.socket"
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in (FOLDER / unit).read_text().splitlines():
        if "=" in row and not row.startswith("#"):
            name, _, value = row.partition("=")
            found.setdefault(name, []).append(value)
    return found


@needs_analyze
@pytest.mark.parametrize("unit", [*UNITS, HTTP, *CLUSTER])
def test_verify_is_silent(tmp_path: Path, unit: str) -> None:
    for needed in ("ocr-watcher.service", SOCKET):
        if unit not in UNITS:
            (tmp_path / needed).write_text(
                (FOLDER / needed).read_text().replace("ExecStart=/", "ExecStart=-/")
            )
    program = tmp_path / "ocr-watcher"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    name = unit.replace("@", "@one")
    text = (FOLDER / unit).read_text()  # the program is not installed where this test runs
    (tmp_path / name).write_text(text.replace("/opt/ocr-watcher/venv/bin/ocr-watcher", str(program)))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_analyze
@pytest.mark.parametrize(
    ("unit", "most"), [*((unit, 0.5) for unit in (*UNITS, HTTP)), *((unit, 1.2) for unit in CLUSTER)]
)
def test_the_sandbox_is_rated_no_worse_than(unit: str, most: float) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(FOLDER / unit)],
        capture_output=True,
        text=True,
        check=True,
    )
    rating = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert rating is not None, result.stdout
    assert float(rating[1]) <= most  # 0.7 of it: whoever calls a broker needs a network


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_speaks_of_the_same_codes_and_limits_as_the_program(unit: str) -> None:
    found = settings_of(unit)
    assert found["SuccessExitStatus"] == [str(int(ExitCode.RECYCLE))]
    assert found["RestartPreventExitStatus"] == [str(int(ExitCode.CONFIG))]
    high, most = (int(found[name][0].removesuffix("M")) for name in ("MemoryHigh", "MemoryMax"))
    assert config.MemorySettings().rss_limit_mb < high < most
    assert found["StartLimitIntervalSec"] == ["0"]  # recycling must never trip it


def test_the_server_has_the_daemons_sandbox_and_writes_the_spool_only() -> None:
    served, daemon = settings_of(HTTP), settings_of(UNITS[0])
    for name in (
        *("User", "Group", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateNetwork"),
        *("RestrictAddressFamilies", "NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities"),
        *("PrivateUsers", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs"),
        *("ProtectControlGroups", "ProtectClock", "ProtectHostname", "ProtectProc", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "SystemCallArchitectures"),
        *("RestartPreventExitStatus", "StateDirectoryMode"),
    ):
        assert served[name] == daemon[name], name
    assert served["StateDirectory"] == ["ocr-watcher/state-http"]
    assert "ReadWritePaths" not in served
    assert settings_of(SOCKET)["ListenStream"] == ["127.0.0.1:8080"]


@pytest.mark.parametrize("unit", CLUSTER)
def test_a_unit_of_the_cluster_can_do_no_more_than_it_must(unit: str) -> None:
    daemon, found = settings_of("ocr-watcher.service"), settings_of(unit)
    for name in (
        *("User", "Group", "Restart", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices"),
        *("NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "PrivateUsers"),
        *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
        *("ProtectClock", "ProtectHostname", "ProtectProc", "RestrictNamespaces", "RestrictRealtime"),
        *("RestrictSUIDSGID", "LockPersonality", "SystemCallArchitectures", "RestartPreventExitStatus"),
    ):
        assert found[name] == daemon[name], name
    assert found["ReadWritePaths"] == ["-/srv/ocr-watcher"]
    assert found["StateDirectoryMode"] == ["0700"]


def test_the_spool_of_a_bridge_is_where_daemon_and_bridge_look_for_it(tmp_path: Path) -> None:
    text = (FOLDER / "config.yaml").read_text() + "cluster: {broker: 'redis://b/0', roots: {scans: /srv/x}}\n"
    (tmp_path / "config.yaml").write_text(text)
    settings = config.load(tmp_path / "config.yaml")
    assert settings.cluster.spool == Path("/var/lib/ocr-watcher/state-cluster")
    assert settings_of(CLUSTER[1])["StateDirectory"] == ["ocr-watcher/state-cluster"]
    assert settings_of(CLUSTER[0])["StateDirectory"] == ["ocr-watcher/state-dispatch"]


@pytest.mark.parametrize("units", [UNITS, (HTTP, HTTP.replace(".", "@."))], ids=lambda units: units[0])
def test_the_template_differs_only_in_its_instance(units: tuple[str, str]) -> None:
    plain, template = ((FOLDER / unit).read_text() for unit in units)
    template = template.partition("\n")[2]  # its own first comment
    for instance, single in (
        ("/etc/ocr-watcher/%i.yaml", "/etc/ocr-watcher/config.yaml"),
        ("ocr-watcher (%i)", "ocr-watcher"),
        ("ocr-watcher@%i.service", "ocr-watcher.service"),
        ("ocr-watcher-http@%i.socket", "ocr-watcher-http.socket"),
        ("-%i", ""),
    ):
        template = template.replace(instance, single)
    assert template == plain


def test_the_shipped_configuration_is_valid_and_within_the_units_folders() -> None:
    settings = config.load(FOLDER / "config.yaml")
    assert [str(inbox) for inbox in settings.watch.inbox] == ["/var/lib/ocr-watcher/inbox"]
    assert settings.state_dir == Path("/var/lib/ocr-watcher/state")
    assert settings.http is not None
    assert settings.http.spool == Path("/var/lib/ocr-watcher/state-http")
    assert settings.logging.file.parent == Path("/var/log/ocr-watcher")
    assert settings.memory.rss_limit_mb == config.MemorySettings().rss_limit_mb


@pytest.mark.parametrize("unit", UNITS)
def test_state_and_caches_are_the_services_alone(unit: str) -> None:
    instance = "-%i" if "@" in unit else ""
    found = settings_of(unit)
    state = f"ocr-watcher{instance}/state"
    assert found["StateDirectory"] == [state, f"{state}-http", f"{state}-cluster"]
    assert found["StateDirectoryMode"] == found["CacheDirectoryMode"] == ["0700"]
    # What the service makes itself is not for the group to write.
    assert int(found["UMask"][0], 8) & 0o020
    home = found["Environment"][1].split()
    assert f"HOME=/var/lib/ocr-watcher{instance}/state" in home
    assert f"XDG_CACHE_HOME=/var/cache/{found['CacheDirectory'][0]}" in home


def test_the_units_parse() -> None:
    for unit in (*UNITS, HTTP):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign] # keep the case of names
        parser.read(FOLDER / unit)
        assert parser.sections() == ["Unit", "Service", "Install"]
