//! How much memory an item takes while it is kept.

use std::mem::size_of;

use super::item::{AttributeItem, Change, Deletes, Item, Removed, StateItem, TreeNode};

/// What a piece of memory takes with its administration.
#[must_use]
pub const fn of_memory(len: usize) -> usize {
    if len == 0 { 0 } else { (len + 8).next_multiple_of(16) + 16 }
}

fn of_octets(octets: Option<&Vec<u8>>) -> usize {
    octets.map_or(0, |o| of_memory(o.len()))
}

/// A list in one value, once it is taken apart.
fn of_list(octets: Option<&Vec<u8>>) -> usize {
    let elements = |o: &Vec<u8>| 1 + memchr::memchr_iter(b'\t', o).count();
    octets.map_or(0, |o| of_memory(o.len()) + 64 * elements(o))
}

impl Item {
    /// The octets of memory that it takes, estimated; nothing for what is never kept.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::State(_) => 2 * size_of::<StateItem>(),
            Self::Node(node) => {
                let levels = node.name.iter().map(|l| size_of::<Vec<u8>>() + of_memory(l.len()));
                size_of::<TreeNode>() + levels.sum::<usize>()
            }
            Self::Deletes(d) => size_of::<Deletes>() + size_of::<Removed>() * d.removed(),
            Self::Attribute(a) => size_of::<AttributeItem>() + of_memory(a.key.len()) + of_octets(a.value.as_ref()),
            Self::Change(c) => {
                let identity = of_octets(c.guid.as_ref()) + of_octets(c.hdr_hash.as_ref());
                size_of::<Change>() + identity + of_list(c.keywords.as_ref())
            }
            _ => 0,
        }
    }
}

impl Deletes {
    fn removed(&self) -> usize {
        [&self.mailboxes, &self.directories, &self.unsubscribes].into_iter().flatten().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ChangeType, text};

    /// A mail as an honest Dovecot tells it.
    fn mail(keywords: usize) -> Item {
        let keywords: Vec<String> = (0..keywords).map(|n| format!("=$Keyword-{n}")).collect();
        Item::Change(Change {
            kind: ChangeType::Save,
            uid: 1_000_000,
            guid: Some(vec![b'f'; 32]),
            hdr_hash: Some(vec![b'f'; 32]),
            modseq: 1,
            private_modseq: 0,
            add_flags: 0,
            remove_flags: 0,
            final_flags: 8,
            keywords_reset: false,
            keywords: (!keywords.is_empty()).then(|| text::join_list(keywords)),
            received: Some(1),
            virtual_size: Some(1),
        })
    }

    #[test]
    fn mailboxes_take_little() {
        let name = ["Archive", "Lists", "A rather long name of a mailbox"].map(|l| l.as_bytes().to_vec()).to_vec();
        let node = TreeNode {
            name,
            existence: crate::wire::NodeExistence::Exists,
            guid: None,
            uidvalidity: 1,
            uid_next: 1,
            renamed: None,
            subscribed: true,
            subscription_changed: None,
        };
        let weight = Item::Node(Box::new(node)).weight();
        assert!((200..400).contains(&weight), "{weight}");
    }

    #[test]
    fn honest_mails_take_less_than_a_kilobyte() {
        assert!((150..350).contains(&mail(0).weight()), "{}", mail(0).weight());
        assert!(mail(3).weight() < 600, "{}", mail(3).weight());
        assert!(mail(8).weight() < 1024, "{}", mail(8).weight());
    }
}
