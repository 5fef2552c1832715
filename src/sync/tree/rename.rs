//! The renames of Dovecot's tree merge (sync.md 4.2, 4.3): both trees are rearranged in memory until every mailbox that both
//! have has one name.
//!
//! Two nodes at one path that hold different things contradict each other. The side whose node was renamed later wins; without
//! times a comparison of everything from the contested place on decides. The loser's mailbox moves to where the winner has
//! it, and who sat there gets a temporary name until his own place is found.

use std::cmp::Ordering;

use md5::{Digest, Md5};

use super::arena::{Arena, Id, ROOT, State};
use super::merge::{Change, Keep, L, Merge, R, Stuck};

/// Dovecot cuts a level before it appends a temporary suffix, bytes.
const TEMP_BASE_MAX: usize = 86;
/// How long a level with its final suffix may get, bytes.
pub(super) const FINAL_MAX: usize = 100;

impl Merge {
    /// Rearranges until nothing contradicts.
    pub(super) fn settle_names(&mut self, nodes: usize) -> Result<(), Stuck> {
        self.moves_left = self.patience * nodes + 1;
        while self.rename_pass(ROOT, ROOT) {
            if self.moves_left == 0 {
                return Err(Stuck);
            }
        }
        Ok(())
    }

    /// Walks two nodes of one path; true when it moved something, so that the walk must begin anew. Where we need not do as
    /// Dovecot does, the walk goes on as far as it can before it begins anew.
    fn rename_pass(&mut self, lp: Id, rp: Id) -> bool {
        let (mut i, mut j) = (0, 0);
        let mut moved = false;
        loop {
            let l = self.trees[L].children(lp).get(i).copied();
            let r = self.trees[R].children(rp).get(j).copied();
            let order = match (l, r) {
                (None, None) => return moved,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(l), Some(r)) => self.trees[L].name(l).cmp(self.trees[R].name(r)),
            };
            match order {
                Ordering::Less => self.mirror(L, lp, i, R, rp),
                Ordering::Greater => self.mirror(R, rp, j, L, lp),
                Ordering::Equal => {}
            }
            let (l, r) = (self.trees[L].children(lp)[i], self.trees[R].children(rp)[j]);
            let name = self.trees[L].name(l).to_owned();
            let settled = self.settle(l, r);
            self.moves_left = self.moves_left.saturating_sub(usize::from(settled));
            if !settled && !self.rename_pass(l, r) {
                (i, j) = (i + 1, j + 1);
                continue;
            }
            if self.as_dovecot || self.moves_left == 0 || self.trees[L].path(lp) != self.trees[R].path(rp) {
                return true;
            }
            moved = true;
            // What is at a name that has just been settled is looked at again.
            let done = |tree: &Arena, c: Id| tree.name(c) < name.as_str() || !settled && tree.name(c) == name;
            i = self.trees[L].children(lp).partition_point(|&c| done(&self.trees[L], c));
            j = self.trees[R].children(rp).partition_point(|&c| done(&self.trees[R], c));
        }
    }

    /// Makes a placeholder in the other tree for the n-th child.
    fn mirror(&mut self, from: usize, parent: Id, n: usize, to: usize, other_parent: Id) {
        let child = self.trees[from].children(parent)[n];
        let name = self.trees[from].name(child).to_owned();
        let temporary = self.trees[from].node(child).temporary;
        let made = self.trees[to].insert(other_parent, &name);
        self.trees[to].node_mut(made).temporary = temporary;
    }

    fn settle(&mut self, l: Id, r: Id) -> bool {
        match (self.trees[L].guid(l), self.trees[R].guid(r)) {
            (None, None) if !self.as_dovecot => false,
            (None, None) => {
                let (Some(r1), Some(l2)) = (self.branch(L, l), self.branch(R, r)) else { return false };
                self.trees[R].path(r1) != self.trees[L].path(l2) && self.resolve(l, Some(r1), Some(l2), r)
            }
            (lg, rg) if lg == rg => false,
            (lg, rg) => {
                let r1 = lg.and_then(|g| self.trees[R].by_guid(g));
                let l2 = rg.and_then(|g| self.trees[L].by_guid(g));
                (r1.is_some() || l2.is_some()) && self.resolve(l, r1, l2, r)
            }
        }
    }

    /// Where the other tree has what is in this directory: the parent of the first mailbox that both have.
    fn branch(&self, t: usize, dir: Id) -> Option<Id> {
        let (tree, other) = (&self.trees[t], &self.trees[1 - t]);
        // A preorder walk that does not enter mailboxes.
        let mut todo: Vec<Id> = tree.children(dir).iter().rev().copied().collect();
        while let Some(n) = todo.pop() {
            match tree.guid(n) {
                None => todo.extend(tree.children(n).iter().rev()),
                Some(guid) => {
                    if let Some(found) = other.by_guid(guid) {
                        return Some(other.above(found));
                    }
                }
            }
        }
        None
    }

    /// `l1` and `r2` have one path; `r1` is where the remote side has l1's mailbox, `l2` where the local side has r2's.
    fn resolve(&mut self, l1: Id, r1: Option<Id>, l2: Option<Id>, r2: Id) -> bool {
        let locals = [Some(l1), l2].into_iter().flatten().any(|n| self.is_fixed(L, n));
        let remotes = [r1, Some(r2)].into_iter().flatten().any(|n| self.is_fixed(R, n));
        if locals || remotes {
            return false;
        }
        let local = self.latest(L, Some(l1), l2);
        let remote = self.latest(R, r1, Some(r2));
        let local_wins = match self.keep {
            Keep::Local => true,
            Keep::Remote => false,
            Keep::Both => local > remote || local == remote && self.tiebreak(l1, r2).is_lt(),
        };
        if local_wins { self.enforce(L, l1, r1, l2, r2) } else { self.enforce(R, r2, l2, r1, l1) }
    }

    fn latest(&self, t: usize, a: Option<Id>, b: Option<Id>) -> u64 {
        let time = |n: Option<Id>| n.map(|n| self.trees[t].node(n)).filter(|n| !n.temporary).map_or(0, |n| n.time + 1);
        time(a).max(time(b))
    }

    /// Side `w` has won. `here` (in `w`) and `there` (in the other tree) have one path; `away` is where the other tree has
    /// here's mailbox, `mine` where `w` has there's.
    fn enforce(&mut self, w: usize, here: Id, away: Option<Id>, mine: Option<Id>, there: Id) -> bool {
        let loser = 1 - w;
        let winner_stays = matches!((w, self.keep), (L, Keep::Local) | (R, Keep::Remote));
        let Some(mine_at) = mine else {
            return away.is_some_and(|away| self.take_place(loser, there, away, here));
        };
        if away == Some(there) {
            return false;
        }
        if let Some(away) = away {
            return self.take_place(loser, there, away, here);
        }
        if !winner_stays && self.trees[w].is_inside(here, mine_at) {
            let under = self.trees[w].above(mine_at);
            return self.make_temporary(w, here, under);
        }
        if !winner_stays && self.trees[w].is_inside(mine_at, here) {
            let under = self.trees[w].above(here);
            return self.make_temporary(w, mine_at, under);
        }
        if self.trees[w].node(here).state == State::Exists {
            let under = self.trees[loser].above(there);
            return self.make_temporary(loser, there, under);
        }
        false
    }

    /// Gives a node a name that nobody wants. Always true.
    fn make_temporary(&mut self, t: usize, n: Id, under: Id) -> bool {
        let old = self.trees[t].full_name(n);
        let tree = &mut self.trees[t];
        let name = tree.name(n);
        let base = match (tree.node(n).temporary, self.as_dovecot) {
            (false, _) => name,
            (true, true) => name.rfind('-').map_or(name, |at| &name[..at]),
            (true, false) => temporary_base(name).unwrap_or(name),
        };
        let base = cut(base, TEMP_BASE_MAX).to_owned();
        let siblings = tree.above(n);
        let new = (1u64..)
            .map(|i| format!("{base}-temp-{i:x}"))
            .find(|new| tree.child(siblings, new).is_none())
            .expect("a tree has fewer nodes than there are numbers");
        let node = tree.node_mut(n);
        node.temporary = true;
        node.time = 0;
        tree.move_to(n, under, &new);
        self.log_rename(t, n, old);
        true
    }

    /// Moves `n` in tree `t` to where the other tree has `o`; `victim` sits there. Always true.
    fn take_place(&mut self, t: usize, victim: Id, n: Id, o: Id) -> bool {
        let other = &self.trees[1 - t];
        let place = other.path(other.above(o));
        let p = self.trees[t].make(place.iter().map(String::as_str));
        if self.trees[t].is_inside(p, n) {
            return self.make_temporary(t, n, ROOT);
        }
        let directory = !self.as_dovecot && self.trees[t].mailbox(victim).is_none();
        if !directory {
            let under = self.trees[t].above(victim);
            self.make_temporary(t, victim, under);
        }
        let old = self.trees[t].full_name(n);
        let target = self.trees[1 - t].node(o).clone();
        let name = self.trees[1 - t].name(o).to_owned();
        let node = self.trees[t].node_mut(n);
        node.temporary = target.temporary;
        node.time = target.time;
        self.trees[t].move_to(n, p, &name);
        if directory {
            self.take_in(t, victim, n);
        }
        self.log_rename(t, n, old);
        true
    }

    /// What is below a directory goes below the mailbox that has taken its name. Where both have a mailbox of one name, the
    /// newcomer's waits under a temporary name.
    fn take_in(&mut self, t: usize, directory: Id, mailbox: Id) {
        let mut todo = vec![(directory, mailbox)];
        while let Some((from, into)) = todo.pop() {
            self.trees[t].detach(from);
            for child in self.trees[t].children(from).to_vec() {
                let name = self.trees[t].name(child).to_owned();
                if let Some(twin) = self.trees[t].child(into, &name) {
                    if self.trees[t].mailbox(child).is_none() {
                        todo.push((child, twin));
                        continue;
                    }
                    if self.trees[t].mailbox(twin).is_some() {
                        self.make_temporary(t, twin, into);
                    } else {
                        todo.push((twin, child));
                    }
                }
                self.trees[t].move_to(child, into, &name);
            }
        }
    }

    fn log_rename(&mut self, t: usize, n: Id, from: Option<crate::mail::MailboxName>) {
        if t == L
            && self.trees[t].anything_exists(n)
            && let (Some(from), Some(to)) = (from, self.trees[t].full_name(n))
        {
            self.changes.push(Change::Rename { from, to });
        }
    }

    /// Less: the local side wins. Compares what the sides have from two nodes on, until the first difference: what is there
    /// before what is not, the smaller GUID first, more before less; if all is equal the names.
    fn tiebreak(&self, l: Id, r: Id) -> Ordering {
        self.compare_chains(l, r, |x, y, a, b| {
            let missing = |t: &Arena, n| t.node(n).state != State::Exists;
            let guid = |t: &Arena, n| t.guid(n).map_or([0; 16], |g| *g.bytes());
            missing(x, a).cmp(&missing(y, b)).then_with(|| guid(x, a).cmp(&guid(y, b)))
        })
        .then_with(|| self.compare_chains(l, r, |x, y, a, b| x.name(a).cmp(y.name(b))))
    }

    fn compare_chains(&self, l: Id, r: Id, one: impl Fn(&Arena, &Arena, Id, Id) -> Ordering) -> Ordering {
        let (lt, rt) = (&self.trees[L], &self.trees[R]);
        let following = |t: &Arena, n: Id| {
            let all = t.children(t.above(n));
            let at = all.iter().position(|&c| c == n).unwrap_or(0);
            all[at..].to_vec()
        };
        // Pairs of chains still to be compared: the children of the last compared pair first.
        let mut todo = vec![(following(lt, l), 0, following(rt, r))];
        while let Some((ls, at, rs)) = todo.pop() {
            match (ls.get(at), rs.get(at)) {
                (None, None) => {}
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (Some(&a), Some(&b)) => {
                    let order = one(lt, rt, a, b);
                    if order.is_ne() {
                        return order;
                    }
                    let below = (lt.children(a).to_vec(), 0, rt.children(b).to_vec());
                    todo.push((ls, at + 1, rs));
                    todo.push(below);
                }
            }
        }
        Ordering::Equal
    }

    /// A temporary name that only one side has is what an interrupted run, or one that could not change the other side, has left:
    /// it counts for nothing against the other side's name.
    pub(super) fn mark_leftovers(&mut self) {
        for t in [L, R] {
            let (tree, other) = (&self.trees[t], &self.trees[1 - t]);
            let is_leftover = |n: &Id| {
                let there = tree.guid(*n).and_then(|guid| other.by_guid(guid));
                temporary_base(tree.name(*n)).is_some() && there.is_some_and(|o| temporary_base(other.name(o)).is_none())
            };
            let leftovers: Vec<Id> = tree.subtree(ROOT).into_iter().filter(is_leftover).collect();
            for n in leftovers {
                self.trees[t].node_mut(n).temporary = true;
            }
        }
    }

    /// Gives the nodes that still have temporary names final ones; true if there were any.
    pub(super) fn final_names(&mut self, t: usize) -> bool {
        let mut renamed = false;
        while let Some(n) = self.deepest_temporary(t) {
            renamed = true;
            match self.final_suffix(t, n) {
                Some(suffix) => self.give_final_name(t, n, suffix),
                None => self.drop_directories(t, n),
            }
        }
        renamed
    }

    /// The first temporary node in the order "children first".
    fn deepest_temporary(&self, t: usize) -> Option<Id> {
        let tree = &self.trees[t];
        let mut todo = vec![(ROOT, 0)];
        while let Some((n, at)) = todo.pop() {
            if let Some(&child) = tree.children(n).get(at) {
                todo.push((n, at + 1));
                todo.push((child, 0));
            } else if tree.node(n).temporary {
                return Some(n);
            }
        }
        None
    }

    /// `None`: there is no mailbox here nor below.
    fn final_suffix(&self, t: usize, n: Id) -> Option<String> {
        let tree = &self.trees[t];
        if let Some(guid) = tree.guid(n) {
            return Some(guid.to_string());
        }
        let below = tree.subtree(n);
        below.iter().find(|&&d| tree.existing_mailbox(d).is_some())?;
        let first = below.into_iter().skip(1).find(|&d| tree.node(d).state == State::Exists)?;
        let mut hash = Md5::new();
        hash.update(tree.guid(first).map_or([0; 16], |g| *g.bytes()));
        hash.update(tree.name(first));
        Some(hex::encode(hash.finalize()))
    }

    fn give_final_name(&mut self, t: usize, n: Id, mut suffix: String) {
        let tree = &mut self.trees[t];
        let name = tree.name(n);
        let base = &name[..name.rfind('-').map_or(0, |at| at + 1)];
        let base = cut(base, FINAL_MAX - suffix.len() - 1).to_owned();
        let parent = tree.above(n);
        while let Some(there) = tree.child(parent, &format!("{base}{suffix}")).filter(|&c| c != n) {
            if !self.as_dovecot && !tree.anything_exists(there) {
                tree.discard(there);
            } else {
                count_up(&mut suffix);
            }
        }
        tree.node_mut(n).temporary = false;
        tree.move_to(n, parent, &format!("{base}{suffix}"));
    }

    /// The directories go; their subscriptions stay where they are.
    fn drop_directories(&mut self, t: usize, n: Id) {
        let mut below = self.trees[t].subtree(n);
        below.reverse();
        for d in below {
            if t == L
                && self.keep != Keep::Local
                && self.trees[t].node(d).state != State::Nonexistent
                && let Some(name) = self.trees[t].full_name(d)
            {
                self.changes.push(Change::DeleteDir { name });
            }
            let node = self.trees[t].node_mut(d);
            node.state = State::Nonexistent;
            node.temporary = false;
        }
    }
}

/// What a temporary name, ours or Dovecot's, was made from.
fn temporary_base(name: &str) -> Option<&str> {
    let (base, suffix) = name.rsplit_once("-temp-")?;
    let hex = (1..=32).contains(&suffix.len()) && suffix.bytes().all(|b| b.is_ascii_hexdigit());
    (hex && !base.is_empty()).then_some(base)
}

/// The longest beginning of at most `max` bytes.
pub(super) fn cut(s: &str, max: usize) -> &str {
    let end = (0..=max.min(s.len())).rev().find(|&i| s.is_char_boundary(i)).unwrap_or(0);
    &s[..end]
}

/// The next number in hex digits, which never gets longer: after `ff..f` begins `00..0`.
fn count_up(hex: &mut String) {
    let mut digits: Vec<char> = hex.chars().collect();
    for d in digits.iter_mut().rev() {
        let next = d.to_digit(16).map_or(0, |v| (v + 1) % 16);
        *d = char::from_digit(next, 16).unwrap_or('0');
        if next != 0 {
            break;
        }
    }
    *hex = digits.into_iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_counts_with_carry() {
        let mut s = "1ff".to_owned();
        count_up(&mut s);
        assert_eq!(s, "200");
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 9), "aé");
    }
}
