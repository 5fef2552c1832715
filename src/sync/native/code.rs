//! Messages as octets.
//!
//! ```text
//! message = length(4, little endian) postcard(Said) more
//! ```
//! What was thought of later stands in `more`, which those that know nothing of it skip; where it is missing, it is empty:
//! after `Hello` a `HelloMore`, after `Guids` the GUIDs of mails that need not be sent.
//!
//! A mail's text follows its `Mail` in `Text` parts and ends with `TextEnd`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NativeError;
use super::metered::{Meter, Metered};
use crate::mail::{self, Class, Deletion, Guid128, MailGuid, MailboxName, NameRules, Node, Tree, Uid};
use crate::sync::Placement;
use crate::sync::last_copy::{Farewell, Text};
use crate::sync::merge::Facts;
use crate::sync::message::{Attributes, Failure, Finish, KnownMail, Message, Offer, RoundEnd};

/// The longest message: half of what somebody takes who was told of as many mails as can be told of.
const MOST: usize = 2 << 30;

/// What the master wants beyond the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The state string of `-s`.
    pub state: Option<String>,
    /// A backup from an empty source is wanted.
    pub allow_empty_source: bool,
    /// How many mails are committed together.
    pub commit_interval: u32,
    #[serde(skip)]
    pub more: HelloMore,
}

/// What else it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HelloMore {
    /// Where mails go (`--alt`). An older slave keeps them where they lie at the master.
    pub placement: Placement,
}

/// A tree, with the reasons of its problems as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TreeSaid {
    nodes: Vec<Node>,
    deletions: Vec<Deletion>,
    rules: NameRules,
    problems: Vec<(MailboxName, Class, String)>,
}

/// One thing said.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Hello(Hello),
    Tree(Result<TreeSaid, Failure>),
    TreeDone(Result<(), Failure>),
    Locked,
    Offer(Result<Box<Offer>, Failure>),
    Attributes(Box<Attributes>),
    Facts(Box<Facts>),
    Guids(Vec<Option<MailGuid>>, #[serde(skip)] Vec<Guid128>),
    Mail(MailSaid),
    Text(#[serde(with = "octets")] Vec<u8>),
    /// All of the text was sent; or it could not be read to its end.
    TextEnd(Result<(), String>),
    Gone,
    Credit(u32),
    Done(Result<RoundEnd, Failure>),
    Finish(Finish),
    Known(Box<KnownMail>),
    Uids(Vec<(Uid, Uid)>),
    Going(Vec<Farewell>),
    Texts(Vec<Option<Text>>),
    Elsewhere(Vec<bool>),
}

/// Octets in one piece: written as any list of them, only at once.
mod octets {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(data: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(data.as_ref())
    }

    struct Octets;

    impl Visitor<'_> for Octets {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("octets")
        }

        fn visit_bytes<E: Error>(self, data: &[u8]) -> Result<Vec<u8>, E> {
            Ok(data.to_vec())
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(Octets)
    }
}

/// A mail without its text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MailSaid {
    pub uid: Uid,
    pub guid: MailGuid,
    pub facts: mail::Facts,
    pub virtual_size: Option<u64>,
}

/// Writes a message.
pub(super) fn write(said: &Said, out: &mut Vec<u8>) -> Result<(), NativeError> {
    let start = out.len();
    out.extend([0; 4]);
    let cannot = |_| NativeError("a message that cannot be written");
    let data = postcard::to_extend(said, std::mem::take(out)).map_err(cannot)?;
    let mut data = match said {
        Said::Hello(hello) => postcard::to_extend(&hello.more, data).map_err(cannot)?,
        Said::Guids(_, here) if !here.is_empty() => postcard::to_extend(here, data).map_err(cannot)?,
        _ => data,
    };
    let len = data.len() - start - 4;
    if len > MOST {
        return Err(NativeError("too much for one message"));
    }
    data[start..start + 4].copy_from_slice(&u32::try_from(len).expect("holds because of the limit").to_le_bytes());
    *out = data;
    Ok(())
}

/// A message that was read.
#[derive(Debug)]
pub(super) struct Got {
    pub said: Said,
    /// How many octets it took on the line.
    pub used: usize,
    /// And, about, in memory.
    pub weight: usize,
}

/// Reads the message at the beginning, if it is there as a whole. It may take so much memory, and half of that on the line.
pub(super) fn read(octets: &[u8], most: usize) -> Result<Option<Got>, NativeError> {
    const TOO_MUCH: NativeError = NativeError("too much at once");
    let Some((len, rest)) = octets.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > most / 2 {
        return Err(TOO_MUCH);
    }
    let Some(data) = rest.get(..len) else { return Ok(None) };
    let meter = Meter::new(most);
    let failed = |_| if meter.left() == 0 { TOO_MUCH } else { NativeError("a message that makes no sense") };
    let mut from = postcard::Deserializer::from_bytes(data);
    let mut said = Said::deserialize(Metered::new(&mut from, &meter)).map_err(failed)?;
    let more = from.finalize().map_err(failed)?;
    let mut from = postcard::Deserializer::from_bytes(more);
    let from = Metered::new(&mut from, &meter);
    match &mut said {
        Said::Hello(hello) if !more.is_empty() => hello.more = HelloMore::deserialize(from).map_err(failed)?,
        Said::Guids(_, here) if !more.is_empty() => *here = Vec::deserialize(from).map_err(failed)?,
        _ => {}
    }
    Ok(Some(Got { said, used: 4 + len, weight: size_of::<Said>() + most - meter.left() }))
}

