//! The state string of `-s` (wire.md 13, sync.md 8.1): what both sides had in common at the end of a run. Exchangeable with
//! Dovecot's.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::mail::{MailboxGuid, ModSeq, Uid, UidValidity};

const VERSION: [u8; 4] = [1, 0, 0, 0];
const RECORD: usize = 44;

/// What is known of one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxState {
    /// UIDVALIDITY; 0 in strings that ask for a look at everything.
    pub uidvalidity: Option<UidValidity>,
    /// Last UID that both sides had.
    pub last_common: Option<Uid>,
    /// Modseq up to which both sides' changes are exchanged.
    pub modseq: ModSeq,
    /// The same of private flags.
    pub private_modseq: ModSeq,
    /// How many mails.
    pub messages: u32,
}

/// A state: one entry per mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(pub BTreeMap<MailboxGuid, MailboxState>);

/// A string that is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    /// Not base64.
    #[error("Invalid base64 data")]
    Base64,
    /// Shorter than version and checksum.
    #[error("Input too small")]
    TooSmall,
    /// Not a whole number of records.
    #[error("Invalid input size")]
    Size,
    /// The checksum does not fit.
    #[error("CRC32 mismatch")]
    Crc,
}

impl State {
    /// Reads a state string.
    ///
    /// # Errors
    /// With Dovecot's words; the run then goes on as a full sync.
    pub fn decode(text: &str) -> Result<Self, BadState> {
        let data = STANDARD.decode(text.trim()).map_err(|_| BadState::Base64)?;
        // The empty state of version 0.
        if data == [0; 4] {
            return Ok(Self::default());
        }
        let (body, crc) = data.split_last_chunk::<4>().filter(|(b, _)| b.len() >= 4).ok_or(BadState::TooSmall)?;
        let sum_fits = crc32fast::hash(body) == u32::from_le_bytes(*crc);
        if (body.len() - 4) % RECORD != 0 {
            // Version 0 had neither a header nor the message counts: nothing of it can be used.
            return if body.len() % 40 == 0 && sum_fits { Ok(Self::default()) } else { Err(BadState::Size) };
        }
        if !sum_fits {
            return Err(BadState::Crc);
        }
        let mut state = Self::default();
        for record in body[4..].chunks_exact(RECORD) {
            let u32_at = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
            let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
            let mut guid = [0; 16];
            guid.copy_from_slice(&record[..16]);
            let Some(guid) = MailboxGuid::new(guid) else { continue };
            let entry = MailboxState {
                uidvalidity: UidValidity::new(u32_at(16)),
                last_common: Uid::new(u32_at(20)),
                modseq: ModSeq(u64_at(24)),
                private_modseq: ModSeq(u64_at(32)),
                messages: u32_at(40),
            };
            state.0.insert(guid, entry);
        }
        Ok(state)
    }

    /// Writes a state string.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = VERSION.to_vec();
        for (guid, m) in &self.0 {
            out.extend_from_slice(guid.bytes());
            out.extend_from_slice(&m.uidvalidity.map_or(0, UidValidity::get).to_le_bytes());
            out.extend_from_slice(&m.last_common.map_or(0, Uid::get).to_le_bytes());
            out.extend_from_slice(&m.modseq.0.to_le_bytes());
            out.extend_from_slice(&m.private_modseq.0.to_le_bytes());
            out.extend_from_slice(&m.messages.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        STANDARD.encode(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// sync.md 8.1, scenario state-basic.
    const LIVE: &str = "01000000637e6e21f702026bff25000083ecc375f802026b010000000200000000000000000000000000000001000000\
                        45d78007f702026bdd25000083ecc375f702026b040000000800000000000000000000000000000004000000be873b46";

    #[test]
    fn dovecots_state_is_read_and_written_alike() {
        let text = STANDARD.encode(hex::decode(LIVE).expect("hex above"));
        let state = State::decode(&text).expect("written by Dovecot");
        assert_eq!(state.0.len(), 2);
        let guid: MailboxGuid = "45d78007f702026bdd25000083ecc375".parse().expect("a GUID");
        assert_eq!(state.0[&guid].last_common, Uid::new(4));
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn an_empty_state_is_a_header() {
        assert_eq!(State::default().encode(), "AQAAAHm4+Jk=");
    }

    #[test]
    fn damage_is_told_in_dovecots_words() {
        assert_eq!(State::decode("!!"), Err(BadState::Base64));
        assert_eq!(State::decode("AQA="), Err(BadState::TooSmall));
        assert_eq!(State::decode("AQAAAHm4+JkA"), Err(BadState::Size));
        assert_eq!(State::decode("AQAAAHm4+Jg="), Err(BadState::Crc));
        assert_eq!(State::decode("AAAAAA=="), Ok(State::default()));
    }

    proptest! {
        #[test]
        fn hostile_strings_never_panic(s in "\\PC*") {
            let _ = State::decode(&s);
        }
    }
}
