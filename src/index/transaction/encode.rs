//! A transaction as the bytes of one write.

use std::collections::HashMap;

use super::{ExtOps, Group, Transaction};
use crate::index::log::{Append, Bits, FlagRange, GuidExpunge, Intro, Range, Write, kind, put};
use crate::index::state::{Field, State};

/// What an introduction has to say about an extension at this point of the log.
struct Known {
    id: u32,
    reset_id: u32,
    hdr_size: u32,
    record_size: u16,
    record_align: u16,
}

/// The extensions as they will be at the point of the log that is being encoded (index.md 3.6).
struct Extensions {
    by_name: HashMap<Box<str>, Known>,
}

impl Extensions {
    fn of(state: &State) -> Self {
        let by_name = state.extensions.iter().zip(0..).map(|(e, id)| {
            let known = Known {
                id,
                reset_id: e.reset_id,
                hdr_size: u32::try_from(e.header.len()).unwrap_or(u32::MAX),
                record_size: e.record_size,
                record_align: e.record_align,
            };
            (e.name.clone(), known)
        });
        Self { by_name: by_name.collect() }
    }

    fn next_id(&self) -> u32 {
        u32::try_from(self.by_name.len()).unwrap_or(u32::MAX)
    }

    /// The first keyword update ever creates the extension without saying so.
    fn keyword_used(&mut self) {
        let id = self.next_id();
        let new = Known { id, reset_id: 0, hdr_size: 0, record_size: 0, record_align: 1 };
        self.by_name.entry("keywords".into()).or_insert(new);
    }

    /// Writes the introduction of an extension.
    fn introduce(&mut self, out: &mut Vec<u8>, bits: Bits, ext: &ExtOps) {
        let spec = &ext.spec;
        let id = self.next_id();
        let mut by_name = false;
        let known = self.by_name.entry(spec.name.into()).or_insert_with(|| {
            by_name = true;
            let (record_size, record_align) = (spec.record_size, spec.record_align);
            Known { id, reset_id: 0, hdr_size: spec.hdr_size, record_size, record_align }
        });
        known.hdr_size = if spec.exact { spec.hdr_size } else { known.hdr_size.max(spec.hdr_size) };
        known.record_size = known.record_size.max(spec.record_size);
        let record_size = if ext.record_len == 0 { known.record_size } else { narrow(ext.record_len) };
        let intro = Intro {
            id: if by_name { Intro::BY_NAME } else { known.id },
            reset_id: known.reset_id,
            hdr_size: known.hdr_size,
            record_size,
            record_align: if known.record_align == 0 { spec.record_align } else { known.record_align },
            keep: !spec.exact,
            name: if by_name { spec.name.as_bytes() } else { b"" },
        };
        put::record(out, kind::EXT_INTRO, bits, |out| put::intro(out, intro));
    }
}

fn narrow(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// The bytes that carry out `transaction` at the end of the log that `state` knows; empty when there is nothing to do.
///
/// # Errors
/// What does not fit the state.
pub(in crate::index) fn encode(transaction: &Transaction, state: &State) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(transaction.size + 64);
    let sync = transaction.groups.iter().any(|g| g.bits.sync);
    put::boundary(&mut out, sync, 0);
    let boundary = out.len();
    let mut exts = Extensions::of(state);
    let mut records = 0;
    for group in &transaction.groups {
        check(group, state)?;
        records += self::group(&mut out, group, state, &mut exts);
    }
    match records {
        0 => out.clear(),
        1 => drop(out.drain(..boundary)),
        _ => {
            let size = u32::try_from(out.len()).ok().filter(|&n| n < 1 << 30).ok_or("transaction of 1 GiB")?;
            out[8..12].copy_from_slice(&size.to_le_bytes());
        }
    }
    if transaction.tail {
        tail(&mut out, state)?;
    }
    Ok(out)
}

/// The tail update: outside the boundary, itself included.
fn tail(out: &mut Vec<u8>, state: &State) -> Result<(), String> {
    const SIZE: usize = 16;
    // External records alone move the tail without being told (index.md 3.8).
    if out.is_empty() && state.is_synced() {
        return Ok(());
    }
    let end = u64::from(state.position.offset) + (out.len() + SIZE) as u64;
    let end = u32::try_from(end).map_err(|_| "log beyond 4 GiB")?;
    let data = end.to_le_bytes();
    let write = Write { offset: u32::from(Field::LOG_TAIL.0), data: &data };
    put::record(out, kind::HEADER_UPDATE, Bits::EXTERNAL, |out| put::write(out, write, false));
    Ok(())
}

