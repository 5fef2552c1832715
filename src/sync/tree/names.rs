//! One name for one mailbox: both sides' trees under names that both sides can hold.
//!
//! A tree comes with the names of its own side. Here every level is replaced by the nearest one that *both* sides can hold,
//! which is what the trees are compared by; the side's own spelling stays beside it as the node's label. Two levels of one side
//! that fall together are told apart by a suffix made from the own spelling, so that it is the same in every run and on both sides.

use std::collections::{BTreeMap, HashMap};

use sha1::{Digest, Sha1};

use crate::mail::{Existence, MailboxGuid, MailboxName, NameRules, Node, Tree};

use super::arena::{Arena, Hold, Id, Mailbox, ROOT, State};
use super::types::TreeError;

/// Deeper names than any storage holds are left alone.
const MAX_LEVELS: usize = 128;
/// How much of a level stays before a distinguishing suffix, bytes.
const SUFFIXED_MAX: usize = 180;

/// All that one side knows, under the common names.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub tree: Arena,
    pub rules: &'a NameRules,
    /// Special-use flags of nodes that have some.
    pub special: HashMap<Id, &'a [String]>,
}

/// A side's names as they are, level by level.
#[derive(Default)]
struct Raw<'a> {
    name: Option<MailboxName>,
    children: BTreeMap<&'a str, usize>,
    node: Option<&'a Node>,
    unreadable: bool,
    /// Here or below there is more than a subscription.
    real: bool,
}

/// A child under its common name.
struct Named<'a> {
    common: String,
    label: &'a str,
    raw: usize,
}

/// Brings both sides' facts under common names.
pub(super) fn facts<'a>(local: &'a Tree, remote: &'a Tree) -> Result<[Facts<'a>; 2], TreeError> {
    let raws = [raw(local)?, raw(remote)?];
    let mut facts = [local, remote].map(|side| Facts { tree: Arena::new(), rules: &side.rules, special: HashMap::new() });
    let rules = (&local.rules, &remote.rules);

    let mut strangers = Vec::new();
    let mut todo = vec![([ROOT; 2], [Some(0), Some(0)])];
    while let Some((parents, at)) = todo.pop() {
        let mut below: BTreeMap<String, ([Id; 2], [Option<usize>; 2])> = BTreeMap::new();
        for s in [0, 1] {
            let Some(mine) = at[s] else { continue };
            let others = at[1 - s].map(|i| &raws[1 - s][i].children);
            let path = facts[s].tree.path(parents[s]);
            let (children, apart) = common_names(&raws[s], mine, others, &path, rules);
            strangers.extend(apart.into_iter().map(|raw| (s, raw)));
            for child in children {
                let id = facts[s].tree.insert(parents[s], &child.common);
                facts[s].tree.node_mut(id).label = (child.label != child.common).then(|| child.label.to_owned());
                facts[s].fill(id, &raws[s][child.raw])?;
                let entry = below.entry(child.common).or_insert(([ROOT; 2], [None; 2]));
                entry.0[s] = id;
                entry.1[s] = Some(child.raw);
            }
        }
        // A side without a child of this name has nothing below it either.
        todo.extend(below.into_values());
    }
    place_strangers(&mut facts, &raws, strangers, rules)?;
    Ok(facts)
}

/// Names that the other side cannot hold in any shape of their own: they get a place elsewhere, by their hash.
fn place_strangers<'a>(
    facts: &mut [Facts<'a>; 2],
    raws: &[Vec<Raw<'a>>; 2],
    strangers: Vec<(usize, usize)>,
    rules: (&NameRules, &NameRules),
) -> Result<(), TreeError> {
    let mut todo = strangers;
    while let Some((s, i)) = todo.pop() {
        let raw = &raws[s][i];
        todo.extend(raw.children.values().map(|&child| (s, child)));
        let (Some(name), Some(_)) = (&raw.name, raw.node) else { continue };
        let mut path = rules.0.agreed(rules.1, name).levels().to_vec();
        let Some(leaf) = path.pop() else { continue };
        let tree = &mut facts[s].tree;
        let parent = tree.make(path.iter().map(String::as_str));
        if tree.child(parent, &leaf).is_some() {
            continue;
        }
        let id = tree.insert(parent, &leaf);
        tree.node_mut(id).apart = Some(name.clone());
        facts[s].fill(id, &raws[s][i])?;
    }
    Ok(())
}

fn raw(tree: &Tree) -> Result<Vec<Raw<'_>>, TreeError> {
    let mut raws = vec![Raw::default()];
    for node in &tree.nodes {
        let Some(i) = descend(&mut raws, &node.name) else { continue };
        if raws[i].node.is_some() {
            return Err(TreeError::DuplicateName(node.name.clone()));
        }
        raws[i].node = Some(node);
        raws[i].unreadable |= node.existence == Existence::Unreadable;
        if node.existence != Existence::Nonexistent {
            mark_real(&mut raws, &node.name);
        }
    }
    for (name, _) in &tree.problems {
        if let Some(i) = descend(&mut raws, name) {
            raws[i].unreadable = true;
            mark_real(&mut raws, name);
        }
    }
    Ok(raws)
}

