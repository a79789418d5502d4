#!/usr/bin/env bash
# Lays out the folders of one instance, and brings an older layout into this one. install.sh runs it as root while the
# instance is stopped; it may run any number of times.
#
#   systemd/folders.sh USER:GROUP FOLDER CONFIG
#
#   FOLDER         root:GROUP  0750   members may pass through, nobody but root can rename or replace what is in it
#   FOLDER/inbox   USER:GROUP  2770   the members' and the service's
#   FOLDER/state   USER:GROUP  0700   the service's alone: journal, lock, status
#
# In the older layout FOLDER itself was the state folder and the home folder, and members could write it. So whatever is
# found there may have been put there by a member: no link is followed, and what the service reads again (the journal)
# is taken only where it must be the service's own. It is copied, because a member may still have the old file open and
# hold locks on it. What is not taken is set aside under another name. Only what the next start makes anew is deleted:
# lock, status and caches. The inbox keeps all that is in it.
set -euo pipefail

[ $# = 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 64; }
owner=$1 user=${1%%:*} group=${1##*:} config=$3
user_id=$(id -u "$user")
shipped=$(cd "$(dirname "$0")" && pwd)/config.yaml
# SHA-256 of config.yaml as older versions installed it: who has one of these has not edited it.
shipped_before="e30c99fc1697c0e695f4f6022ceecf220c34606daf222b2a5f74965db5a195e3
45cd84450f0d5f47a81a13976658a16122d8026e3f1a8f01d15a677a86e7a58d"
journal=(journal.sqlite3-wal journal.sqlite3)
stamp=$(date +%Y%m%dT%H%M%S)

exists() { [ -e "$1" ] || [ -L "$1" ]; }
is_folder() { [ -d "$1" ] && [ ! -L "$1" ]; }
belongs_to_service() { local id; id=$(stat -c %u -- "$1"); [ "$id" = 0 ] || [ "$id" = "$user_id" ]; }

set_aside() {
    local to="$1.set-aside-$stamp" number=0
    while exists "$to"; do number=$((number + 1)) to="$1.set-aside-$stamp-$number"; done
    mv -T -- "$1" "$to"
    echo "$1 $2: set aside as $to"
}

# Whether only the service, or root, can have written the file. Members could give a file of the service's another
# name (a record out of the inbox, say), but change none without write access.
is_genuine() {
    [ -f "$1" ] && [ ! -L "$1" ] && belongs_to_service "$1" &&
        [ "$(stat -c %h -- "$1")" = 1 ] && ! ((8#$(stat -c %a -- "$1") & 8#022))
}

# The journal in $1, as new files, to $2; the folders may be the same. The newest entries may be in the -wal file, so
# that both are taken or none. SQLite makes the -shm file anew, the daemon lock and status.
take_journal() {
    local name genuine=yes
    for name in "${journal[@]}"; do
        if exists "$1/$name" && ! is_genuine "$1/$name"; then genuine=; fi
    done
    if [ "$1" != "$2" ] && exists "$2/journal.sqlite3"; then genuine=; fi
    for name in "${journal[@]}"; do
        exists "$1/$name" || continue
        if [ "$genuine" ]; then
            install -m 0600 -o "$user" -g "$group" -- "$1/$name" "$2/.$name.new"
            mv -T -- "$2/.$name.new" "$2/$name"
            [ "$1" = "$2" ] || rm -- "$1/$name"
        else
            set_aside "$1/$name" "cannot be trusted to be the journal of $user"
        fi
    done
    rm -rf -- "$1/journal.sqlite3-shm" "$1/lock" "$1/status.json"
}

# Make $1 the service's alone. It is directly in the folder, in which nobody but root can change names any more.
close_folder() {
    if exists "$1" && { ! is_folder "$1" || ! belongs_to_service "$1"; }; then
        set_aside "$1" "is not a folder of $user"
    fi
    if ! exists "$1"; then
        install -d -m 0700 -o "$user" -g "$group" -- "$1"
    elif [ "$(stat -c '%u %a' -- "$1")" != "$user_id 700" ]; then
        # Nobody's while it is looked through. (Five digits: with four, chmod keeps setgid.)
        chown root:root -- "$1"
        chmod 00700 -- "$1"
        take_journal "$1" "$1"
        chown "$owner" -- "$1"
        echo "$1 is closed to the group $group now"
    fi
}

# In the older layout it may be a member's folder, which took the place of the inbox. Later it cannot, and owner and
# mode are the administrator's choice.
lay_out_inbox() {
    local inbox=$folder/inbox
    if [ -L "$inbox" ] && [ "$(stat -c %u -- "$inbox")" = 0 ]; then
        # An administrator's: where it leads, owner and mode are the administrator's too.
        echo "$inbox is a link of root's: left as it is"
        return
    fi
    if exists "$inbox" && ! is_folder "$inbox"; then set_aside "$inbox" "is not a folder"; fi
    if ! exists "$inbox"; then
        install -d -m 2770 -o "$user" -g "$group" -- "$inbox"
    elif [ "$is_old" ] && ! { chown "$owner" -- "$inbox" && chmod 2770 -- "$inbox"; }; then
        echo "$inbox: owner or mode could not be set; see that $user and the group $group may write it" >&2
    fi
}

move_caches() {
    local models=$folder/.paddlex/official_models
    # Models that PaddleOCR downloaded itself: the service, which has no network, could not get them again.
    if is_folder "$folder/.paddlex" && is_folder "$models" && ! exists "$state/.paddlex"; then
        # From the top downwards: once a folder is root's, nobody can swap what is in it before its turn comes.
        find "$folder/.paddlex" -xdev -type d -exec chown root:root {} \; -exec chmod 00700 {} \;
        find "$folder/.paddlex" -xdev ! -type d \( ! -type f -o -links +1 \) -delete
        find "$folder/.paddlex" -xdev \( -type d -o -type f \) -exec chown "$owner" {} + -exec chmod u+rw,g-w,o= {} +
        mv -T -- "$folder/.paddlex" "$state/.paddlex"
        echo "$models: moved to $state/.paddlex. Until now any member of the group $group could change these models"
    fi
    rm -rf -- "$folder/.paddlex" "$folder/.cache"
}

keep_old_config() {
    local to=$config.bak
    if exists "$to"; then to=$config.bak-$stamp; fi
    cp -p -- "$config" "$to"
    echo "the old $config is in $to"
}

# The administrator's configuration: replaced where it is one that was shipped, else no more than the line of state_dir.
migrate_config() {
    [ -f "$config" ] || return 0
    local line='^(state_dir:[[:space:]]*["'\'']?)([^"'\''#[:space:]]+)' value changed replacement
    case " ${shipped_before//$'\n'/ } " in
        *" $(sha256sum <"$config" | cut -d ' ' -f 1) "*)
            keep_old_config
            cat "$shipped" >"$config"
            echo "$config was as it had been installed, and is the one of this version now: state_dir is $state"
            return
            ;;
    esac
    value=$(sed -nE "s%$line.*%\2%p" "$config" | tail -n 1)
    # As it is spelled, without following links.
    if [ -n "$value" ]; then value=$(realpath -ms -- "$value"); fi
    case "$value" in
        "$state") ;;
        "$folder")
            replacement=$(printf %s "$state" | sed 's/[\\&%]/\\&/g')
            changed=$(sed -E "s%$line%\1$replacement%" "$config" && echo .)
            keep_old_config
            printf %s "${changed%.}" >"$config" # into the same file: its owner, mode and links stay
            echo "$config: changed one line, state_dir is $state (was $value, which members of $group could write)"
            ;;
        "$folder"/*/*) echo "$config: state_dir is $value; see that members of the group $group cannot write it" ;;
        "$folder"/*)
            if is_folder "$value" && [ -n "$(find "$value" -mindepth 1 -maxdepth 1 -type d -print -quit)" ]; then
                echo "$config: state_dir is $value, which has folders in it: left as it is." \
                    "See that members of the group $group cannot write it"
            else
                close_folder "$value"
            fi
            ;;
        "") echo "$config: there is no line with state_dir; if it is $folder, set it to $state" ;;
    esac
}

tell_what_is_left() {
    local rest
    rest=$(find "$folder/" -mindepth 1 -maxdepth 1 ! -name inbox ! -name state ! -name state-http ! -name '*.set-aside-*' -printf ' %f')
    if [ -n "$rest" ]; then echo "$folder: left as it is:$rest"; fi
}

exists "$2" || install -d -m 00750 -o root -g "$group" -- "$2"
folder=$(realpath -ms -- "$2") # it may be a link: what is above it is root's
state=$folder/state
is_old=
if [ "$(stat -Lc %u -- "$folder")" != 0 ]; then is_old=yes; fi
# From here on only root can change names in it, and what was looked at stays what it is.
chown "root:$group" -- "$folder"
chmod 00750 -- "$folder"
lay_out_inbox
close_folder "$state"
take_journal "$folder" "$state"
move_caches
migrate_config
if [ "$is_old" ]; then tell_what_is_left; fi
