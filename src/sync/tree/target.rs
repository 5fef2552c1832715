//! The tree that both sides shall have, and where each mailbox of a side belongs in it.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha1::{Digest, Sha1};

use crate::mail::MailboxGuid;

use super::arena::{Arena, Hold, Id, Mailbox, ROOT, State};
use super::disk::Disk;
use super::log::{self, Paths, Removal};
use super::merge::{Change, Keep, L, Merge, R, Stuck};
use super::names::Facts;
use super::rename;
use super::types::{Role, TreeError};

/// What shall be true in the end. Names are common levels; parents come before their children.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub names: BTreeMap<Vec<String>, Want>,
    /// Per side: where its mailboxes belong.
    pub homes: [HashMap<MailboxGuid, Vec<String>>; 2],
    /// Per side: mailboxes to be deleted, and when that was decided.
    pub doomed: [HashMap<MailboxGuid, u64>; 2],
    /// Directories whose removal is known from a log, and when that was.
    pub removed: HashMap<Vec<String>, u64>,
    /// Which names shall be subscribed to, or not, and when that was decided.
    pub subscriptions: Subscriptions,
}

/// What shall be at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// A mailbox; else a directory.
    pub mailbox: Option<Mailbox>,
    /// A directory that is wanted for itself, not only as a parent.
    pub explicit: bool,
    /// When it got this name.
    pub time: u64,
}

/// A subscription, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subscription {
    pub time: u64,
    pub subscribed: bool,
}

/// By name.
type Subscriptions = BTreeMap<Vec<String>, Subscription>;

/// Everything a target is made of.
pub(super) struct Input<'a, 'f> {
    pub facts: &'a [Facts<'f>; 2],
    pub removals: [Vec<Removal>; 2],
    /// The role of the local side.
    pub role: Role,
    /// Names that do not move (prefixes of namespaces, parents of frozen names), beside INBOX.
    pub fixed: Paths,
    /// The prefixes among them.
    pub prefixes: Paths,
    /// Something is left out of this run.
    pub selective: bool,
    /// How often every node may be moved before the renames count as endless.
    pub patience: usize,
}

impl Target {
    fn want(&mut self, path: &[String], mailbox: Option<Mailbox>, explicit: bool, time: u64) {
        for end in 1..path.len() {
            self.names.entry(path[..end].to_vec()).or_insert(Want { mailbox: None, explicit: false, time: 0 });
        }
        let want = self.names.entry(path.to_vec()).or_insert(Want { mailbox, explicit, time });
        want.mailbox = want.mailbox.or(mailbox);
        want.explicit |= explicit;
        want.time = want.time.max(time);
    }
}

/// The tree without what does not take part. Nodes keep their ids.
fn taking_part(tree: &Arena) -> Arena {
    let mut out = tree.clone();
    for n in tree.subtree(ROOT).into_iter().skip(1) {
        if tree.node(n).hold != Hold::Free {
            out.set_mailbox(n, None);
            out.node_mut(n).state = State::Nonexistent;
        }
    }
    out
}

fn strs(path: &[String]) -> impl Iterator<Item = &str> {
    path.iter().map(String::as_str)
}

/// A merge of the facts, `first` being its own side, ready to run; with it the directories that were removed.
fn prepared(input: &Input<'_, '_>, first: usize, as_dovecot: bool) -> (Merge, Paths) {
    let second = 1 - first;
    let mut trees = [first, second].map(|s| taking_part(&input.facts[s].tree));
    let removed = log::apply(&mut trees, &input.removals[first], &input.removals[second], as_dovecot);
    let [own, other] = trees;
    let mut merge = Merge::new(own, other, Keep::Both);
    merge.fixed.clone_from(&input.fixed);
    merge.as_dovecot = as_dovecot;
    merge.patience = input.patience;
    if !as_dovecot {
        merge.mark_leftovers();
    }
    (merge, removed)
}