/// A message as it is said; a mail without its text.
pub(super) fn said(message: &Message) -> Said {
    match message {
        Message::Tree(tree) => Said::Tree(tree.as_ref().map_err(Clone::clone).map(|t| TreeSaid {
            nodes: t.nodes.clone(),
            deletions: t.deletions.clone(),
            rules: t.rules.clone(),
            problems: t.problems.iter().map(|(n, e)| (n.clone(), e.class(), e.to_string())).collect(),
        })),
        Message::TreeDone(r) => Said::TreeDone(r.clone()),
        Message::Locked => Said::Locked,
        Message::Offer(o) => Said::Offer(o.clone()),
        Message::Attributes(a) => Said::Attributes(a.clone()),
        Message::Facts(f) => Said::Facts(Box::new(Facts::clone(f))),
        Message::Guids(g, here) => Said::Guids(g.clone(), here.clone()),
        Message::Going(g) => Said::Going(g.clone()),
        Message::Texts(t) => Said::Texts(t.clone()),
        Message::Uids(u) => Said::Uids(u.clone()),
        Message::Elsewhere(e) => Said::Elsewhere(e.clone()),
        Message::Mail(m) => {
            Said::Mail(MailSaid { uid: m.uid, guid: m.guid.clone(), facts: m.facts.clone(), virtual_size: m.body.virtual_size })
        }
        Message::Known(k) => Said::Known(k.clone()),
        Message::Gone => Said::Gone,
        Message::Credit(n) => Said::Credit(*n),
        Message::Done(r) => Said::Done(r.clone()),
        Message::Finish(f) => Said::Finish(f.clone()),
    }
}

/// A message that was said, if it is one that stands by itself.
pub(super) fn message(said: Said) -> Result<Message, NativeError> {
    Ok(match said {
        Said::Tree(tree) => Message::Tree(tree.map(|t| {
            let problems = t.problems.into_iter().map(|(n, class, text)| (n, mail::Error::new(class, text))).collect();
            Arc::new(Tree { nodes: t.nodes, deletions: t.deletions, rules: t.rules, problems })
        })),
        Said::TreeDone(r) => Message::TreeDone(r),
        Said::Locked => Message::Locked,
        Said::Offer(o) => Message::Offer(o),
        Said::Attributes(a) => Message::Attributes(a),
        Said::Facts(f) => Message::Facts(Arc::new(checked(*f)?)),
        Said::Guids(g, here) => Message::Guids(g, here),
        Said::Going(g) => Message::Going(g),
        Said::Texts(t) => Message::Texts(t),
        Said::Uids(u) => Message::Uids(ranges(u)?),
        Said::Elsewhere(e) => Message::Elsewhere(e),
        Said::Known(k) => Message::Known(k),
        Said::Gone => Message::Gone,
        Said::Credit(n) => Message::Credit(n),
        Said::Done(r) => Message::Done(r),
        Said::Finish(f) => Message::Finish(f),
        Said::Hello(_) | Said::Mail(_) | Said::Text(_) | Said::TextEnd(_) => return Err(NativeError("a message out of turn")),
    })
}

/// Facts as the decisions take them for granted: ascending.
fn checked(facts: Facts) -> Result<Facts, NativeError> {
    let ascending = facts.items.is_sorted_by(|a, b| a.uid < b.uid) && facts.expunged.is_sorted_by(|a, b| a.uid < b.uid);
    let ranged = [&facts.held_back, &facts.native, &facts.synced].into_iter().all(|r| are_ranges(r));
    if ascending && ranged { Ok(facts) } else { Err(NativeError("facts out of order")) }
}

fn are_ranges(r: &[(Uid, Uid)]) -> bool {
    r.iter().all(|(a, b)| a <= b) && r.is_sorted_by(|a, b| a.1 < b.0)
}

