#!/bin/sh
# Install what `make test-ceph` starts: Ceph's monitor, store and gateway (Debian, 64 MB).
set -eu

for program in radosgw radosgw-admin ceph ceph-mon ceph-osd monmaptool; do
    command -v "$program" >/dev/null || missing=1
done
[ -n "${missing:-}" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "not a Debian system: install ceph-mon, ceph-osd and radosgw" >&2
    exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -q
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common
