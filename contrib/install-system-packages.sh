#!/bin/sh
# Install the Debian packages that building and testing need, and only those that are missing.
set -eu

packages="fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv rsync attr acl"
# The tools that the tests put to work on a mount; a test says so and skips where one is missing.
packages="$packages cpio libarchive-tools dump rsnapshot fio sqlite3 git zip unzip libcap2-bin"

if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system: install the likes of: $packages" >&2
    exit 0
fi

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -q
# shellcheck disable=SC2086  # the list is words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
