//! Which nodes take part (`-m`, `-g`, `-x`), the same ones on both sides, and which names nobody may touch.
//!
//! A mailbox is judged by its names on *both* sides, so that a mailbox that one side has renamed is not taken for two: it takes
//! part when one of its names is wanted and none is excluded. With a source only the source's name counts for what the
//! source has. What does not take part is left alone; it is never deleted because of a selection.

use std::collections::HashSet;

use crate::mail::{MailboxGuid, Node, Tree};
use crate::sync::Only;

use super::arena::{Hold, Id, ROOT};
use super::names::Facts;
use super::types::{Note, NoteKind, TreeOptions};

/// Marks the nodes that do not take part.
pub(super) fn select(facts: &mut [Facts<'_>; 2], options: &TreeOptions) {
    let everything = matches!(options.only, Only::All | Only::TreeOnly) && options.exclude.is_empty();
    if everything {
        return;
    }
    // The side whose names count, where only one side's do.
    let source = [(0, options.role()), (1, options.role().opposite())].into_iter().find(|(_, r)| r.is_source()).map(|(s, _)| s);
    let verdicts = [0, 1].map(|s| Verdicts::of(facts, s, options));
    for s in [0, 1] {
        let judges: &[usize] = match source {
            Some(source) => &[source, 1 - source],
            None => &[0, 1],
        };
        for id in facts[s].tree.subtree(ROOT).into_iter().skip(1) {
            let chosen = match facts[s].tree.guid(id) {
                None => verdicts[s].wanted.contains(&id) && !verdicts[s].excluded.contains(&id),
                Some(guid) => {
                    let places = judges.iter().filter_map(|&j| Some((j, facts[j].tree.by_guid(guid)?)));
                    let places: Vec<_> = places.take(if source.is_some() { 1 } else { 2 }).collect();
                    places.iter().any(|(j, at)| verdicts[*j].wanted.contains(at))
                        && !places.iter().any(|(j, at)| verdicts[*j].excluded.contains(at))
                }
            };
            let subscription_counts = match &options.only {
                Only::Name(mask) => mask.starts_with('\\') || verdicts[s].wanted.contains(&id),
                _ => true,
            };
            let node = facts[s].tree.node_mut(id);
            if !chosen {
                node.hold = Hold::Outside;
            }
            if !subscription_counts {
                node.subscribed = false;
                node.subscription_time = 0;
            }
        }
    }
}

/// What the names of one side's nodes say.
struct Verdicts {
    wanted: HashSet<Id>,
    excluded: HashSet<Id>,
}

impl Verdicts {
    fn of(facts: &[Facts<'_>; 2], s: usize, options: &TreeOptions) -> Self {
        let mut out = Self { wanted: HashSet::new(), excluded: HashSet::new() };
        for id in facts[s].tree.subtree(ROOT).into_iter().skip(1) {
            let wanted = match &options.only {
                Only::All | Only::TreeOnly => true,
                Only::Name(mask) => fits(facts, s, id, mask, LIST),
                Only::Guid(guid) => facts[s].tree.guid(id) == Some(*guid),
            };
            if wanted {
                out.wanted.insert(id);
            }
            if options.exclude.iter().any(|mask| fits(facts, s, id, mask, WILDCARD)) {
                out.excluded.insert(id);
            }
        }
        out
    }
}

/// A special-use flag of either side, or a mask over the full name with either side's separator.
fn fits(facts: &[Facts<'_>; 2], s: usize, id: Id, mask: &str, kind: Kind) -> bool {
    if mask.starts_with('\\') {
        let path = facts[s].tree.path(id);
        let there = facts[1 - s].tree.find(path.iter().map(String::as_str)).and_then(|n| facts[1 - s].special.get(&n));
        let flags = facts[s].special.get(&id).into_iter().chain(there).flat_map(|f| f.iter());
        return flags.into_iter().any(|flag| flag.eq_ignore_ascii_case(mask));
    }
    let Some(name) = facts[s].tree.own_name(id) else { return false };
    facts.iter().map(|side| side.rules.separator).any(|separator| {
        let text = name.join(separator);
        matches(mask, &text, kind, separator) || name.is_inbox() && mask.eq_ignore_ascii_case(&text)
    })
}

/// What of a node takes part in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its mailbox or directory.
    pub mailbox: bool,
    /// Its subscription.
    pub subscription: bool,
}

/// Which nodes of its own tree a side tells a peer that does not select for itself among the other side's nodes (sync.md
/// 3.2, 3.3): in the order of the tree's nodes.
#[must_use]
pub fn takes_part(tree: &Tree, options: &TreeOptions) -> Vec<Part> {
    let separator = tree.rules.separator;
    let fits = |node: &Node, mask: &str, kind: Kind| {
        if mask.starts_with('\\') {
            return node.special_use.iter().any(|flag| flag.eq_ignore_ascii_case(mask));
        }
        let text = node.name.join(separator);
        matches(mask, &text, kind, separator) || node.name.is_inbox() && mask.eq_ignore_ascii_case(&text)
    };
    let one = |node: &Node| {
        let wanted = match &options.only {
            Only::All | Only::TreeOnly => true,
            Only::Name(mask) => fits(node, mask, LIST),
            Only::Guid(guid) => node.identity.is_some_and(|i| i.guid == *guid),
        };
        let excluded = options.exclude.iter().any(|mask| fits(node, mask, WILDCARD));
        let subscription = match &options.only {
            Only::Name(mask) => mask.starts_with('\\') || wanted,
            _ => true,
        };
        Part { mailbox: wanted && !excluded, subscription }
    };
    tree.nodes.iter().map(one).collect()
}

/// What the characters of a mask mean.
#[derive(Clone, Copy)]
struct Kind {
    /// Stands for anything but a separator.
    level: char,
    /// Stands for one character.
    one: Option<char>,
}

/// Patterns of IMAP's LIST.
const LIST: Kind = Kind { level: '%', one: None };
/// Dovecot's wildcards: `*` and `?`, separators included.
const WILDCARD: Kind = Kind { level: '*', one: Some('?') };

fn matches(mask: &str, text: &str, kind: Kind, separator: char) -> bool {
    // at[i]: the mask so far can stand for the first i characters.
    let text: Vec<char> = text.chars().collect();
    let mut at = vec![false; text.len() + 1];
    at[0] = true;
    for m in mask.chars() {
        let mut next = vec![false; text.len() + 1];
        let any = m == '*' || m == kind.level;
        next[0] = any && at[0];
        for (i, &c) in text.iter().enumerate() {
            next[i + 1] =
                if any { at[i + 1] || next[i] && (m == '*' || c != separator) } else { at[i] && (c == m || kind.one == Some(m)) };
        }
        at = next;
    }
    at[text.len()]
}

/// Names that one side cannot read stay untouched on both sides, and so does the mailbox that the other side has there.
pub(super) fn freeze(facts: &mut [Facts<'_>; 2]) -> Vec<Note> {
    let mut notes = Vec::new();
    let frozen: [Vec<Id>; 2] = [0, 1].map(|s| {
        let tree = &facts[s].tree;
        tree.subtree(ROOT).into_iter().filter(|&n| tree.node(n).hold == Hold::Frozen).collect()
    });
    for s in [0, 1] {
        for &id in &frozen[s] {
            notes.extend(facts[s].tree.own_name(id).map(|name| Note { name, kind: NoteKind::Unreadable }));
            let path = facts[s].tree.path(id);
            let Some(there) = facts[1 - s].tree.find(path.iter().map(String::as_str)) else { continue };
            facts[1 - s].tree.node_mut(there).hold = Hold::Frozen;
            if let Some(same) = facts[1 - s].tree.guid(there).and_then(|guid: MailboxGuid| facts[s].tree.by_guid(guid)) {
                facts[s].tree.node_mut(same).hold = Hold::Outside;
            }
        }
    }
    notes.sort_by(|a, b| a.name.cmp(&b.name));
    notes.dedup();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_patterns_and_wildcards() {
        for (mask, text, list, wildcard) in [
            ("Foo", "Foo", true, true),
            ("Fo*", "Foo/sub", true, true),
            ("F%", "Foo", true, false),
            ("F%", "Foo/sub", false, false),
            ("%/sub", "Foo/sub", true, false),
            ("F?o", "Foo", false, true),
            ("", "Foo", false, false),
            ("*", "Foo/sub", true, true),
        ] {
            assert_eq!(matches(mask, text, LIST, '/'), list, "{mask} {text} as LIST");
            assert_eq!(matches(mask, text, WILDCARD, '/'), wildcard, "{mask} {text} as wildcard");
        }
    }
}
