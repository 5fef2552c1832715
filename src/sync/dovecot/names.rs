//! The own tree as items, and the other side's items as a tree (wire.md 3.2, 6.3; sync.md 3.6, 3.7).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Version;
use crate::mail::{
    Class, Deletion, DeletionKey, Error, Existence, Identity, MailboxGuid, MailboxName, NameHash, NameRules, NamespaceRules,
    Node, Result, Timestamp, Tree, Uid, UidValidity,
};
use crate::sync::Mode;
use crate::sync::tree::{TreeOptions, takes_part};
use crate::wire::{Deletes, NodeExistence, TreeNode};

/// The nodes to be told, parents first. A name that cannot be read here is told as the other side has it, so that nothing
/// happens to it there.
pub(super) fn nodes(own: &Tree, peer: Option<&[TreeNode]>, options: &TreeOptions, version: Version) -> Vec<TreeNode> {
    let mut out: BTreeMap<Vec<Vec<u8>>, TreeNode> = BTreeMap::new();
    let levels = |name: &MailboxName| name.levels().iter().map(|l| l.clone().into_bytes()).collect::<Vec<_>>();
    for (node, part) in own.nodes.iter().zip(takes_part(own, options)) {
        let name = levels(&node.name);
        if node.existence == Existence::Unreadable {
            out.extend(peer.into_iter().flatten().find(|p| p.name == name).map(|p| (name, p.clone())));
            continue;
        }
        let time = |t: Timestamp| (t.0 > 0).then_some(i64::from(t.0));
        let there = part.mailbox && node.existence == Existence::Exists;
        let subscribed = node.subscribed && part.subscription;
        let subscription_changed = time(node.subscription_changed).filter(|_| part.subscription);
        if !there && !subscribed && subscription_changed.is_none() {
            continue;
        }
        let identity = node.identity.filter(|_| there);
        let wire = TreeNode {
            name: name.clone(),
            existence: if there { NodeExistence::Exists } else { NodeExistence::Nonexistent },
            guid: identity.map(|i| i.guid),
            uidvalidity: identity.map_or(0, |i| i.uidvalidity.get()),
            uid_next: identity.map_or(0, |i| i.uid_next.get()),
            renamed: time(node.renamed),
            subscribed,
            subscription_changed,
        };
        out.insert(name, wire);
    }
    for (name, _) in &own.problems {
        let name = levels(name);
        if !out.contains_key(&name) {
            out.extend(peer.into_iter().flatten().find(|p| p.name == name).map(|p| (name, p.clone())));
        }
    }
    // A parent comes with its children where there are directories, and must not become a mailbox where there are none. One
    // without children is only told where it stays what it is. One way what it becomes is of no matter to us.
    let one_way = matches!(options.mode, Mode::OneWay(_)) && options.mode.is_source(options.side);
    let parents: HashSet<Vec<Vec<u8>>> = out.keys().flat_map(|n| (1..n.len()).map(|e| n[..e].to_vec())).collect();
    for (name, node) in &mut out {
        if node.guid.is_none() && (version == Version::V24 || parents.contains(name) && !one_way) {
            node.existence = NodeExistence::Nonexistent;
        }
    }
    let told = |n: &TreeNode| n.existence == NodeExistence::Exists || n.subscribed || n.subscription_changed.is_some();
    out.retain(|name, n| told(n) || parents.contains(name));
    let missing: BTreeSet<Vec<Vec<u8>>> =
        out.keys().flat_map(|n| (1..n.len()).map(|e| n[..e].to_vec())).filter(|n| !out.contains_key(n)).collect();
    out.extend(missing.into_iter().map(|name| (name.clone(), placeholder(name))));
    out.into_values().collect()
}

/// A name without a mailbox.
fn placeholder(name: Vec<Vec<u8>>) -> TreeNode {
    TreeNode {
        name,
        existence: NodeExistence::Nonexistent,
        guid: None,
        uidvalidity: 0,
        uid_next: 0,
        renamed: None,
        subscribed: false,
        subscription_changed: None,
    }
}

/// INBOX is told as the other side has it, so that nothing happens to it there.
pub(super) fn take_inbox(nodes: &mut Vec<TreeNode>, theirs: &[TreeNode]) {
    let is_inbox = |n: &&TreeNode| n.name == [b"INBOX".to_vec()];
    if let Some(inbox) = theirs.iter().find(is_inbox) {
        nodes.retain(|n| !is_inbox(&n));
        nodes.push(inbox.clone());
    }
}

/// INBOX has been begun already ([`crate::wire::Ahead`]). One that takes no part is told as a name without a mailbox.
pub(super) fn inbox_first(nodes: &mut Vec<TreeNode>) {
    let inbox = [b"INBOX".to_vec()];
    match nodes.iter().position(|n| n.name == inbox) {
        Some(at) => nodes[..=at].rotate_right(1),
        None => nodes.insert(0, placeholder(inbox.to_vec())),
    }
}

