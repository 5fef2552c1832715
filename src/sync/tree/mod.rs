//! Which mailboxes the two sides shall have: facts in, actions for the own store out (sync.md 3.8, 4).
//!
//! Nothing here waits for a disk or a clock, except [`execute`], which carries a plan out. Both sides call [`plan`] with the two
//! trees exchanged; each gets the changes to its own store. After both have carried them out the sides have the same mailboxes,
//! and planning again gives nothing.
//!
//! 1. `names`: both trees under names that both sides can hold. A side's own spelling stays beside the common name.
//! 2. `select`: what does not take part, and what nobody may touch.
//! 3. `log`: removals that the mailbox logs tell of. Their hashes are resolved by the names that the other side has.
//! 4. `target`: the one tree that shall be true in the end, and where each side's mailboxes belong in it. It does not depend on
//!    whose point of view it is: the two trees are put in an order that follows from what they hold.
//!    - Two ways, and one way: the two trees are merged in memory (`merge`, `rename`) as Dovecot does it. A mailbox is
//!      known by its GUID. Where two different things have one name, the side whose rename is younger wins, and without times a
//!      comparison of all that follows; the loser's mailbox moves to where the winner has it. Two mailboxes that share only
//!      the name become one, under the larger GUID. What is left without a place gets a final name with its GUID.
//!      We leave Dovecot's way in three points: directories have no identity, so that they never push a mailbox to a temporary
//!      name; a logged deletion counts also when another known mailbox has been renamed to the place; temporary names that an
//!      interrupted run has left count for nothing. Where Dovecot itself ends with equal sides in one run, the outcome is the same.
//!    - Beside a Dovecot: what its own merge, to the letter, will leave on its disk (`disk` knows the effects that changes have
//!      there beyond what they say), because it will not do otherwise.
//!    - Backup: what the source has. Only mailboxes that the source does not know are deleted. One that has the right GUID
//!      is renamed, one that has the right name only gets the GUID, and the mail engine makes its content right in place.
//! 5. `steps`: the changes that lead a side there, in an order in which each of them works on every kind of layout, whatever
//!    directories come and go by themselves.
//!
//! In a one-way run the source does not follow, so that a later run may find more to do at the destination; that ends, too.

mod arena;
mod disk;
mod execute;
mod log;
mod merge;
mod names;
mod rename;
mod select;
mod steps;
mod target;
mod types;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod model;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod vectors;

pub use execute::{Outcome, execute};
pub use select::{Part, takes_part};
pub use types::{Note, NoteKind, Paired, Peer, Plan, Side, TreeAction, TreeError, TreeOptions};

use std::collections::HashSet;

use crate::mail::Tree;
use crate::sync::{Mode, Only};

use arena::{Arena, Hold, ROOT};
use names::Facts;
use steps::Done;
use target::{Input, Target};
use types::Role;

/// Decides what the local side does to its mailboxes, and which ones are then compared mail by mail.
///
/// The other side calls this with the trees exchanged and the other [`Side`], and comes to the same end.
///
/// # Errors
/// See [`TreeError`]. Nothing has been changed then.
pub fn plan(local: &Tree, remote: &Tree, options: &TreeOptions) -> Result<Plan, TreeError> {
    plan_patiently(local, remote, options, merge::PATIENCE)
}

/// `patience`: how often every node may be moved before the renames count as endless.
fn plan_patiently(local: &Tree, remote: &Tree, options: &TreeOptions, patience: usize) -> Result<Plan, TreeError> {
    let role = options.role();
    let mut facts = names::facts(local, remote)?;
    select::select(&mut facts, options);
    let incomplete = [0, 1].map(|s| target::incomplete(&facts[s].tree));
    let mut notes = select::freeze(&mut facts);
    let prefixes = prefixes(&facts);
    let mut fixed = prefixes.clone();
    for side in &facts {
        fixed.extend(above_frozen(&side.tree));
    }
    let removals = [(0, local), (1, remote)].map(|(s, tree)| log::resolve(&tree.deletions, &facts[s], &facts[1 - s]));
    let selective = !matches!(options.only, Only::All | Only::TreeOnly) || !options.exclude.is_empty();
    let input = Input { facts: &facts, removals, role, fixed, prefixes, selective, patience };

    let mut target = match (options.mode, options.peer) {
        (Mode::Backup(_), _) => {
            let source = usize::from(role == Role::BackupDestination);
            guard_source(&facts, source, options)?;
            target::source(&input, source)
        }
        (Mode::TwoWay, Peer::Dovecot) => target::adopted(&input, 1)?,
        (Mode::OneWay(_), Peer::Dovecot) if role == Role::OneWaySource => target::adopted(&input, 1)?,
        _ => target::merged(&input),
    };
    if let Mode::Backup(_) = options.mode {
        notes.extend(spared(&mut target, &facts, usize::from(role == Role::BackupSource), incomplete));
    }
    if let Mode::OneWay(_) = options.mode {
        target::add_one_way_directories(&mut target, &input, usize::from(role.is_source()));
    }
    let sides = [(0, role), (1, role.opposite())]
        .map(|(s, role)| if role.is_source() { steps::unchanged(&facts[s]) } else { steps::steps(&input, s, role, &target) });
    for side in &sides {
        notes.extend(side.notes.iter().cloned());
    }
    Ok(finish(sides, &target, notes, options))
}

