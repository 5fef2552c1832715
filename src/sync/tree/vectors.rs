//! The 156 random histories that Dovecot 2.3.19.1 has played (tests/fixtures/sync/tree-vectors.json.gz): what it did in its
//! first run is what we predict.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde_json::Value;

use crate::mail::{
    Deletion, DeletionKey, Existence, Identity, MailboxGuid, MailboxName, NameHash, NameRules, Node, Timestamp, Tree, Uid,
    UidValidity,
};
use crate::sync::{Mode, Source};

use super::arena::{Arena, Mailbox, ROOT, State};
use super::disk::Disk;
use super::log::{self, Removal, Removed};
use super::merge::{Keep, Merge};
use super::model::{Layout, Model};
use super::{Peer, Side, TreeOptions, execute, plan};

/// A list from a packed file.
pub(super) fn fixture(packed: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("the fixture is gzip");
    let Ok(Value::Array(all)) = serde_json::from_str(&text) else { panic!("the fixture is a list") };
    all
}

pub(super) type Names = BTreeMap<String, Option<String>>;

pub(super) struct Vector(pub Value);

impl Vector {
    pub fn all() -> Vec<Self> {
        fixture(include_bytes!("../../../tests/fixtures/sync/tree-vectors.json.gz")).into_iter().map(Self).collect()
    }

    pub fn keep(&self, side: &str) -> Keep {
        match (self.0["command"].as_str(), side) {
            (Some("sync"), _) => Keep::Both,
            (Some("backup"), "A") | (Some("backup -R"), "B") => Keep::Local,
            _ => Keep::Remote,
        }
    }

    /// The outcome of run `n` at a side.
    pub fn after(&self, n: usize, side: &str) -> (Names, BTreeSet<String>) {
        let runs = self.0["runs"].as_array().expect("runs");
        let run = runs[..=n].iter().rev().find(|r| r.get(side).is_some()).expect("the first run tells all");
        let names = run[side].as_object().expect("names").iter();
        let names = names.map(|(k, v)| (k.clone(), v.as_str().map(str::to_owned))).collect();
        let subscribed = run[format!("{side}_subscriptions")].as_array().expect("list").iter();
        (names, subscribed.map(|v| v.as_str().expect("name").to_owned()).collect())
    }
}

pub(super) fn guid(v: &Value) -> Option<MailboxGuid> {
    let bytes = hex::decode(v.as_str()?).ok()?;
    MailboxGuid::new(bytes.try_into().ok()?)
}

/// A name, or its levels.
fn levels(v: &Value) -> Vec<String> {
    if let Value::Array(levels) = v {
        return levels.iter().map(|l| l.as_str().expect("a level").to_owned()).collect();
    }
    v.as_str().expect("a name").split('/').map(str::to_owned).collect()
}

fn arena(v: &Value) -> Arena {
    let mut tree = Arena::new();
    for row in v["nodes"].as_array().expect("nodes") {
        let path = levels(&row[0]);
        let n = tree.make(path.iter().map(String::as_str));
        let number = |i: usize| u32::try_from(row[i].as_u64().expect("number")).expect("32 bits");
        let mailbox = guid(&row[2]).map(|guid| Mailbox {
            guid,
            uidvalidity: UidValidity::new(number(3)).expect("set"),
            uid_next: Uid::new(number(4)).expect("set"),
        });
        tree.set_mailbox(n, mailbox);
        let node = tree.node_mut(n);
        node.state = if row[1] == "y" { State::Exists } else { State::Nonexistent };
        node.time = number(5).into();
        node.subscribed = number(6) == 1;
        node.subscription_time = number(7).into();
    }
    tree
}

fn removals(v: &Value, seen_in: &Arena) -> Vec<Removal> {
    let by_hash: BTreeMap<String, Vec<String>> = seen_in
        .subtree(ROOT)
        .into_iter()
        .skip(1)
        .map(|n| seen_in.path(n))
        .map(|p| (hex::encode(NameHash::of(&p.join("/")).0), p))
        .collect();
    let rows = v["deletes"].as_array().expect("deletes").iter();
    rows.filter_map(|row| {
        let key = row[1].as_str().expect("key");
        let what = match row[0].as_str() {
            Some("mailbox") => Removed::Mailbox(guid(&row[1])?),
            Some("dir") => Removed::Directory(by_hash.get(key)?.clone()),
            _ => Removed::Subscription(by_hash.get(key)?.clone()),
        };
        Some(Removal { what, by_the_way: false, time: row[2].as_u64().expect("time") })
    })
    .collect()
}

/// Dovecot's merge as this side makes it.
pub(super) fn merged(v: &Vector, side: &str) -> Merge {
    let other = if side == "A" { "B" } else { "A" };
    let mut trees = [arena(&v.0[side]), arena(&v.0[other])];
    let mine = removals(&v.0[side], &trees[1]);
    let theirs = removals(&v.0[other], &trees[0]);
    log::apply(&mut trees, &mine, &theirs, true);
    let [local, remote] = trees;
    let mut merge = Merge::new(local, remote, v.keep(side));
    merge.run().expect("it ends");
    merge
}

