//! Changes to an index, collected in any order and written as one transaction of log records (spec: index.md 3.5).
//!
//! A transaction knows no ids of extensions and no offsets: those are found when it is encoded against the state at the end
//! of the log, under the log's lock.

mod encode;

use crate::mail::{Flags, Guid128, Keyword, ModSeq, Uid, UidValidity};

use super::log::Bits;
use super::state::Field;

pub(super) use encode::encode;

/// An extension that a transaction writes to. It is introduced where the index does not have it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtSpec {
    /// Its name (index.md 2.9).
    pub name: &'static str,
    /// Bytes of header data. A larger header that is there stays, unless `exact`.
    pub hdr_size: u32,
    /// Bytes for each mail.
    pub record_size: u16,
    /// Alignment of these.
    pub record_align: u16,
    /// The header gets exactly this size, even if it was larger (list index, index.md 9.3).
    pub exact: bool,
}

impl ExtSpec {
    /// Modseqs of single mails (index.md 3.7).
    pub const MODSEQ: Self = Self::new("modseq", 16, 8, 8);
    /// Offsets in the cache file (index.md 8).
    pub const CACHE: Self = Self::new("cache", 0, 4, 4);
    /// The highest UID that has a stored POP3 UIDL (index.md 5).
    pub const HDR_POP3_UIDL: Self = Self::header("hdr-pop3-uidl", 4);
    /// Sums of virtual sizes (index.md 5).
    pub const HDR_VSIZE: Self = Self::header("hdr-vsize", 16);

    /// An extension with a header and a record for each mail.
    #[must_use]
    pub const fn new(name: &'static str, hdr_size: u32, record_size: u16, record_align: u16) -> Self {
        Self { name, hdr_size, record_size, record_align, exact: false }
    }

    /// An extension that has only a header.
    #[must_use]
    pub const fn header(name: &'static str, hdr_size: u32) -> Self {
        Self::new(name, hdr_size, 0, 0)
    }
}

/// What is done to one extension.
#[derive(Debug, Clone)]
struct ExtOps {
    spec: ExtSpec,
    /// Introduced even if nothing is written to it.
    reset: Option<(u32, bool)>,
    headers: Vec<(u32, Vec<u8>)>,
    // UID and where its data stands in `data`.
    records: Vec<(u32, usize)>,
    data: Vec<u8>,
    record_len: usize,
    incs: Vec<(u32, i32)>,
}

#[derive(Debug, Clone)]
struct KeywordOps {
    keyword: Keyword,
    add: bool,
    uids: Vec<u32>,
}

/// The records of one kind ([`Bits`]).
#[derive(Debug, Clone)]
struct Group {
    bits: Bits,
    undelete: bool,
    headers: Vec<(u16, Vec<u8>)>,
    late_headers: Vec<(u16, Vec<u8>)>,
    attributes: Vec<(bool, bool, Vec<u8>, u32, u32)>,
    appends: Vec<(u32, u8)>,
    flags: Vec<(u32, u8, u8)>,
    exts: Vec<ExtOps>,
    keywords: Vec<KeywordOps>,
    modseqs: Vec<(u32, u64)>,
    expunges: Vec<(u32, Guid128)>,
    delete: bool,
}

impl Group {
    const fn new(bits: Bits) -> Self {
        Self {
            bits,
            undelete: false,
            headers: Vec::new(),
            late_headers: Vec::new(),
            attributes: Vec::new(),
            appends: Vec::new(),
            flags: Vec::new(),
            exts: Vec::new(),
            keywords: Vec::new(),
            modseqs: Vec::new(),
            expunges: Vec::new(),
            delete: false,
        }
    }
}

/// Changes that become visible together. Built without any lock, written by [`Locked::commit`](super::Locked::commit).
///
/// Within the records of one [`Bits`] the order is that of index.md 3.5, whatever the order of the calls; UIDs may come in
/// any order. An empty transaction writes nothing.
#[derive(Debug, Clone)]
pub struct Transaction {
    groups: Vec<Group>,
    tail: bool,
    size: usize,
}

impl Transaction {
    /// A write of up to this size is practically never torn (index.md 3.11). See [`Transaction::size_hint`].
    pub const ADVISED_SIZE: usize = 60 * 1024;

    /// An empty transaction whose records are of this kind.
    #[must_use]
    pub fn new(bits: Bits) -> Self {
        Self { groups: vec![Group::new(bits)], tail: false, size: 12 }
    }

    /// The records that follow are of another kind, and stand behind those so far.
    pub fn set_bits(&mut self, bits: Bits) {
        if self.group().bits != bits {
            self.groups.push(Group::new(bits));
        }
    }

    fn group(&mut self) -> &mut Group {
        if self.groups.is_empty() {
            self.groups.push(Group::new(Bits::EXTERNAL));
        }
        self.groups.last_mut().expect("one was pushed if there was none")
    }

    /// About how many bytes it will take in the log. Commit and begin anew when it exceeds [`Transaction::ADVISED_SIZE`].
    #[must_use]
    pub const fn size_hint(&self) -> usize {
        self.size
    }