/// Refuses what a reader would call damage.
fn check(group: &Group, state: &State) -> Result<(), String> {
    if group.keywords.iter().any(|k| k.keyword.as_str().is_empty() || k.keyword.as_str().contains('\0')) {
        return Err("empty keyword".into());
    }
    if group.expunges.iter().any(|e| e.0 == 0) {
        return Err("expunge of UID 0".into());
    }
    for ext in &group.exts {
        if ext.records.iter().enumerate().any(|(i, r)| r.1 != i * ext.record_len) {
            return Err(format!("extension {}: records of several lengths", ext.spec.name));
        }
        if ext.record_len >= 1 << 15 {
            return Err(format!("extension {}: records of {} bytes", ext.spec.name, ext.record_len));
        }
    }
    let sizes = group.headers.iter().chain(&group.late_headers);
    if let Some((at, bytes)) = sizes.clone().find(|(at, b)| usize::from(*at) + b.len() > state.base.bytes().len()) {
        return Err(format!("header update of {} bytes at {at}", bytes.len()));
    }
    Ok(())
}

/// Writes a group's records and says how many there are.
fn group(out: &mut Vec<u8>, group: &Group, state: &State, exts: &mut Extensions) -> usize {
    let mut records = 0;
    let bits = group.bits;
    let mut put = |out: &mut Vec<u8>, kind: u32, bits: Bits, fill: &mut dyn FnMut(&mut Vec<u8>)| {
        let before = out.len();
        put::record(out, kind, bits, |out| fill(out));
        records += usize::from(out.len() > before);
    };
    let mut intros = 0;

    if group.undelete {
        put(out, kind::INDEX_UNDELETED, bits, &mut |out| out.extend_from_slice(&[0; 4]));
    }
    for ext in &group.exts {
        let is_new = !exts.by_name.contains_key(ext.spec.name);
        let switch_on = ext.spec.name == "modseq" && is_new;
        let bare = ext.headers.is_empty() && ext.reset.is_none();
        let only_intro = bare && is_new && ext.records.is_empty() && ext.incs.is_empty();
        if bare && !only_intro && !switch_on {
            continue;
        }
        exts.introduce(out, bits, ext);
        intros += 1;
        if let Some((id, preserve)) = ext.reset {
            put(out, kind::EXT_RESET, bits, &mut |out| {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&[u8::from(preserve), 0, 0, 0]);
            });
            if let Some(known) = exts.by_name.get_mut(ext.spec.name) {
                known.reset_id = id;
            }
        }
        if switch_on {
            // All mails that are there get the counter's value (index.md 3.7).
            let mut header = [0; 16];
            header[..8].copy_from_slice(&state.counter.max(1).to_le_bytes());
            put(out, kind::EXT_HDR_UPDATE, bits, &mut |out| put::write(out, Write { offset: 0, data: &header }, false));
        }
        let wide = ext.headers.iter().any(|(at, b)| u64::from(*at) + b.len() as u64 >= 1 << 16);
        let kind = if wide { kind::EXT_HDR_UPDATE32 } else { kind::EXT_HDR_UPDATE };
        put(out, kind, bits, &mut |out| {
            for (offset, data) in &ext.headers {
                put::write(out, Write { offset: *offset, data }, wide);
            }
        });
    }
    let headers = |out: &mut Vec<u8>, list: &[(u16, Vec<u8>)]| {
        for (offset, data) in list {
            put::write(out, Write { offset: u32::from(*offset), data }, false);
        }
    };
    put(out, kind::HEADER_UPDATE, bits, &mut |out| headers(out, &group.headers));
    put(out, kind::ATTRIBUTE_UPDATE, bits, &mut |out| attributes(out, group));

    let mut appends = group.appends.clone();
    appends.sort_by_key(|a| a.0);
    put(out, kind::APPEND, bits, &mut |out| {
        appends.iter().for_each(|&(uid, flags)| put::append(out, Append { uid, flags }));
    });
    put(out, kind::FLAG_UPDATE, bits, &mut |out| flag_ranges(&group.flags).for_each(|r| put::flags(out, r)));
    for ext in group.exts.iter().filter(|e| !e.records.is_empty()) {
        exts.introduce(out, bits, ext);
        intros += 1;
        let mut order = ext.records.clone();
        order.sort_by_key(|r| r.0);
        put(out, kind::EXT_REC_UPDATE, bits, &mut |out| {
            for &(uid, at) in &order {
                let start = out.len();
                out.extend_from_slice(&uid.to_le_bytes());
                out.extend_from_slice(&ext.data[at..at + ext.record_len]);
                put::pad(out, start);
            }
        });
    }
    for ext in group.exts.iter().filter(|e| !e.incs.is_empty()) {
        exts.introduce(out, bits, ext);
        intros += 1;
        put(out, kind::EXT_ATOMIC_INC, bits, &mut |out| ext.incs.iter().for_each(|&(uid, by)| put::inc(out, uid, by)));
    }
    for list in &group.keywords {
        exts.keyword_used();
        put(out, kind::KEYWORD_UPDATE, bits, &mut |out| {
            put::keyword(out, list.add, list.keyword.as_str().as_bytes());
            ranges(&list.uids).for_each(|r| put::range(out, r));
        });
    }
    put(out, kind::MODSEQ_UPDATE, bits, &mut |out| {
        group.modseqs.iter().for_each(|&(uid, modseq)| put::modseq(out, uid, modseq));
    });
    let mut expunges = group.expunges.clone();
    expunges.sort_by_key(|e| e.0);
    put(out, kind::EXPUNGE_GUID | kind::EXPUNGE_PROTECTION, bits, &mut |out| {
        expunges.iter().for_each(|&(uid, guid)| put::expunge(out, GuidExpunge { uid, guid }));
    });
    put(out, kind::HEADER_UPDATE, bits, &mut |out| headers(out, &group.late_headers));
    if group.delete {
        put(out, kind::INDEX_DELETED, bits, &mut |out| out.extend_from_slice(&[0; 4]));
    }
    records + intros
}

