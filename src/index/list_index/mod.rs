//! The mailbox list index (index.md 9): names, hierarchy and GUIDs of mailboxes as records of an index.
//!
//! With `LAYOUT=index` it is the only place of the names, and [`change`](self) creates, renames and deletes its nodes. Beside a
//! tree of directories it is a cache of Dovecot's, which is only told that something has changed.
//!
//! Every change is one transaction under the log's lock. A kill leaves the state before it.

mod change;
mod names;

use std::collections::HashMap;

use super::error::{Damage, DamageClass, Result};
use super::{Bits, Created, Durability, ExtSpec, Files, Index, Options, Transaction};
use crate::mail::{MailboxGuid, Timestamp, Uid, UidValidity};

pub use change::NodeError;
use names::NameTable;

const LIST: &str = "list";
const RECORD: usize = 28;

/// Bits of a record's flags byte (index.md 9.2).
mod flag {
    /// Seen in this scan: nodes of `LAYOUT=index` are written with it.
    pub const MARKED: u8 = 0x02;
    pub const NONEXISTENT: u8 = 0x04;
    pub const NOSELECT: u8 = 0x10;
}

/// A mailbox or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The number of its record.
    pub uid: Uid,
    /// The record above it.
    pub parent: Option<Uid>,
    /// One level of its storage name.
    pub name: Vec<u8>,
    /// The mailbox; none for a directory.
    pub guid: Option<MailboxGuid>,
    /// Its UIDVALIDITY as far as the list knows.
    pub uidvalidity: Option<UidValidity>,
    /// It can be selected.
    pub selectable: bool,
}

/// An opened list index.
#[derive(Debug)]
pub struct ListIndex {
    index: Index,
}