/// One-way: directories of the source that are made at the destination, with something below them or not.
///
/// In Maildir++ each becomes a mailbox of its own there, so it has to be those that a Dovecot makes: what its merge gives a name
/// to by renaming something below is not made for itself. Nor is what gets a name on its way that the source does not know: that
/// would be another one in each run.
pub(super) fn add_one_way_directories(target: &mut Target, input: &Input<'_, '_>, dest: usize) {
    let source = &input.facts[1 - dest].tree;
    let is_directory = |n: Id| source.node(n).state == State::Exists && source.mailbox(n).is_none();
    let mut made: Paths = Paths::new();
    if input.facts[dest].rules.no_directories {
        let (mut merge, _) = prepared(input, dest, true);
        if merge.run().is_ok() {
            made.extend(merge.changes.iter().filter_map(|c| match c {
                Change::CreateDir { name } => Some(name.levels().to_vec()),
                _ => None,
            }));
            made.retain(|path| source.find(strs(path)).is_some_and(is_directory));
        }
    } else {
        let directories = source.subtree(ROOT).into_iter().skip(1).filter(|&n| is_directory(n));
        made.extend(directories.map(|n| source.path(n)).filter(|path| target.names.contains_key(path)));
    }
    for want in target.names.values_mut() {
        want.explicit &= !input.facts[dest].rules.no_directories;
    }
    for path in made {
        target.want(&path, None, true, 0);
    }
}

/// Two-way and one-way: what Dovecot's merge believes both sides have in the end.
pub(super) fn merged(input: &Input<'_, '_>) -> Target {
    // Whatever the merge does with a tie, it must not depend on whose point of view this is.
    let first = usize::from(digest(&input.facts[0].tree) > digest(&input.facts[1].tree));
    let (merge, removed) = prepared(input, first, false);
    let mut before = [L, R].map(|t| subscriptions(&merge.trees[t]));
    let mut trees = finished(merge, |merge| prepared(input, first, merge).0).trees;
    if first == 1 {
        trees.swap(0, 1);
        before.swap(0, 1);
    }
    let mut target = Target::default();
    assign(&mut target, input, &trees);
    doom(&mut target, input, &trees);
    keep_directories(&mut target, input, &removed);
    note_removals(&mut target, input, &removed);
    // In a one-way run a mailbox that gets the source's name gets its subscription, too.
    let follows = !matches!(input.role, Role::OneWaySource | Role::OneWayDestination);
    let moved = [0, 1].map(|s| follow(&target.homes[s], &input.facts[s].tree, &before[s]));
    for side in before.into_iter().chain(moved.into_iter().filter(|_| follows)) {
        for (path, subscription) in side {
            let entry = target.subscriptions.entry(path).or_insert(subscription);
            *entry = (*entry).max(subscription);
        }
    }
    target
}

/// The merge at its end. Renames can contradict each other without end; then Dovecot's way of going about them is tried, and
/// at last nothing is renamed for a reason: `assign` takes the first name in the alphabet.
fn finished(mut merge: Merge, again: impl Fn(bool) -> Merge) -> Merge {
    if merge.run().is_ok() {
        return merge;
    }
    merge = again(true);
    if merge.run().is_ok() {
        return merge;
    }
    merge = again(false);
    merge.settle = false;
    merge.run().expect("holds because only renames can be endless");
    merge
}

/// Something that orders the trees, equal only for equal ones.
fn digest(tree: &Arena) -> [u8; 20] {
    let mut hash = Sha1::new();
    for n in tree.subtree(ROOT).into_iter().skip(1) {
        let node = tree.node(n);
        hash.update(tree.path(n).join("\0"));
        hash.update([0, u8::from(node.state == State::Exists), u8::from(node.subscribed), node.hold as u8]);
        hash.update(tree.guid(n).map_or([0; 16], |g| *g.bytes()));
        hash.update(node.time.to_be_bytes());
        hash.update(node.subscription_time.to_be_bytes());
    }
    hash.finalize().into()
}