/// The one D. With another separator on the other side only mailboxes are told: a 2.3.19.1 would not survive the rest
/// (wire.md 9, trap 12).
pub(super) fn deletes(own: &Tree, peer_separator: Option<u8>) -> Deletes {
    let separator = u8::try_from(own.rules.separator).unwrap_or(b'/');
    let pick = |wanted: fn(&DeletionKey) -> Option<[u8; 16]>| {
        let list: Vec<_> = own.deletions.iter().filter_map(|d| Some((wanted(&d.key)?, i64::from(d.time.0)))).collect();
        (!list.is_empty()).then_some(list)
    };
    let names = peer_separator.is_none_or(|s| s == separator);
    let escape = own.rules.namespaces.iter().find_map(|ns| ns.escape).unwrap_or(if separator == b'%' { '~' } else { '%' });
    Deletes {
        separator,
        escape_char: Some(u8::try_from(escape).ok()),
        mailboxes: pick(|k| if let DeletionKey::Mailbox(g) = k { Some(*g.bytes()) } else { None }),
        directories: pick(|k| if let DeletionKey::Directory(h) = k { Some(h.0) } else { None }).filter(|_| names),
        unsubscribes: pick(|k| if let DeletionKey::Subscription(h) = k { Some(h.0) } else { None }).filter(|_| names),
    }
}

/// The D would tell of directories or subscriptions.
pub(super) fn tells_names(own: &Tree) -> bool {
    own.deletions.iter().any(|d| !matches!(d.key, DeletionKey::Mailbox(_)))
}

/// The other side's tree.
///
/// # Errors
/// A name that nobody can have.
pub(super) fn tree(nodes: &[TreeNode], deletes: &Deletes, alt: char, own: &Tree) -> Result<Tree> {
    let time = |t: Option<i64>| Timestamp(t.map_or(0, |t| u32::try_from(t).unwrap_or(0)));
    let mut out = Vec::with_capacity(nodes.len());
    for n in nodes {
        let levels = n.name.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        let name = MailboxName::new(levels).ok_or_else(|| Error::new(Class::InvalidData, "Remote sent an empty mailbox name"))?;
        let identity = n.guid.filter(|_| n.existence == NodeExistence::Exists).map(|guid| Identity {
            guid,
            uidvalidity: UidValidity::new(n.uidvalidity.max(1)).expect("holds because it is at least 1"),
            uid_next: Uid::new(n.uid_next.max(1)).expect("holds because it is at least 1"),
        });
        out.push(Node {
            name,
            existence: if n.existence == NodeExistence::Exists { Existence::Exists } else { Existence::Nonexistent },
            identity,
            renamed: time(n.renamed),
            subscribed: n.subscribed,
            subscription_changed: time(n.subscription_changed),
            special_use: Vec::new(),
        });
    }
    let mut deletions = Vec::new();
    for (key, at) in deletes.mailboxes.iter().flatten() {
        deletions.extend(MailboxGuid::new(*key).map(|g| Deletion { key: DeletionKey::Mailbox(g), time: time(Some(*at)) }));
    }
    let hashes = |list: &Option<Vec<_>>, make: fn(NameHash) -> DeletionKey| {
        list.iter().flatten().map(|&(key, at)| Deletion { key: make(NameHash(key)), time: time(Some(at)) }).collect::<Vec<_>>()
    };
    deletions.extend(hashes(&deletes.directories, DeletionKey::Directory));
    deletions.extend(hashes(&deletes.unsubscribes, DeletionKey::Subscription));
    let rules = rules(&out, char::from(deletes.separator), alt, own);
    Ok(Tree { nodes: out, deletions, rules, problems: Vec::new() })
}

/// Which names the other side can hold, as far as its tree tells.
fn rules(nodes: &[Node], separator: char, alt: char, own: &Tree) -> NameRules {
    let exists = |n: &Node| n.existence == Existence::Exists;
    // Maildir++ has no directories: a parent without a mailbox is not there. Elsewhere it is one.
    let parents: HashSet<MailboxName> =
        nodes.iter().filter(|n| exists(n)).flat_map(|n| std::iter::successors(n.name.parent(), MailboxName::parent)).collect();
    let missing_parent = nodes.iter().any(|n| !exists(n) && !n.subscribed && parents.contains(&n.name));
    let directory = nodes.iter().any(|n| exists(n) && n.identity.is_none());
    let own_names: BTreeMap<MailboxGuid, &MailboxName> =
        own.nodes.iter().filter_map(|n| Some((n.identity?.guid, &n.name))).collect();
    let undotted = nodes
        .iter()
        .filter_map(|n| Some((own_names.get(&n.identity?.guid)?, &n.name)))
        .any(|(ours, theirs)| *ours != theirs && ours.join('/').replace('.', &alt.to_string()) == theirs.join('/'));
    let dotted = separator != '.' && nodes.iter().any(|n| exists(n) && n.name.levels().iter().any(|l| l.contains('.')));
    let flat = (missing_parent || undotted) && !directory && !dotted;
    let space = NamespaceRules { storage_separator: if flat { '.' } else { '/' }, flat, ..NamespaceRules::default() };
    NameRules { separator, alt, no_directories: flat, inbox_moves: !flat, namespaces: vec![space] }
}
