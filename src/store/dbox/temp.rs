//! Names of temp files (dbox.md 2.1, 5.7). Dovecot removes such files by itself when they are 36 hours old.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What temp names begin with.
pub const TEMP_PREFIX: &str = ".temp.";

/// A name that nobody else uses: `.temp.<sec>.P<pid>Q<counter>M<usec>.<hostname>`.
#[must_use]
pub fn temp_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let host = nix::unistd::gethostname().unwrap_or_default();
    // A host name with a slash would leave the directory.
    let host: String = host.to_string_lossy().chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect();
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{TEMP_PREFIX}{}.P{}Q{counter}M{}.{host}", now.as_secs(), std::process::id(), now.subsec_micros())
}