/// A side as its store tells it.
pub(super) fn store_tree(v: &Value) -> Tree {
    let row = |row: &Value| {
        let number = |i: usize| u32::try_from(row[i].as_u64().expect("number")).expect("32 bits");
        let identity = guid(&row[2]).map(|guid| Identity {
            guid,
            uidvalidity: UidValidity::new(number(3)).expect("set"),
            uid_next: Uid::new(number(4).max(1)).expect("set"),
        });
        Node {
            name: MailboxName::new(levels(&row[0])).expect("a name"),
            existence: if row[1] == "y" { Existence::Exists } else { Existence::Nonexistent },
            identity,
            renamed: Timestamp(number(5)),
            subscribed: number(6) == 1,
            subscription_changed: Timestamp(number(7)),
            special_use: Vec::new(),
        }
    };
    let deletion = |row: &Value| {
        let key = row[1].as_str().expect("key");
        let hash = || NameHash(hex::decode(key).expect("hex").try_into().expect("16 bytes"));
        let key = match row[0].as_str() {
            Some("mailbox") => DeletionKey::Mailbox(guid(&row[1]).expect("a GUID")),
            Some("dir") => DeletionKey::Directory(hash()),
            _ => DeletionKey::Subscription(hash()),
        };
        Deletion { key, time: Timestamp(u32::try_from(row[2].as_u64().expect("time")).expect("32 bits")) }
    };
    Tree {
        nodes: v["nodes"].as_array().expect("nodes").iter().map(row).collect(),
        deletions: v["deletes"].as_array().expect("deletes").iter().map(deletion).collect(),
        rules: NameRules::default(),
        problems: Vec::new(),
    }
}

/// What is on disk before.
fn disk(v: &Value) -> Disk {
    let mut disk = Disk::default();
    for (name, content) in v["mailboxes"].as_object().expect("mailboxes") {
        disk.names.insert(MailboxName::parse(name, '/').expect("a name"), guid(content));
    }
    for name in v["subscriptions"].as_array().expect("list") {
        disk.subscribed.insert(MailboxName::parse(name.as_str().expect("a name"), '/').expect("a name"));
    }
    disk
}

fn shown(disk: &Disk) -> (Names, BTreeSet<String>) {
    let names = disk.names.iter().map(|(n, g)| (n.to_string(), g.map(|g| g.to_string()))).collect();
    (names, disk.subscribed.iter().map(ToString::to_string).collect())
}

#[test]
fn dovecots_first_run_is_predicted_exactly() {
    let mut wrong = Vec::new();
    for v in Vector::all() {
        for side in ["A", "B"] {
            let merge = merged(&v, side);
            let mut disk = disk(&v.0[side]);
            for change in &merge.changes {
                let _ = disk.apply(change, v.keep(side) == Keep::Remote);
            }
            let (got, want) = (shown(&disk), v.after(0, side));
            if got != want {
                wrong.push(format!(
                    "{}{side} {}\n  {:?}\n  got {got:?}\n want {want:?}",
                    v.0["id"], v.0["command"], merge.changes
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A store with what a side has.
fn model(v: &Value) -> Model {
    let model = Model::new(Layout::Dbox);
    model.state().disk = disk(v);
    for node in store_tree(v).nodes {
        model.state().identities.extend(node.identity.map(|i| (i.guid, i)));
    }
    model
}

fn mode(v: &Vector) -> Mode {
    match v.0["command"].as_str() {
        Some("sync") => Mode::TwoWay,
        Some("backup") => Mode::Backup(Source::Master),
        _ => Mode::Backup(Source::Slave),
    }
}

/// Plans a side's part and carries it out.
fn own_part(v: &Vector, side: Side, peer: Peer) -> (Names, BTreeSet<String>) {
    let (here, there) = if side == Side::Master { ("A", "B") } else { ("B", "A") };
    let options = TreeOptions { allow_empty_source: true, peer, ..TreeOptions::new(mode(v), side) };
    let plan = plan(&store_tree(&v.0[here]), &store_tree(&v.0[there]), &options).expect("a plan");
    let model = model(&v.0[here]);
    let outcome = execute(&mut model.clone(), &plan.actions).expect("it works");
    assert!(outcome.desync.is_empty(), "{}: {:?} of {:#?}", v.0["id"], outcome.desync, plan.actions);
    let state = model.state();
    shown(&state.disk)
}

#[test]
fn we_end_in_one_run_where_dovecot_ends() {
    let (mut wrong, mut same) = (Vec::new(), 0);
    for v in Vector::all() {
        let [a, b] = [Side::Master, Side::Slave].map(|side| own_part(&v, side, Peer::Ours));
        assert_eq!(a, b, "{} {}", v.0["id"], v.0["ops"]);
        if v.after(0, "A") == v.after(0, "B") {
            same += 1;
            if a != v.after(0, "A") {
                let case = format!("{} {} {} {}", v.0["id"], v.0["command"], v.0["initial"], v.0["ops"]);
                wrong.push(format!("{case}\n  we {a:?}\n  it {:?}", v.after(0, "A")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {same} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn beside_a_dovecot_we_end_where_it_ends() {
    let mut wrong = Vec::new();
    for v in Vector::all().iter().filter(|v| mode(v) == Mode::TwoWay) {
        for (side, peer) in [(Side::Master, "B"), (Side::Slave, "A")] {
            let (we, it) = (own_part(v, side, Peer::Dovecot), v.after(0, peer));
            if we != it {
                wrong.push(format!("{} {peer} {} {}\n  we {we:?}\n  it {it:?}", v.0["id"], v.0["initial"], v.0["ops"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
