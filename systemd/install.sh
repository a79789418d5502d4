#!/usr/bin/env bash
# Puts the service in place, or takes it away again. Run as root, from anywhere:
#
#   systemd/install.sh install              program, models, user, configuration, unit; enabled and started
#   systemd/install.sh uninstall            all of that but configuration, inbox, state and logs
#   systemd/install.sh uninstall --purge    those too
#
# Running `install` again upgrades: the configuration stays as it is. PYTHON chooses the interpreter,
# OPENVINO=1 adds OpenVINO.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
prefix=/opt/ocr-watcher
units=/etc/systemd/system
user=ocr-watcher

fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }
systemd_runs() { [ -d /run/systemd/system ]; }

find_python() {
    # Not one below /root or /home: the service may not look there.
    local candidate
    for candidate in ${PYTHON:-/usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 /usr/local/bin/python3}; do
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue
        case "$(readlink -f "$candidate")" in /root/* | /home/*) continue ;; esac
        echo "$candidate"
        return
    done
    fail "no Python 3.11, 3.12 or 3.13 outside home folders; set PYTHON" 69
}

install_service() {
    local python
    python=$(find_python)
    getent passwd "$user" >/dev/null || useradd --system --user-group --home-dir /var/lib/ocr-watcher \
        --shell /usr/sbin/nologin "$user"

    install -d -m 0755 "$prefix" /etc/ocr-watcher
    [ -x "$prefix/venv/bin/python" ] || "$python" -m venv "$prefix/venv" ||
        fail "cannot make a virtual environment; on Debian: apt install python3-venv" 69
    echo "installing the locked dependencies (about 1.7 GB, a few minutes the first time)"
    local pip=("$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" --require-hashes --only-binary :all: -r "$source_dir/requirements.lock"
    "${pip[@]}" --no-deps --no-build-isolation --force-reinstall "$source_dir"
    if [ -n "${OPENVINO:-}" ]; then
        "${pip[@]}" --no-deps --require-hashes --only-binary :all: -r "$source_dir/requirements-openvino.lock"
    fi

    install -m 0644 "$source_dir/README.md" "$prefix/README.md"
    install -m 0644 "$source_dir/config.yaml" "$prefix/config.yaml.example"
    [ -e /etc/ocr-watcher/config.yaml ] || install -m 0644 "$source_dir/systemd/config.yaml" /etc/ocr-watcher/config.yaml
    OCR_WATCHER_MODEL_STORE="$prefix/models" "$prefix/venv/bin/ocr-watcher" models pull -c /etc/ocr-watcher/config.yaml ||
        fail "the model of /etc/ocr-watcher/config.yaml could not be fetched" 69
    ln -sfn "$prefix/venv/bin/ocr-watcher" /usr/local/bin/ocr-watcher

    install -m 0644 "$source_dir/systemd/ocr-watcher.service" "$source_dir/systemd/ocr-watcher@.service" "$units/"
    if systemd_runs; then
        systemctl daemon-reload
        systemctl enable ocr-watcher.service
        systemctl restart ocr-watcher.service
        systemctl --no-pager --lines=0 status ocr-watcher.service
    else
        systemctl --root=/ enable ocr-watcher.service || true
        echo "systemd is not running here: the service starts at the next boot"
    fi
    echo "Inbox: /var/lib/ocr-watcher/inbox. To drop files: usermod --append --groups $user SOMEBODY"
}

uninstall_service() {
    if systemd_runs; then
        systemctl disable --now ocr-watcher.service 'ocr-watcher@*.service' || true
    else
        systemctl --root=/ disable ocr-watcher.service || true
    fi
    rm -f "$units/ocr-watcher.service" "$units/ocr-watcher@.service" /usr/local/bin/ocr-watcher
    rm -rf "$prefix"
    if systemd_runs; then systemctl daemon-reload; fi
    if [ "${1:-}" = --purge ]; then
        rm -rf /etc/ocr-watcher /var/lib/ocr-watcher /var/lib/ocr-watcher-* /var/log/ocr-watcher /var/log/ocr-watcher-*
        getent passwd "$user" >/dev/null && userdel "$user"
        echo "removed, with configuration, inbox, state and logs"
    else
        echo "removed; kept: /etc/ocr-watcher, /var/lib/ocr-watcher, /var/log/ocr-watcher and the user $user"
    fi
}

case "${1:-}" in
    install | uninstall) [ "$(id -u)" = 0 ] || fail "must be run as root" 77 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
case "$1" in
    install) install_service ;;
    uninstall) uninstall_service "${2:-}" ;;
esac