/// Gives every name its mailbox. After the merge both trees are the same but for mailboxes of one name that become one, and for
/// what could not move.
fn assign(target: &mut Target, input: &Input<'_, '_>, trees: &[Arena; 2]) {
    let mut candidates: BTreeMap<Vec<String>, [Option<(Mailbox, u64)>; 2]> = BTreeMap::new();
    for s in [0, 1] {
        for n in trees[s].subtree(ROOT) {
            if let Some(mailbox) = trees[s].existing_mailbox(n) {
                candidates.entry(trees[s].path(n)).or_default()[s] = Some((mailbox, trees[s].node(n).time));
            }
        }
    }
    // INBOX and prefixes take what nobody else wants, because it is they who stay when a mailbox has moved away from them. Only
    // in a one-way run the source's identities come first of all.
    let source = match input.role {
        Role::OneWaySource => Some(0),
        Role::OneWayDestination => Some(1),
        _ => None,
    };
    let stays = |path: &[String]| is_inbox(path) || input.prefixes.contains(path);
    let rank = |path: &[String], sides: &[Option<(Mailbox, u64)>; 2]| {
        let guids: HashSet<_> = sides.iter().flatten().map(|(m, _)| m.guid).collect();
        let first = if stays(path) {
            if source.is_some_and(|s| sides[s].is_some()) { 0 } else { 3 }
        } else {
            if input.fixed.contains(path) { 1 } else { 2 }
        };
        (first, guids.len())
    };
    let mut order: Vec<_> = candidates.iter().collect();
    order.sort_by_key(|(path, sides)| rank(path, sides));

    let mut places: HashMap<MailboxGuid, usize> = HashMap::new();
    for sides in candidates.values() {
        let guids: HashSet<_> = sides.iter().flatten().map(|(m, _)| m.guid).collect();
        for guid in guids {
            *places.entry(guid).or_default() += 1;
        }
    }
    let is_elsewhere = |guid: &MailboxGuid| places.get(guid).is_some_and(|n| *n > 1);
    // The INBOX of a side that moves: its mails are in one place only if the other side's name for it holds.
    let inboxes = candidates.get(&["INBOX".to_owned()][..]).copied().unwrap_or_default();
    let moving: HashSet<MailboxGuid> = inboxes
        .iter()
        .zip(input.facts)
        .filter(|(_, side)| side.rules.inbox_moves)
        .filter_map(|(inbox, _)| Some(inbox.as_ref()?.0.guid))
        .filter(is_elsewhere)
        .collect();
    let mut used: HashMap<MailboxGuid, &Vec<String>> = HashMap::new();
    let mut aside: HashSet<&Vec<String>> = HashSet::new();
    for (path, sides) in order {
        let mut offers: Vec<(Mailbox, u64)> = sides.iter().flatten().copied().collect();
        // What stays prefers a GUID that is nowhere else, other places one that comes from there; then the larger one wins.
        let second = |guid: &MailboxGuid| if stays(path) { is_elsewhere(guid) } else { !moving.contains(guid) };
        offers.sort_by_key(|(m, _)| (second(&m.guid), std::cmp::Reverse(m.guid)));
        if let Some(own) = source.and_then(|s| sides[s]) {
            offers.insert(0, own);
        }
        let free = offers.iter().find(|(m, _)| !used.contains_key(&m.guid));
        let chosen = match (free, offers.first()) {
            (Some(&(mailbox, _)), _) => mailbox,
            // Its GUID belongs elsewhere, but the mailbox stays: here, or because the place there is not free.
            (None, Some(&(mailbox, _)))
                if stays(path) || source.is_some() && used.get(&mailbox.guid).is_some_and(|there| stays(there)) =>
            {
                aside.insert(path);
                Mailbox { guid: derived(mailbox.guid, path), ..mailbox }
            }
            _ => continue,
        };
        used.insert(chosen.guid, path);
        let time = offers.iter().map(|(_, time)| *time).max().unwrap_or(0);
        target.want(path, Some(chosen), false, time);
    }
    let mut left = Vec::new();
    for s in [0, 1] {
        let mut taken = HashSet::new();
        let mine: Vec<_> = candidates.iter().filter_map(|(path, sides)| Some((path, sides[s]?.0.guid))).collect();
        // First those that have a place of their own, then those that become another one of the same name.
        for own_place in [true, false] {
            for &(path, guid) in &mine {
                let here = target.names.get(path).and_then(|w| w.mailbox).map(|_| path);
                // Nothing moves to where something stays.
                let own = used.get(&guid).copied().filter(|own| *own == path || !stays(own));
                let moves = !aside.contains(path) && if is_inbox(path) { input.facts[s].rules.inbox_moves } else { !stays(path) };
                let home = if moves { own.or(here) } else { here.or(own) };
                if let Some(home) = home
                    && (own == Some(home)) == own_place
                    && taken.insert(home)
                {
                    target.homes[s].insert(guid, home.clone());
                }
            }
        }
        let homeless = mine.iter().filter(|(_, guid)| !target.homes[s].contains_key(guid) && !used.contains_key(guid));
        left.extend(homeless.filter_map(|&(path, _)| Some((s, path, candidates[path][s]?))));
    }
    // The INBOX of a side moves to where another mailbox of that side would become one with it: that one needs a name of its own.
    for (s, path, (mailbox, time)) in left {
        let own = apart(path, mailbox.guid);
        if !target.names.contains_key(&own) {
            target.want(&own, Some(mailbox), false, time);
            target.homes[s].insert(mailbox.guid, own);
        }
    }
}