fn mark_real(raws: &mut [Raw<'_>], name: &MailboxName) {
    let mut at = 0;
    for level in name.levels() {
        let Some(&next) = raws[at].children.get(level.as_str()) else { return };
        raws[next].real = true;
        at = next;
    }
}

fn descend<'a>(raws: &mut Vec<Raw<'a>>, name: &'a MailboxName) -> Option<usize> {
    if name.levels().len() > MAX_LEVELS {
        return None;
    }
    let mut at = 0;
    for (depth, level) in name.levels().iter().enumerate() {
        at = match raws[at].children.get(level.as_str()) {
            Some(&i) => i,
            None => {
                let name = MailboxName::new(name.levels()[..=depth].to_vec());
                raws.push(Raw { name, ..Raw::default() });
                let new = raws.len() - 1;
                raws[at].children.insert(level, new);
                new
            }
        };
    }
    Some(at)
}

/// The children of a raw node with names that no two of them share, and those that cannot have a name below their parent.
fn common_names<'a>(
    raws: &[Raw<'a>],
    parent: usize,
    others: Option<&BTreeMap<&str, usize>>,
    path: &[String],
    rules: (&NameRules, &NameRules),
) -> (Vec<Named<'a>>, Vec<usize>) {
    let mut named = Vec::new();
    let mut apart = Vec::new();
    for (&label, &raw) in &raws[parent].children {
        let Some(name) = &raws[raw].name else { continue };
        let agreed = rules.0.agreed(rules.1, name);
        if agreed.levels().len() != name.levels().len() {
            apart.push(raw);
            continue;
        }
        // Only a mailbox can be INBOX; a directory of that spelling is itself.
        let is_box = raws[raw].unreadable || raws[raw].node.is_some_and(|n| n.identity.is_some());
        let common = if name.is_inbox() && !is_box { label } else { agreed.leaf() };
        named.push(Named { common: common.to_owned(), label, raw });
    }
    // Who has a name by right goes before who gets it, and a mere subscription stands back.
    named.sort_by_key(|child| (!raws[child.raw].real, child.common != child.label));
    let mut out: BTreeMap<String, Named<'a>> = BTreeMap::new();
    for mut child in named {
        let changed = child.common != child.label;
        if changed || out.contains_key(&child.common) {
            // The other side may have it under the longer name already: an earlier run had to tell two apart.
            let longer = suffixed(&child.common, child.label, path, rules);
            if out.contains_key(&child.common) || others.is_some_and(|o| o.contains_key(longer.as_str())) {
                child.common = longer;
            }
        }
        if out.contains_key(&child.common) {
            apart.push(child.raw);
        } else {
            out.insert(child.common.clone(), child);
        }
    }
    (out.into_values().collect(), apart)
}

fn suffixed(common: &str, label: &str, path: &[String], rules: (&NameRules, &NameRules)) -> String {
    let end = (0..=SUFFIXED_MAX.min(common.len())).rev().find(|&i| common.is_char_boundary(i)).unwrap_or(0);
    let longer = format!("{}-{}", &common[..end], &hex::encode(Sha1::digest(label))[..8]);
    let mut levels = path.to_vec();
    levels.push(longer.clone());
    let agreed = MailboxName::new(levels).map(|name| rules.0.agreed(rules.1, &name));
    agreed.filter(|a| a.levels().len() == path.len() + 1).map_or(longer, |a| a.leaf().to_owned())
}

