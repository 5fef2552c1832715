//! The index header extension `maildir`: what the last scan saw (maildir.md 7.1). As long as it still is what is on the
//! disk, no directory needs to be read.

use std::time::{Duration, SystemTime};

use super::scan::DirTime;
use super::uidlist::Stamp;

/// Bytes of the extension's header.
pub(super) const SIZE: usize = 36;

/// Kernels stamp files with a clock that stands still for up to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// When a directory was read, and its modification time then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    check: u32,
    mtime: u32,
    mtime_nsecs: u32,
}

/// The content of the extension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ScanHeader {
    new: Seen,
    cur: Seen,
    uidlist: (u32, u32, u32),
}

/// How what is on the disk compares with the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing has changed.
    Same,
    /// All times are equal, but a directory was read so shortly after its last change that a change within the same
    /// tick of the clock may have been missed.
    Uncertain,
    /// Something has changed.
    Changed,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the format keeps 32 bits of times and sizes")]
const fn low(n: i64) -> u32 {
    n as u32
}

#[allow(clippy::cast_possible_truncation, reason = "the format keeps 32 bits of sizes")]
const fn low_size(n: u64) -> u32 {
    n as u32
}

impl Seen {
    /// A directory whose modification time was `time` before it was read at `now`.
    ///
    /// Where the file system has fractions of seconds and the scan began clearly after the last change, nothing can have
    /// been missed; then the check is dated two seconds behind the change, so that neither we nor Dovecot look again.
    fn new(time: DirTime, now: SystemTime) -> Self {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_secs = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let check = if time.nsecs != 0 && settled(time, now) { now_secs.max(time.secs.saturating_add(2)) } else { now_secs };
        Self { check: low(check), mtime: low(time.secs), mtime_nsecs: low(time.nsecs) }
    }

    fn compare(self, time: DirTime, now: u32) -> Verdict {
        if (self.mtime, self.mtime_nsecs) != (low(time.secs), low(time.nsecs)) || self.mtime == 0 {
            Verdict::Changed
        } else if self.check <= self.mtime.saturating_add(1) && now > self.check.saturating_add(1) {
            Verdict::Uncertain
        } else {
            Verdict::Same
        }
    }
}

/// The last change of a directory is so long ago that its clock has moved on since.
pub(super) fn settled(time: DirTime, now: SystemTime) -> bool {
    wait_for(time, now).is_zero()
}

/// How long to wait until a scan cannot miss a change that has the same modification time. Not long, whatever the clocks say.
pub(super) fn wait_for(time: DirTime, now: SystemTime) -> Duration {
    let (Ok(secs), Ok(nsecs)) = (u64::try_from(time.secs), u32::try_from(time.nsecs)) else { return Duration::ZERO };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(secs, nsecs.min(999_999_999)) + TICK;
    changed.duration_since(now).unwrap_or_default().min(TICK)
}

impl ScanHeader {
    /// What a scan that began at `now` saw.
    pub fn new(new: DirTime, cur: DirTime, uidlist: Option<Stamp>, now: SystemTime) -> Self {
        let seen = Self { new: Seen::new(new, now), cur: Seen::new(cur, now), uidlist: (0, 0, 0) };
        uidlist.map_or(seen, |stamp| seen.with(stamp))
    }

    /// The bytes of the extension; `None` if they are of another size.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.get(..SIZE)?.try_into().ok()?;
        let n = |i: usize| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        let seen = |i: usize| Seen { check: n(i), mtime: n(i + 1), mtime_nsecs: n(i + 2) };
        Some(Self { new: seen(0), cur: seen(3), uidlist: (n(6), n(7), n(8)) })
    }

    /// The bytes of the extension.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        let numbers = [
            self.new.check,
            self.new.mtime,
            self.new.mtime_nsecs,
            self.cur.check,
            self.cur.mtime,
            self.cur.mtime_nsecs,
            self.uidlist.0,
            self.uidlist.1,
            self.uidlist.2,
        ];
        for (to, n) in out.chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// The same, but the uidlist is this one now.
    pub fn with(self, uidlist: Stamp) -> Self {
        Self { uidlist: (low(uidlist.mtime), low(uidlist.mtime_nsec), low_size(uidlist.size)), ..self }
    }

    /// Both saw the same modification times.
    pub fn same_times(&self, other: &Self) -> bool {
        let times = |h: &Self| (h.new.mtime, h.new.mtime_nsecs, h.cur.mtime, h.cur.mtime_nsecs, h.uidlist);
        times(self) == times(other)
    }

    /// It speaks of this uidlist.
    pub fn knows(&self, uidlist: Stamp) -> bool {
        self.uidlist == self.with(uidlist).uidlist
    }

    /// Compares it with what is on the disk now.
    pub fn compare(&self, new: DirTime, cur: DirTime, uidlist: Stamp, now: SystemTime) -> Verdict {
        if !self.knows(uidlist) {
            return Verdict::Changed;
        }
        let secs = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(secs).unwrap_or(u32::MAX);
        match (self.new.compare(new, now), self.cur.compare(cur, now)) {
            (Verdict::Changed, _) | (_, Verdict::Changed) => Verdict::Changed,
            (Verdict::Uncertain, _) | (_, Verdict::Uncertain) => Verdict::Uncertain,
            _ => Verdict::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64, nanos: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(secs, nanos)
    }

    fn stamp() -> Stamp {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").expect("writable");
        Stamp::of(&std::fs::metadata(path).expect("there"))
    }

    #[test]
    fn bytes_and_back() {
        let h = ScanHeader::new(DirTime { secs: 5, nsecs: 6 }, DirTime { secs: 7, nsecs: 8 }, Some(stamp()), at(100, 0));
        assert_eq!(ScanHeader::parse(&h.bytes()), Some(h));
        assert_eq!(ScanHeader::parse(&[0; 35]), None);
    }

    #[test]
    fn a_scan_within_the_same_tick_is_uncertain_later() {
        let s = stamp();
        let (new, cur) = (DirTime { secs: 50, nsecs: 1 }, DirTime { secs: 1000, nsecs: 500 });
        let hasty = ScanHeader::new(new, cur, Some(s), at(1000, 600));
        assert_eq!(hasty.compare(new, cur, s, at(1001, 0)), Verdict::Same);
        assert_eq!(hasty.compare(new, cur, s, at(1002, 0)), Verdict::Uncertain);
        let calm = ScanHeader::new(new, cur, Some(s), at(1000, 50_000_000));
        assert_eq!(calm.compare(new, cur, s, at(1002, 0)), Verdict::Same);
        assert_eq!(calm.compare(new, DirTime { secs: 1000, nsecs: 501 }, s, at(1002, 0)), Verdict::Changed);
        // Without fractions of seconds only Dovecot's rule helps.
        let coarse = DirTime { secs: 1000, nsecs: 0 };
        let h = ScanHeader::new(new, coarse, Some(s), at(1000, 900_000_000));
        assert_eq!(h.compare(new, coarse, s, at(1009, 0)), Verdict::Uncertain);
    }

    #[test]
    fn never_scanned_is_changed() {
        let zero = DirTime::default();
        let s = stamp();
        assert_eq!(ScanHeader::new(zero, zero, Some(s), at(9, 0)).compare(zero, zero, s, at(9, 0)), Verdict::Changed);
    }
}