/// Prefixes of namespaces cannot move.
fn prefixes(facts: &[Facts<'_>; 2]) -> log::Paths {
    let all = facts.iter().flat_map(|side| &side.rules.namespaces);
    all.filter(|space| !space.prefix.is_empty()).map(|space| space.prefix.clone()).collect()
}

fn above_frozen(tree: &Arena) -> HashSet<Vec<String>> {
    let mut out = HashSet::new();
    for n in tree.subtree(ROOT).into_iter().filter(|&n| tree.node(n).hold == Hold::Frozen) {
        let path = tree.path(n);
        out.extend((1..=path.len()).map(|end| path[..end].to_vec()));
    }
    out
}

/// A source that looks newly made does not replace mail by nothing.
fn guard_source(facts: &[Facts<'_>; 2], source: usize, options: &TreeOptions) -> Result<(), TreeError> {
    let mailboxes = |s: usize| {
        let tree = &facts[s].tree;
        tree.subtree(ROOT).into_iter().filter(|&n| tree.node(n).hold == Hold::Free).filter_map(|n| tree.existing_mailbox(n))
    };
    let never_held_mail = mailboxes(source).all(|m| m.uid_next.get() == 1);
    let nothing_shared = mailboxes(source).all(|m| facts[1 - source].tree.by_guid(m.guid).is_none());
    let would_lose = mailboxes(1 - source).any(|m| m.uid_next.get() > 1);
    if never_held_mail && nothing_shared && would_lose && !options.allow_empty_source {
        return Err(TreeError::EmptySource);
    }
    Ok(())
}

/// Takes from the deletions of a backup what must not be deleted.
fn spared(target: &mut Target, facts: &[Facts<'_>; 2], dest: usize, incomplete: [bool; 2]) -> Vec<Note> {
    let tree = &facts[dest].tree;
    let mut notes = Vec::new();
    if incomplete[1 - dest] {
        for (guid, _) in target.doomed[dest].drain() {
            let name = tree.by_guid(guid).and_then(|n| tree.own_name(n));
            notes.extend(name.map(|name| Note { name, kind: NoteKind::KeptBecauseOfProblems }));
        }
        notes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let inbox = vec!["INBOX".to_owned()];
    if !target.names.contains_key(&inbox)
        && let Some(n) = tree.find(["INBOX"])
        && let Some(mailbox) = tree.existing_mailbox(n)
        && tree.node(n).hold == Hold::Free
        && mailbox.uid_next.get() > 1
        && let Some(name) = tree.own_name(n)
    {
        notes.push(Note { name, kind: NoteKind::InboxKept });
    }
    notes
}

fn finish(sides: [Done; 2], target: &Target, mut notes: Vec<Note>, options: &TreeOptions) -> Plan {
    let mut mailboxes = Vec::new();
    for mailbox in target.names.values().filter_map(|want| want.mailbox) {
        let both = (sides[0].mailboxes.get(&mailbox.guid), sides[1].mailboxes.get(&mailbox.guid));
        let (Some((local, moved_here)), Some((remote, moved_there))) = both else { continue };
        let fresh = *moved_here || *moved_there;
        if fresh && local != remote {
            notes.push(Note { name: local.clone(), kind: NoteKind::HeldAs(remote.clone()) });
        }
        mailboxes.push(Paired { guid: mailbox.guid, local: local.clone(), remote: remote.clone(), fresh });
    }
    if options.only == Only::TreeOnly {
        mailboxes.clear();
    }
    let [local, _] = sides;
    Plan { actions: local.actions, mailboxes, notes }
}