impl ListIndex {
    /// Opens it; `None` when there is none.
    ///
    /// # Errors
    /// Damage, I/O.
    pub fn open(files: Files, options: Options) -> Result<Option<Self>> {
        match Index::open(files, options) {
            Ok(index) => Ok(Some(Self { index })),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens it, or makes an empty one. The directory must be there.
    ///
    /// # Errors
    /// Damage, I/O.
    pub fn open_or_create(files: Files, options: Options) -> Result<Self> {
        if let Some(found) = Self::open(files.clone(), options.clone())? {
            return Ok(found);
        }
        let mut first = Transaction::new(Bits::EXTERNAL);
        first.uid_validity(UidValidity::new(Timestamp::now().0.max(1)).unwrap_or(FIRST_VALIDITY));
        first.ext_header(ExtSpec::new(LIST, 1, RECORD as u16, 4), 0, &[1]);
        first.storage_is_synced();
        let index = match Index::create(files, options, &[first])? {
            Created::New(index) | Created::Found(index) => index,
        };
        Ok(Self { index })
    }

    /// Takes in what others have written since.
    ///
    /// # Errors
    /// Damage, I/O.
    pub fn refresh(&mut self) -> Result<()> {
        self.index.refresh().map(|_| ())
    }

    /// See [`Index::cut_off_rest`].
    ///
    /// # Errors
    /// As that one.
    pub fn cut_off_rest(&mut self) -> Result<()> {
        self.index.cut_off_rest()
    }

    /// All nodes, parents before their children.
    ///
    /// # Errors
    /// Damage: names or parents that are not there, a loop.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        read(&self.index)
    }

    /// The storage name of every node, its levels joined with `separator`.
    ///
    /// # Errors
    /// As [`ListIndex::nodes`].
    pub fn paths(&self, separator: char) -> Result<Vec<(Vec<u8>, Node)>> {
        let mut by_uid: HashMap<Uid, Vec<u8>> = HashMap::new();
        let mut out = Vec::new();
        for node in self.nodes()? {
            let mut path = node.parent.and_then(|p| by_uid.get(&p)).cloned().unwrap_or_default();
            if !path.is_empty() {
                path.push(separator as u8);
            }
            path.extend_from_slice(&node.name);
            by_uid.insert(node.uid, path.clone());
            out.push((path, node));
        }
        Ok(out)
    }

    /// Makes every process compare the list with the directories before it trusts the list again (9.5).
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn request_refresh(&mut self) -> Result<()> {
        let mut locked = self.index.lock()?;
        let Some(ext) = locked.state().ext(LIST) else { return Ok(()) };
        let header = locked.state().ext_header(ext);
        if header.first().is_none_or(|&f| f != 0) {
            return Ok(());
        }
        let spec = ExtSpec::new(LIST, u32::try_from(header.len()).unwrap_or(u32::MAX), RECORD as u16, 4);
        let mut t = Transaction::new(Bits::EXTERNAL);
        t.ext_header(spec, 0, &[1]);
        t.storage_is_synced();
        locked.commit(&t, Durability::Lazy).map(|_| ())
    }
}

const FIRST_VALIDITY: UidValidity = match UidValidity::new(1) {
    Some(one) => one,
    None => unreachable!(),
};

fn damage(index: &Index, what: impl Into<String>) -> super::Error {
    Damage::new(DamageClass::LogCorrupt, &index.files().log(), 0, what).into()
}

fn read(index: &Index) -> Result<Vec<Node>> {
    let state = index.state();
    let Some(ext) = state.ext(LIST) else { return Ok(Vec::new()) };
    let names = NameTable::parse(state.ext_header(ext)).map_err(|what| damage(index, what))?;
    let mut nodes: Vec<Node> = Vec::with_capacity(state.len());
    for row in 0..state.len() {
        let uid = state.uid(row);
        let record = state.ext_record(ext, row);
        let Some((guid, numbers)) = fields(record) else {
            return Err(damage(index, format!("list record of node {uid} has {} bytes", record.len())));
        };
        let [name_id, parent, uidvalidity] = numbers;
        let Some(name) = names.get(name_id) else {
            return Err(damage(index, format!("node {uid} has no name (name id {name_id})")));
        };
        let raw = state.raw_flags(row);
        nodes.push(Node {
            uid,
            parent: Uid::new(parent),
            name: name.to_vec(),
            guid: MailboxGuid::new(guid),
            uidvalidity: UidValidity::new(uidvalidity),
            selectable: raw & (flag::NONEXISTENT | flag::NOSELECT) == 0,
        });
    }
    in_order(nodes).map_err(|what| damage(index, what))
}

/// GUID; name id, parent, UIDVALIDITY.
fn fields(record: &[u8]) -> Option<([u8; 16], [u32; 3])> {
    let (head, rest) = record.split_first_chunk::<8>()?;
    let (guid, rest) = rest.split_first_chunk::<16>()?;
    let (last, _) = rest.split_first_chunk::<4>()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    Some((*guid, [number(0), number(4), u32::from_le_bytes(*last)]))
}

fn record(name_id: u32, parent: Option<Uid>, guid: Option<MailboxGuid>, uidvalidity: Option<UidValidity>) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..4].copy_from_slice(&name_id.to_le_bytes());
    out[4..8].copy_from_slice(&parent.map_or(0, Uid::get).to_le_bytes());
    if let Some(guid) = guid {
        out[8..24].copy_from_slice(guid.bytes());
    }
    out[24..].copy_from_slice(&uidvalidity.map_or(0, UidValidity::get).to_le_bytes());
    out
}

/// Parents before children. A rename may have put an older record below a newer one.
fn in_order(nodes: Vec<Node>) -> std::result::Result<Vec<Node>, String> {
    let total = nodes.len();
    let mut waiting: HashMap<Option<Uid>, Vec<Node>> = HashMap::new();
    for node in nodes {
        waiting.entry(node.parent).or_default().push(node);
    }
    let mut out: Vec<Node> = Vec::with_capacity(total);
    let mut parents = vec![None];
    while let Some(parent) = parents.pop() {
        for node in waiting.remove(&parent).unwrap_or_default() {
            parents.push(Some(node.uid));
            out.push(node);
        }
    }
    match waiting.into_values().flatten().next() {
        Some(node) => Err(format!("node {} is in a loop or below a node that is not there", node.uid)),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests;
