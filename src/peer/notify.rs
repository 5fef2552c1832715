//! Telling Dovecot's replicator that a user is up to date (wire.md 11.2).

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::doveadm::escape;
use super::error::reason;

/// Says that a run with `-U` has succeeded. Where there is no replicator, nothing happens; another failure is logged.
pub fn notify_replicator(base_dir: &Path, user: &str, full: bool, state: &str) {
    let path = base_dir.join("replicator-doveadm");
    let full = if full { "f" } else { "" };
    let text = format!("VERSION\treplicator-doveadm-client\t1\t0\nNOTIFY\t{}\t{full}\t{}\n", escape(user), escape(state));
    match UnixStream::connect(&path).and_then(|mut socket| socket.write_all(text.as_bytes())) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::error!("net_connect_unix({}) failed: {}", path.display(), reason(&e));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn two_lines_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        notify_replicator(dir.path(), "jane", true, "");
        let listener = UnixListener::bind(dir.path().join("replicator-doveadm")).unwrap();
        notify_replicator(dir.path(), "ja\tne", true, "AQ==");
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "VERSION\treplicator-doveadm-client\t1\t0\nNOTIFY\tja\x01tne\tf\tAQ==\n");
    }
}
