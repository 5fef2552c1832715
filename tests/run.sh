#!/bin/sh
# Runs all tests. The tests against a real Dovecot need its packages: they are installed where that is possible (Debian,
# root), else this says which tests were left out.
set -eu
cd "$(dirname "$0")/.."
missing=
command -v doveadm >/dev/null 2>&1 || missing="dovecot-core dovecot-imapd dovecot-lmtpd"
[ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
command -v ssh >/dev/null 2>&1 || missing="$missing openssh-client"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
command -v strace >/dev/null 2>&1 || missing="$missing strace"
pkg-config --exists openssl 2>/dev/null || missing="$missing libssl-dev pkg-config"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || true
        # shellcheck disable=SC2086
        apt-get install -y -qq $missing >/dev/null || true
    fi
fi
if ! command -v doveadm >/dev/null 2>&1; then
    echo "no doveadm on this machine: the tests against a real Dovecot are left out (install dovecot-core, dovecot-imapd)" >&2
fi
if [ ! -x /usr/sbin/sshd ]; then
    echo "no sshd on this machine: the tests of the built-in ssh client are left out (install openssh-server)" >&2
fi
if [ "$(id -u)" != 0 ]; then
    echo "not root: the tests with files of another user are left out" >&2
fi
features=
if ! pkg-config --exists openssl 2>/dev/null; then
    echo "no headers of OpenSSL on this machine: the built-in ssh client is left out (install libssl-dev, pkg-config)" >&2
    features=--no-default-features
fi
cargo fmt --check
# shellcheck disable=SC2086
cargo clippy $features --all-targets --quiet -- -D warnings
# shellcheck disable=SC2086
cargo test $features --quiet "$@"