    /// Nothing will be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 12 && !self.tail
    }

    /// A new mail with its flags byte (0x40 and 0x80 as in index.md 2.4).
    pub fn append(&mut self, uid: Uid, raw_flags: u8) {
        self.group().appends.push((uid.get(), raw_flags));
        self.size += 8;
    }

    /// Adds and removes system flags of a mail.
    pub fn flags(&mut self, uid: Uid, add: Flags, remove: Flags) {
        self.raw_flags(uid, add.bits(), remove.bits());
    }

    /// Adds and removes bits of the flags byte. Bits that are not system flags do not change the modseq.
    pub fn raw_flags(&mut self, uid: Uid, add: u8, remove: u8) {
        self.group().flags.push((uid.get(), add, remove & !add));
        self.size += 12;
    }

    /// Adds or removes a keyword of a mail. All mails of one keyword and direction become one record.
    pub fn keyword(&mut self, uid: Uid, keyword: &Keyword, add: bool) {
        let lists = &mut self.group().keywords;
        match lists.iter_mut().find(|l| l.add == add && l.keyword == *keyword) {
            Some(list) => list.uids.push(uid.get()),
            None => lists.push(KeywordOps { keyword: keyword.clone(), add, uids: vec![uid.get()] }),
        }
        self.size += 8;
    }

    /// Adds all these keywords to a mail.
    pub fn keywords(&mut self, uid: Uid, keywords: &crate::mail::Keywords) {
        for keyword in keywords {
            self.keyword(uid, keyword, true);
        }
    }

    /// The mail gets at least this modseq; so does the mailbox.
    pub fn modseq(&mut self, uid: Uid, modseq: ModSeq) {
        self.group().modseqs.push((uid.get(), modseq.0));
        self.size += 12;
    }

    /// The mailbox gets at least this highest modseq.
    pub fn raise_modseq(&mut self, modseq: ModSeq) {
        self.group().modseqs.push((0, modseq.0));
        self.size += 12;
    }

    /// External: the mail is gone. Internal: it is to be removed by the next storage sync.
    pub fn expunge(&mut self, uid: Uid, guid: Guid128) {
        self.group().expunges.push((uid.get(), guid));
        self.size += 20;
    }

    /// Writes into the base header in front of the mails' records.
    pub fn header(&mut self, field: Field, bytes: &[u8]) {
        self.group().headers.push((field.0, bytes.to_vec()));
        self.size += 8 + bytes.len();
    }

    /// Sets UIDVALIDITY.
    pub fn uid_validity(&mut self, value: UidValidity) {
        self.header(Field::UID_VALIDITY, &value.get().to_le_bytes());
    }

    /// Raises UIDNEXT. Appends do so by themselves.
    pub fn next_uid(&mut self, uid: Uid) {
        self.late_header(Field::NEXT_UID, &uid.get().to_le_bytes());
    }

    /// Sets the first \Recent UID.
    pub fn first_recent(&mut self, uid: Uid) {
        self.late_header(Field::FIRST_RECENT_UID, &uid.get().to_le_bytes());
    }

    /// Writes into the base header behind the mails' records.
    pub fn late_header(&mut self, field: Field, bytes: &[u8]) {
        self.group().late_headers.push((field.0, bytes.to_vec()));
        self.size += 8 + bytes.len();
    }

    fn ext(&mut self, spec: ExtSpec) -> &mut ExtOps {
        let group = self.groups.last_mut().expect("there is always one");
        let exts = &mut group.exts;
        let at = match exts.iter().position(|e| e.spec.name == spec.name) {
            Some(at) => at,
            None => {
                self.size += 60;
                exts.push(ExtOps {
                    spec,
                    reset: None,
                    headers: Vec::new(),
                    records: Vec::new(),
                    data: Vec::new(),
                    record_len: 0,
                    incs: Vec::new(),
                });
                exts.len() - 1
            }
        };
        &mut exts[at]
    }

    /// Introduces an extension, even if nothing is written to it.
    pub fn introduce(&mut self, spec: ExtSpec) {
        self.ext(spec);
    }

    /// Writes into the header of an extension.
    pub fn ext_header(&mut self, spec: ExtSpec, offset: u32, bytes: &[u8]) {
        self.ext(spec).headers.push((offset, bytes.to_vec()));
        self.size += 8 + bytes.len();
    }

    /// Writes a mail's data of an extension. All the data of one extension must be of one length.
    pub fn ext_record(&mut self, spec: ExtSpec, uid: Uid, bytes: &[u8]) {
        let ext = self.ext(spec);
        ext.record_len = ext.record_len.max(bytes.len());
        ext.records.push((uid.get(), ext.data.len()));
        ext.data.extend_from_slice(bytes);
        self.size += 7 + bytes.len();
    }

    /// Adds to the number that an extension has for a mail.
    pub fn ext_increment(&mut self, spec: ExtSpec, uid: Uid, by: i32) {
        self.ext(spec).incs.push((uid.get(), by));
        self.size += 8;
    }

    /// Gives an extension another reset id; all its data becomes zero unless it is preserved.
    pub fn ext_reset(&mut self, spec: ExtSpec, reset_id: u32, preserve: bool) {
        self.ext(spec).reset = Some((reset_id, preserve));
        self.size += 16;
    }

    /// Starts keeping a modseq for each mail (index.md 3.7). Does nothing to an index that keeps them already. To be
    /// given in a transaction of its own, of [`Bits::INTERNAL`].
    pub fn keep_modseqs(&mut self) {
        self.introduce(ExtSpec::MODSEQ);
    }

    /// An attribute was set or removed; `time` is when, `size` that of its value.
    pub fn attribute(&mut self, private: bool, key: &str, removed: bool, time: u32, size: u32) {
        self.group().attributes.push((removed, private, key.as_bytes().to_vec(), time, size));
        self.size += 20 + key.len();
    }

    /// The mailbox is being deleted (internal), or was (external).
    pub fn mark_deleted(&mut self) {
        self.group().delete = true;
        self.size += 12;
    }

    /// Takes the mark of a deletion back.
    pub fn mark_undeleted(&mut self) {
        self.group().undelete = true;
        self.size += 12;
    }

    /// The storage has carried out all that was requested up to the end of this transaction, which it includes
    /// (index.md 3.8): only to be called by those who did. Writes nothing if the tail is there already.
    pub fn storage_is_synced(&mut self) {
        self.tail = true;
    }
}
