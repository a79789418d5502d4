#!/usr/bin/env bash
# Puts the service in place, or takes it away again. Run as root, from anywhere:
#
#   systemd/install.sh install              program, models, user, configuration, unit; enabled and started
#   systemd/install.sh uninstall            all of that but configuration, inbox, state and logs
#   systemd/install.sh uninstall --purge    those too
#
# Running `install` again upgrades: the configuration stays as it is, but for what folders.sh must change (it says
# what). PYTHON chooses the interpreter, OPENVINO=1 adds OpenVINO, HEIC=1 the decoder of HEIC photos (GPLv2 wheels),
# CLUSTER=1 what several hosts need (Celery and the client of Redis).
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
prefix=/opt/ocr-watcher
units=/etc/systemd/system
user=ocr-watcher
# Each of these, and the same with -NAME for an instance.
folders=(/var/lib/ocr-watcher /var/log/ocr-watcher /var/cache/ocr-watcher)

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

# The units of ours that run or are about to, one a line.
units_at_work() {
    systemd_runs || return 0
    systemctl list-units --plain --no-legend --full --state=active,activating,reloading,deactivating \
        ocr-watcher.service 'ocr-watcher@*.service' ocr-watcher-http.service 'ocr-watcher-http@*.service' \
        ocr-watcher-dispatch.service ocr-watcher-bridge.service | cut -d ' ' -f 1
}