impl<'a> Facts<'a> {
    fn fill(&mut self, id: Id, raw: &Raw<'a>) -> Result<(), TreeError> {
        let node = self.tree.node_mut(id);
        if raw.unreadable {
            node.hold = Hold::Frozen;
            node.state = State::Exists;
        }
        let Some(fact) = raw.node else { return Ok(()) };
        if fact.existence == Existence::Exists {
            node.state = State::Exists;
        }
        node.time = fact.renamed.0.into();
        node.subscribed = fact.subscribed;
        node.subscription_time = fact.subscription_changed.0.into();
        if !fact.special_use.is_empty() {
            self.special.insert(id, &fact.special_use);
        }
        if let Some(identity) = fact.identity
            && !raw.unreadable
            && fact.existence == Existence::Exists
        {
            self.unique(identity.guid, &fact.name)?;
            let mailbox = Mailbox { guid: identity.guid, uidvalidity: identity.uidvalidity, uid_next: identity.uid_next };
            self.tree.set_mailbox(id, Some(mailbox));
        }
        Ok(())
    }

    fn unique(&self, guid: MailboxGuid, name: &MailboxName) -> Result<(), TreeError> {
        match self.tree.by_guid(guid).and_then(|first| self.tree.own_name(first)) {
            None => Ok(()),
            Some(first) => Err(TreeError::DuplicateGuid { guid, first, second: name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Identity, NamespaceRules, Timestamp, Uid, UidValidity};

    fn tree(rules: NameRules, names: &[&[&str]]) -> Tree {
        let nodes = names.iter().zip(1..).map(|(levels, i)| Node {
            name: MailboxName::new(levels.iter().map(|&l| l.to_owned()).collect()).expect("levels"),
            existence: Existence::Exists,
            identity: Some(Identity {
                guid: MailboxGuid::new([i; 16]).expect("not zero"),
                uidvalidity: UidValidity::new(1).expect("not zero"),
                uid_next: Uid::FIRST,
            }),
            renamed: Timestamp(0),
            subscribed: false,
            subscription_changed: Timestamp(0),
            special_use: Vec::new(),
        });
        Tree { nodes: nodes.collect(), deletions: Vec::new(), rules, problems: Vec::new() }
    }

    fn maildir() -> NameRules {
        let space = NamespaceRules { storage_separator: '.', flat: true, ..NamespaceRules::default() };
        NameRules { namespaces: vec![space], no_directories: true, ..NameRules::default() }
    }

    fn common(t: &Arena) -> Vec<(String, String)> {
        let names = t.subtree(ROOT).into_iter().skip(1);
        names.map(|n| (t.path(n).join("/"), t.own_name(n).map_or_else(String::new, |n| n.to_string()))).collect()
    }

    fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
        rows.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    #[test]
    fn a_name_that_one_side_cannot_hold_meets_its_replacement() {
        let dbox = tree(NameRules::default(), &[&["v1.2 notes"]]);
        let flat = tree(maildir(), &[&["v1_2 notes"]]);
        let [l, r] = facts(&dbox, &flat).expect("no twins");
        assert_eq!(common(&l.tree), pairs(&[("v1_2 notes", "v1.2 notes")]));
        assert_eq!(common(&r.tree), pairs(&[("v1_2 notes", "v1_2 notes")]));
    }

    #[test]
    fn names_that_fall_together_are_told_apart_and_stay_so() {
        let both = tree(NameRules::default(), &[&["a.b"], &["a_b"]]);
        let nothing = tree(maildir(), &[]);
        let [l, _] = facts(&both, &nothing).expect("no twins");
        let long = "a_b-69f6642c"; // SHA-1 of "a.b"
        assert_eq!(common(&l.tree), pairs(&[("a_b", "a_b"), (long, "a.b")]));

        let later = tree(NameRules::default(), &[&["a.b"]]);
        let held = tree(maildir(), &[&[long]]);
        let [l, _] = facts(&later, &held).expect("no twins");
        assert_eq!(common(&l.tree), pairs(&[(long, "a.b")]));
    }

    #[test]
    fn inbox_has_one_name() {
        let (odd, nothing) = (tree(NameRules::default(), &[&["Inbox"]]), tree(maildir(), &[]));
        let [l, _] = facts(&odd, &nothing).expect("no twins");
        assert_eq!(common(&l.tree), pairs(&[("INBOX", "Inbox")]));
    }
}