/// A name beside another mailbox's, as the merge gives it to those that lose theirs.
fn apart(path: &[String], guid: MailboxGuid) -> Vec<String> {
    let mut own = path.to_vec();
    if let Some(leaf) = own.last_mut() {
        *leaf = format!("{}-{guid}", rename::cut(leaf, rename::FINAL_MAX - 33));
    }
    own
}

fn is_inbox(path: &[String]) -> bool {
    matches!(path, [only] if only == "INBOX")
}

/// A GUID that both sides come to by themselves.
pub(super) fn derived(guid: MailboxGuid, path: &[String]) -> MailboxGuid {
    let mut hash = Sha1::new();
    hash.update(guid.bytes());
    hash.update(path.join("/"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    MailboxGuid::new(bytes).unwrap_or(guid)
}

/// What a log says is deleted, and the merge agrees.
fn doom(target: &mut Target, input: &Input<'_, '_>, merged: &[Arena; 2]) {
    let mut times: HashMap<MailboxGuid, u64> = HashMap::new();
    for removal in input.removals.iter().flatten() {
        if let log::Removed::Mailbox(guid) = removal.what {
            let time = times.entry(guid).or_default();
            *time = removal.time.max(*time);
        }
    }
    for s in [0, 1] {
        let gone = times.iter().filter(|(guid, _)| {
            let there = input.facts[s].tree.by_guid(**guid);
            there.is_some_and(|n| input.facts[s].tree.node(n).hold == Hold::Free)
                && merged.iter().all(|m| m.by_guid(**guid).is_none())
        });
        target.doomed[s] = gone.map(|(guid, time)| (*guid, *time)).collect();
    }
}

/// Directories without any mailbox stay, unless a log says that they were removed; also those whose mailboxes are deleted in
/// this run. One whose mailboxes only move away goes with them: nobody has made it for itself.
fn keep_directories(target: &mut Target, input: &Input<'_, '_>, removed: &Paths) {
    for (s, side) in input.facts.iter().enumerate() {
        for path in childless(&side.tree, &target.doomed[s]) {
            if !removed.contains(&path) {
                target.want(&path, None, true, 0);
            }
        }
    }
}

/// Directories that take part and have no mailbox below but doomed ones.
fn childless(tree: &Arena, doomed: &HashMap<MailboxGuid, u64>) -> Vec<Vec<String>> {
    let mut full: HashSet<Id> = HashSet::new();
    let mut nodes = tree.subtree(ROOT);
    nodes.reverse();
    let mut out = Vec::new();
    for n in nodes {
        let node = tree.node(n);
        let lives = tree.guid(n).is_some_and(|guid| !doomed.contains_key(&guid));
        let is_box = tree.mailbox(n).is_some();
        if lives || node.hold != Hold::Free || full.contains(&n) {
            full.insert(tree.above(n));
        } else if n != ROOT && node.state == State::Exists && !is_box {
            out.push(tree.path(n));
        }
    }
    out
}

fn note_removals(target: &mut Target, input: &Input<'_, '_>, removed: &Paths) {
    for removal in input.removals.iter().flatten() {
        if let log::Removed::Directory(path) = &removal.what
            && removed.contains(path)
        {
            target.removed.insert(path.clone(), removal.time);
        }
    }
}

fn subscriptions(tree: &Arena) -> Subscriptions {
    let known = tree.subtree(ROOT).into_iter().filter(|&n| n != ROOT).filter_map(|n| {
        let node = tree.node(n);
        let known = node.subscribed || node.subscription_time > 0;
        known.then(|| (tree.path(n), Subscription { time: node.subscription_time, subscribed: node.subscribed }))
    });
    known.collect()
}

/// Subscriptions of a side's mailboxes that get another name go with them (the old names stay subscribed to as well).
fn follow(homes: &HashMap<MailboxGuid, Vec<String>>, tree: &Arena, before: &Subscriptions) -> Subscriptions {
    let moved = homes.iter().filter_map(|(guid, home)| {
        let path = tree.path(tree.by_guid(*guid)?);
        let subscription = before.get(&path).filter(|s| s.subscribed && path != *home)?;
        Some((home.clone(), *subscription))
    });
    moved.collect()
}

/// Backup: what the source has.
pub(super) fn source(input: &Input<'_, '_>, source: usize) -> Target {
    let dest = 1 - source;
    let (from, to) = (&input.facts[source].tree, &input.facts[dest].tree);
    let mut target = Target::default();
    for n in from.subtree(ROOT).into_iter().skip(1) {
        let node = from.node(n);
        if node.hold == Hold::Free
            && let Some(mailbox) = from.existing_mailbox(n)
        {
            target.want(&from.path(n), Some(mailbox), false, node.time);
            target.homes[source].insert(mailbox.guid, from.path(n));
        }
    }
    for path in childless(from, &HashMap::new()) {
        target.want(&path, None, true, 0);
    }
    if input.selective || incomplete(from) {
        for path in childless(to, &HashMap::new()) {
            target.want(&path, None, true, 0);
        }
    }
    homes_in_backup(&mut target, from, to, dest);
    for (tree, counts) in [(from, true), (to, false)] {
        for (path, known) in subscriptions(tree) {
            let entry = target.subscriptions.entry(path).or_insert(Subscription { time: 0, subscribed: false });
            if counts {
                *entry = known;
            }
        }
    }
    target
}

/// Something of this side cannot be read.
pub(super) fn incomplete(tree: &Arena) -> bool {
    tree.subtree(ROOT).into_iter().any(|n| tree.node(n).hold == Hold::Frozen)
}

/// What the destination has goes where the source has it; a mailbox in the place of one that the destination lacks becomes that
/// one; the rest is deleted.
fn homes_in_backup(target: &mut Target, from: &Arena, to: &Arena, dest: usize) {
    let inbox = to.find(["INBOX"]);
    let mut rest = Vec::new();
    for n in to.subtree(ROOT) {
        let Some(have) = to.existing_mailbox(n).filter(|_| to.node(n).hold == Hold::Free) else { continue };
        let wanted_at = from.by_guid(have.guid).filter(|&w| from.node(w).hold == Hold::Free).map(|w| from.path(w));
        match wanted_at {
            Some(path) if Some(n) != inbox && !is_inbox(&path) => {
                target.homes[dest].insert(have.guid, path);
            }
            _ => rest.push((n, have.guid)),
        }
    }
    let mut taken: HashSet<Vec<String>> = target.homes[dest].values().cloned().collect();
    for (n, guid) in rest {
        let path = to.path(n);
        let wanted = target.names.get(&path).is_some_and(|w| w.mailbox.is_some());
        if wanted && taken.insert(path.clone()) {
            target.homes[dest].insert(guid, path);
        } else if Some(n) != inbox {
            target.doomed[dest].insert(guid, 0);
        }
    }
}

/// Towards a Dovecot: the tree that its own changes will leave there (sync.md 4.9). `peer` is its side.
pub(super) fn adopted(input: &Input<'_, '_>, peer: usize) -> Result<Target, TreeError> {
    let own = 1 - peer;
    let (mut theirs, _) = prepared(input, peer, true);
    theirs.run().map_err(|Stuck| TreeError::Stuck)?;
    let (mut ours, _) = prepared(input, own, true);
    ours.run().map_err(|Stuck| TreeError::Stuck)?;

    let peer_role = if peer == 0 { input.role } else { input.role.opposite() };
    let mut disk = disk(&input.facts[peer]);
    if !peer_role.is_source() {
        for change in &theirs.changes {
            // What its disk refuses it reports and leaves out; so do we.
            let _ = disk.apply(change, peer_role == Role::OneWayDestination);
        }
    }
    let mut target = Target::default();
    let mut known: HashMap<MailboxGuid, Mailbox> = HashMap::new();
    for side in input.facts {
        known.extend(side.tree.subtree(ROOT).into_iter().filter_map(|n| side.tree.mailbox(n)).map(|m| (m.guid, m)));
    }
    for (name, content) in &disk.names {
        let mailbox = content.and_then(|guid| known.get(&guid)).copied();
        target.want(name.levels(), mailbox, mailbox.is_none(), time_at(&theirs.trees[L], name.levels()));
    }
    for (s, tree) in [(own, &ours.trees[L]), (peer, &theirs.trees[L])] {
        for n in tree.subtree(ROOT) {
            let Some(mailbox) = tree.existing_mailbox(n) else { continue };
            let at = disk.names.iter().find(|(_, g)| **g == Some(mailbox.guid)).map(|(name, _)| name.levels().to_vec());
            let here = Some(tree.path(n)).filter(|p| target.names.get(p).is_some_and(|w| w.mailbox.is_some()));
            if let Some(home) = at.or(here) {
                target.homes[s].insert(mailbox.guid, home);
            }
        }
    }
    doom(&mut target, input, &ours.trees);
    for (path, known) in subscriptions(&input.facts[own].tree) {
        target.subscriptions.insert(path, Subscription { subscribed: false, ..known });
    }
    for name in &disk.subscribed {
        let time = time_at(&theirs.trees[L], name.levels());
        target.subscriptions.insert(name.levels().to_vec(), Subscription { time, subscribed: true });
    }
    Ok(target)
}

fn time_at(tree: &Arena, path: &[String]) -> u64 {
    tree.find(strs(path)).map_or(0, |n| tree.node(n).time)
}

/// A side's names as they lie on disk.
fn disk(side: &Facts<'_>) -> Disk {
    let mut disk = Disk { flat: side.rules.no_directories, ..Disk::default() };
    for n in side.tree.subtree(ROOT).into_iter().skip(1) {
        let Some(name) = side.tree.full_name(n) else { continue };
        let node = side.tree.node(n);
        if node.hold != Hold::Free {
            continue;
        }
        if node.subscribed {
            disk.subscribed.insert(name.clone());
        }
        if node.state == State::Exists {
            disk.names.insert(name, side.tree.guid(n));
        }
    }
    disk
}