fn attributes(out: &mut Vec<u8>, group: &Group) {
    if group.attributes.is_empty() {
        return;
    }
    let start = out.len();
    for (removed, private, key, _, _) in &group.attributes {
        out.push(if *removed { b'-' } else { b'+' });
        out.push(if *private { b'p' } else { b's' });
        out.extend_from_slice(key);
        out.push(0);
    }
    out.push(0);
    put::pad(out, start);
    for (removed, _, _, time, size) in &group.attributes {
        out.extend_from_slice(&time.to_le_bytes());
        if !removed {
            out.extend_from_slice(&size.to_le_bytes());
        }
    }
}

/// UIDs in any order as ranges of neighbours.
fn ranges(uids: &[u32]) -> impl Iterator<Item = Range> {
    let mut uids = uids.to_vec();
    uids.sort_unstable();
    uids.dedup();
    let mut out: Vec<Range> = Vec::new();
    for uid in uids {
        match out.last_mut() {
            Some(r) if r.last + 1 == uid => r.last = uid,
            _ => out.push(Range { first: uid, last: uid }),
        }
    }
    out.into_iter()
}

/// Flag changes in any order as ranges of neighbours with the same change. Of several changes of one mail the later ones
/// override the earlier ones bit by bit.
fn flag_ranges(flags: &[(u32, u8, u8)]) -> impl Iterator<Item = FlagRange> {
    let mut flags = flags.to_vec();
    flags.sort_by_key(|f| f.0);
    flags.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 = kept.1 & !later.2 | later.1;
            kept.2 = kept.2 & !later.1 | later.2;
        }
        same
    });
    let mut out: Vec<FlagRange> = Vec::new();
    for (uid, add, remove) in flags {
        match out.last_mut() {
            Some(r) if r.uids.last + 1 == uid && (r.add, r.remove) == (add, remove) => r.uids.last = uid,
            _ => out.push(FlagRange { uids: Range { first: uid, last: uid }, add, remove, modseq_inc: false }),
        }
    }
    out.into_iter()
}
