#!/bin/sh
# Builds dsync and runs its main job on a sample Maildir, without any Dovecot: Maildir to mdbox, and back again to see
# that nothing is missing. Works in a scratch directory, which stays for you to look at.
set -eu
cd "$(dirname "$0")/../.."
features=
if ! pkg-config --exists openssl 2>/dev/null; then
    echo "no headers of OpenSSL on this machine: built without the ssh client (install libssl-dev, pkg-config)" >&2
    features=--no-default-features
fi
# shellcheck disable=SC2086
cargo build --release --quiet $features
dsync=$PWD/target/release/dsync
work=$(mktemp -d "${TMPDIR:-/tmp}/dsync-demo.XXXXXX")
cp -R tests/sample/Maildir "$work/Maildir"
find "$work/Maildir" -name .keep -delete
cd "$work"
# Root never works on mail: it becomes the user whose mail it is, and has to be told whom.
as_user=
if [ "$(id -u)" = 0 ]; then
    chown -R 65534:65534 "$work"
    as_user="-o mail_uid=65534 -o mail_gid=65534"
fi

run() {
    echo "\$ dsync $*"
    # shellcheck disable=SC2086
    HOME=$work USER=jane "$dsync" -O $as_user "$@"
}

run -o mail_location=maildir:~/Maildir backup mdbox:~/mdbox
echo "--- what came out ($work/mdbox):"
find mdbox -type f | LC_ALL=C sort
echo "--- and back again, to compare:"
run -o mail_location=mdbox:~/mdbox backup maildir:~/again
texts() {
    find "$1" \( -path '*/cur/*' -o -path '*/new/*' \) -type f -exec cksum {} + | awk '{ print $1, $2 }' | LC_ALL=C sort
}
texts Maildir > before
texts again > after
if cmp -s before after; then
    echo "all $(wc -l < after | tr -d ' ') mails are there, byte for byte"
else
    echo "the mails differ" >&2
    diff before after >&2
    exit 1
fi