fn ranges(r: Vec<(Uid, Uid)>) -> Result<Vec<(Uid, Uid)>, NativeError> {
    if are_ranges(&r) { Ok(r) } else { Err(NativeError("UIDs out of order")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn again(said: &Said) -> Said {
        let mut wire = Vec::new();
        write(said, &mut wire).expect("short");
        let got = read(&wire, 1 << 20).expect("well formed").expect("whole");
        assert_eq!(got.used, wire.len());
        got.said
    }

    /// What the first version wrote and read.
    #[derive(Debug, Serialize, Deserialize)]
    enum First {
        Hello { state: Option<String>, allow_empty_source: bool, commit_interval: u32 },
    }

    #[test]
    fn an_older_peer_skips_what_came_later() {
        let placement = Placement::OlderThan(Timestamp(7));
        let hello =
            Hello { state: Some("s".into()), allow_empty_source: true, commit_interval: 9, more: HelloMore { placement } };
        let Said::Hello(seen) = again(&Said::Hello(hello.clone())) else { panic!("a hello") };
        assert_eq!(seen, hello);

        let mut wire = Vec::new();
        write(&Said::Hello(hello), &mut wire).expect("short");
        let First::Hello { state, commit_interval, .. } = postcard::from_bytes(&wire[4..]).expect("the old part is as it was");
        assert_eq!((state.as_deref(), commit_interval), (Some("s"), 9));

        let old = First::Hello { state: None, allow_empty_source: false, commit_interval: 3 };
        let old = postcard::to_stdvec(&old).expect("short");
        let mut wire = u32::try_from(old.len()).expect("short").to_le_bytes().to_vec();
        wire.extend(old);
        let Ok(Some(Got { said: Said::Hello(seen), .. })) = read(&wire, 1000) else { panic!("a hello") };
        assert_eq!((seen.commit_interval, seen.more), (3, HelloMore::default()));
    }

    #[test]
    fn texts_and_guids_come_back() {
        let text: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        let Said::Text(seen) = again(&Said::Text(text.clone())) else { panic!("a text") };
        assert_eq!(seen, text);
        assert_eq!(
            postcard::to_stdvec(&Said::Text(text.clone())).expect("short")[1..],
            postcard::to_stdvec(&text).expect("short")[..],
            "as a list"
        );
        for here in [Vec::new(), vec![MailGuid::from_bytes([3; 16]).to_128()]] {
            let Said::Guids(guids, seen) = again(&Said::Guids(vec![None], here.clone())) else { panic!("GUIDs") };
            assert_eq!((guids, seen), (vec![None], here));
        }
        let going = vec![Farewell { uid: Uid::FIRST, guid: MailGuid::from_bytes([4; 16]), received: Timestamp(5) }];
        let Said::Going(seen) = again(&Said::Going(going.clone())) else { panic!("mails that go") };
        assert_eq!(seen, going);
    }

    fn facts(mails: u32, keywords: usize) -> Said {
        use crate::mail::{Flags, Identity, Keyword, MailboxGuid, ModSeq, Status, UidValidity};
        let keywords: crate::mail::Keywords = (0..keywords).map(|n| Keyword::new(&format!("$Keyword-{n}"))).collect();
        let uids = || (1..=mails).filter_map(Uid::new);
        let identity = Identity {
            guid: MailboxGuid::new([1; 16]).expect("not zero"),
            uidvalidity: UidValidity::new(1).expect("not zero"),
            uid_next: Uid::FIRST,
        };
        let status = Status {
            identity,
            messages: mails,
            first_recent: Uid::FIRST,
            highest_modseq: ModSeq(1),
            highest_private_modseq: ModSeq(0),
        };
        let item = |uid| crate::sync::merge::Item {
            uid,
            guid: Some(Guid128([5; 16])),
            flags: Flags::SEEN,
            keywords: keywords.clone(),
            modseq: ModSeq(1 << 20),
            log: None,
            filtered: false,
        };
        Said::Facts(Box::new(Facts { items: uids().map(item).collect(), ..Facts::new(status) }))
    }

    #[test]
    fn honest_mails_take_less_than_a_kilobyte() {
        for keywords in [0, 3, 6] {
            let mut wire = Vec::new();
            write(&facts(1000, keywords), &mut wire).expect("short");
            let got = read(&wire, 1000 << 10).expect("little").expect("whole");
            assert!((100_000..1000 << 10).contains(&got.weight), "{keywords}: {}", got.weight);
            assert!(read(&wire, 50_000).is_err(), "{keywords}");
        }
    }

    /// Few octets that would be much in memory.
    #[test]
    fn what_blows_up_is_refused() {
        let most = 1 << 20;
        let number = |n: usize| postcard::to_stdvec(&n).expect("short");
        let list = |head: &[u8], element: &[u8]| {
            let n = (most / 2 - 100) / element.len();
            let data = [head, &number(n), &element.repeat(n)].concat();
            [&u32::try_from(data.len()).expect("short").to_le_bytes(), &data[..]].concat()
        };
        let levels = [&[1, 0, 1][..], &number(1 << 18), &[1, b'a'].repeat(1 << 18)].concat();
        let levels = [&u32::try_from(levels.len()).expect("short").to_le_bytes()[..], &levels].concat();
        for (what, wire) in [("GUIDs", list(&[7], &[0])), ("UIDs", list(&[16], &[1, 1])), ("levels", levels)] {
            let error = read(&wire, most).expect_err(what).to_string();
            assert_eq!(error, "the other side sent too much at once", "{what}");
        }
        assert_eq!(read(&[0, 0, 0, 9], most).expect_err("long").to_string(), "the other side sent too much at once");
    }
}
