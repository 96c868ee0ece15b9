#!/bin/bash
# Made the repositories below format-1/: how, for the record. Golden files are never changed; run
# this for a new format only, as root (devices, owners), from the top of the checkout:
#
#     unshare --uts bash tests/golden/make.sh NEW_DIRECTORY
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
target=$(cd "$1" && pwd)
bin=$here/../../.venv/bin
work=$(mktemp -d)
mnt=$work/mnt
mkdir "$mnt"
hostname golden
export HOME=$work
export XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state XDG_RUNTIME_DIR=$work
trap 'umount -l "$mnt" 2>/dev/null || true; rm -rf "$work"' EXIT

copy() { rsync -aHAX --numeric-ids "$@"; }

# Write the file of many extents piece by piece, in no order.
write_pieces() {
    seq 0 199 | shuf --random-source=/etc/services | while read -r index; do
        dd if="$1" of="$2" bs=1 skip=$((index * 20000 + 100)) seek=$((index * 20000 + 100)) \
            count=$((300 + index)) conv=notrunc status=none
    done
}

# Give every kind of slot that a file can open, and one that is revoked; then a new epoch.
rotate_keys() {
    S3BACKFS_NEW_PASSPHRASE=$raw "$bin/s3backfs" key add "$1" --raw-key --label raw
    words=$("$bin/s3backfs" key add "$1" --recovery --label safe)
    "$bin/s3backfs" key add "$1" --identity "$work/identity" --generate --label file
    S3BACKFS_NEW_PASSPHRASE='revoked passphrase' "$bin/s3backfs" key add "$1" --label revoked
    "$bin/s3backfs" key rotate "$1" --remove revoked
}

make_repository() {
    local directory=$1 url=file://$1 between=$2
    shift 2
    "$bin/s3backfs" init "$url" --chunk-size 64KiB "$@"
    "$bin/s3backfs" mount "$url" "$mnt"
    copy --sparse --exclude /pieces "$work/old/" "$mnt/monday/"
    write_pieces "$work/old/pieces" "$mnt/monday/pieces"
    touch --reference="$work/old/pieces" "$mnt/monday/pieces"
    copy "$work/old/" "$mnt/monday/"
    "$bin/s3backfs" umount "$mnt"
    "$between" "$url"

    "$bin/s3backfs" mount "$url" "$mnt"
    # In two steps with a checkpoint between them, so that nodes become patches.
    copy --sparse --link-dest=../monday --exclude '/many/???3' "$work/new/" "$mnt/tuesday/"
    "$bin/s3backfs" sync "$mnt"
    copy --sparse --link-dest=../monday "$work/new/" "$mnt/tuesday/"
    "$bin/s3backfs" seal "$mnt/tuesday"
    copy "$work/open/" "$mnt/wednesday/"
    "$bin/s3backfs" umount --keep-open "$mnt"
    rm -f "$directory/.lock"
}

"$bin/python" "$here/source.py" make "$work/old" monday
copy "$work/old/" "$work/new/"
"$bin/python" "$here/source.py" make "$work/new" tuesday
"$bin/python" "$here/source.py" make "$work/open" wednesday
"$bin/python" "$here/source.py" describe \
    monday="$work/old" tuesday="$work/new" wednesday="$work/open" >"$target/expected.json"

mkdir "$target/encrypted" "$target/plain" "$target/rotated"
raw=0123456789abcdeffedcba98765432100123456789abcdeffedcba9876543210
export S3BACKFS_PASSPHRASE='golden passphrase'
make_repository "$target/encrypted" true
make_repository "$target/rotated" rotate_keys
cp -a "$target/rotated" "$target/rewrapped"
"$bin/s3backfs" prune "file://$target/rewrapped" --rewrap --grace 0s
rm -f "$target/rewrapped/.lock"
cat >"$target/openers.json" <<END
{"argon2id": "$S3BACKFS_PASSPHRASE",
"raw": "$raw",
"recovery": "$words",
"x25519": "$(cat "$work/identity")"}
END
cp -a "$target/encrypted" "$target/kept"
"$bin/s3backfs" mount "file://$target/kept" "$mnt"
mkdir "$mnt/thursday" && echo gone >"$mnt/thursday/file"
"$bin/s3backfs" umount "$mnt"
"$bin/s3backfs" tag "file://$target/kept" monday kept=forever 'where=on the shelf'
"$bin/s3backfs" tag "file://$target/kept" tuesday locked
"$bin/s3backfs" delete "file://$target/kept" thursday
"$bin/s3backfs" prune "file://$target/kept" --grace 0s --max-unused 100%
"$bin/s3backfs" check "file://$target/kept" --read-data
rm -f "$target/kept/.lock"
unset S3BACKFS_PASSPHRASE
make_repository "$target/plain" true --encryption none