# The main instance and every NAME that has a configuration or a folder.
lay_out_folders() {
    "$source_dir/systemd/folders.sh" "$user:$user" /var/lib/ocr-watcher /etc/ocr-watcher/config.yaml
    local folder config name
    for folder in /var/lib/ocr-watcher-*; do
        [ -d "$folder" ] || continue
        name=${folder#/var/lib/ocr-watcher-}
        config=/etc/ocr-watcher/$name.yaml
        # Another package may have a name that begins like ours.
        [ -e "$config" ] || [ "$(stat -Lc %U "$folder")" = "$user" ] || continue
        "$source_dir/systemd/folders.sh" "$user:$user" "$folder" "$config"
    done
    # Logs of older versions could be written by the group.
    for folder in /var/log/ocr-watcher /var/log/ocr-watcher-*; do
        [ -d "$folder" ] || continue
        find "$folder/" -xdev -type f -perm /022 -exec chmod g-w,o-w {} +
    done
}

install_service() {
    local python at_work
    python=$(find_python)
    getent passwd "$user" >/dev/null || useradd --system --user-group --home-dir /var/lib/ocr-watcher/state \
        --no-create-home --shell /usr/sbin/nologin "$user"

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
    if [ -n "${CLUSTER:-}" ]; then
        "${pip[@]}" --no-deps --require-hashes --only-binary :all: -r "$source_dir/requirements-cluster.lock"
    fi
    if [ -n "${HEIC:-}" ]; then
        "${pip[@]}" --no-deps --require-hashes --only-binary :all: -r "$source_dir/requirements-heic.lock"
    fi

    install -m 0644 "$source_dir/README.md" "$source_dir/README.zh-CN.md" "$prefix/"
    install -d "$prefix/docs"
    install -m 0644 "$source_dir"/docs/* "$prefix/docs/"
    install -m 0644 "$source_dir/config.yaml" "$prefix/config.yaml.example"
    [ -e /etc/ocr-watcher/config.yaml ] || install -m 0644 "$source_dir/systemd/config.yaml" /etc/ocr-watcher/config.yaml
    OCR_WATCHER_MODEL_STORE="$prefix/models" "$prefix/venv/bin/ocr-watcher" models pull -c /etc/ocr-watcher/config.yaml ||
        fail "the model of /etc/ocr-watcher/config.yaml could not be fetched" 69
    ln -sfn "$prefix/venv/bin/ocr-watcher" /usr/local/bin/ocr-watcher

    # From here to the start nothing may run: folders and units change together.
    at_work=$(units_at_work)
    # shellcheck disable=SC2086 # one word a unit
    [ -z "$at_work" ] || systemctl stop $at_work
    trap 'echo "install.sh: broken off while the service is stopped; mend the cause and run it again" >&2' EXIT
    # As older versions set it. The service has its own HOME; this one is for who becomes the user by hand.
    if [ "$(getent passwd "$user" | cut -d : -f 6)" = /var/lib/ocr-watcher ]; then
        usermod --home /var/lib/ocr-watcher/state "$user" || true
    fi
    lay_out_folders
    # The server's stays switched off until somebody enables it. Its socket is not touched: connections wait there.
    install -m 0644 "$source_dir/systemd/ocr-watcher.service" "$source_dir/systemd/ocr-watcher@.service" \
        "$source_dir/systemd/ocr-watcher-http.socket" "$source_dir/systemd/ocr-watcher-http.service" \
        "$source_dir/systemd/ocr-watcher-http@.socket" "$source_dir/systemd/ocr-watcher-http@.service" \
        "$source_dir/systemd/ocr-watcher-dispatch.service" "$source_dir/systemd/ocr-watcher-bridge.service" "$units/"
    trap - EXIT
    if systemd_runs; then
        systemctl daemon-reload
        systemctl enable ocr-watcher.service
        # shellcheck disable=SC2086 # one word a unit
        systemctl restart ocr-watcher.service $at_work
        systemctl --no-pager --lines=0 status ocr-watcher.service
    else
        systemctl --root=/ enable ocr-watcher.service || true
        echo "systemd is not running here: the service starts at the next boot"
    fi
    echo "HTTP, if wanted: systemctl enable --now ocr-watcher-http.socket; then curl -F file=@scan.png http://127.0.0.1:8080/v1/ocr"
    echo "Inbox: /var/lib/ocr-watcher/inbox. To drop files: usermod --append --groups $user SOMEBODY"
}

# What there is of the paths given, one a line.
existing() {
    local path
    for path; do if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi; done
}

uninstall_service() {
    local unit at_work path
    at_work=$(units_at_work)
    # shellcheck disable=SC2086 # one word a unit
    [ -z "$at_work" ] || systemctl stop $at_work
    # Enabled instances are known by their links only: systemctl takes no pattern here.
    if systemd_runs; then systemctl stop ocr-watcher-http.socket 'ocr-watcher-http@*.socket' || true; fi
    for unit in ocr-watcher.service ocr-watcher-http.service ocr-watcher-http.socket \
        ocr-watcher-dispatch.service ocr-watcher-bridge.service "$units"/*.wants/ocr-watcher@*.service \
        "$units"/*.wants/ocr-watcher-http@*.socket; do
        unit=${unit##*/}
        case "$unit" in *\**) continue ;; esac
        if systemd_runs; then systemctl disable "$unit" || true; else systemctl --root=/ disable "$unit" || true; fi
    done
    rm -f "$units/ocr-watcher.service" "$units/ocr-watcher@.service" /usr/local/bin/ocr-watcher
    rm -f "$units/ocr-watcher-http.socket" "$units/ocr-watcher-http.service"
    rm -f "$units/ocr-watcher-http@.socket" "$units/ocr-watcher-http@.service"
    rm -f "$units/ocr-watcher-dispatch.service" "$units/ocr-watcher-bridge.service"
    rm -rf "$prefix" /var/cache/ocr-watcher /var/cache/ocr-watcher-*
    if systemd_runs; then systemctl daemon-reload; fi

    local kept=(/etc/ocr-watcher "$units"/ocr-watcher.service.d "$units"/ocr-watcher-http.*.d "$units"/ocr-watcher-dispatch.service.d \
        "$units"/ocr-watcher-bridge.service.d "$units"/ocr-watcher@*.service.d "$units"/ocr-watcher-http@*.d)
    for path in "${folders[@]}"; do kept+=("$path" "$path"-*); done
    if [ "${1:-}" = --purge ]; then
        rm -rf "${kept[@]}"
        if getent passwd "$user" >/dev/null; then userdel "$user"; fi
        # userdel leaves a group that has other members.
        if getent group "$user" >/dev/null; then groupdel "$user"; fi
        echo "removed, with configuration, inbox, state and logs"
    else
        echo "removed; kept, with the user $user:"
        existing "${kept[@]}" | sed 's/^/  /'
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
