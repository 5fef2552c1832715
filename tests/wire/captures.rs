//! Every recorded session is understood as an independent decoder understood it, and written again octet by octet.

use std::collections::BTreeMap;

use dsync::wire::{CacheField, ChangeType, Decoder, Event, Headers, Item, Kind, NodeExistence, Stuffer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The recorded files by name.
pub fn files() -> BTreeMap<String, Vec<u8>> {
    let packed = include_bytes!("../fixtures/wire/captures.zst");
    let mut rest = &zstd::decode_all(&packed[..]).expect("our own file")[..];
    let mut out = BTreeMap::new();
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let line = std::str::from_utf8(&rest[..end]).expect("a name and a size");
        let (name, size) = line.split_once(' ').expect("a name and a size");
        let size: usize = size.parse().expect("a size");
        out.insert(name.to_owned(), rest[end + 1..end + 1 + size].to_vec());
        rest = &rest[end + 1 + size..];
    }
    out
}

/// Items, with the streams that belong to them.
type Items = Vec<(Item, Option<Vec<u8>>)>;

/// All events of one direction, streams whole.
pub fn decode(wire: &[u8], step: usize) -> (Headers, Items) {
    let mut decoder = Decoder::default();
    let mut items: Items = Vec::new();
    for part in wire.chunks(step) {
        decoder.feed(part);
        while let Some(event) = decoder.next_event().expect("a real session") {
            match event {
                Event::Headers | Event::DataEnd => {}
                Event::Item(item) => {
                    let stream = item.has_stream().then(Vec::new);
                    items.push((item, stream));
                }
                Event::Data(data) => items.last_mut().expect("an item").1.as_mut().expect("it has a stream").extend(data),
            }
        }
    }
    (decoder.headers().clone(), items)
}

fn encode(headers: &Headers, items: &[(Item, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut out = headers.encode();
    for (item, stream) in items {
        item.write(&mut out, headers);
        if let Some(data) = stream {
            let mut stuffer = Stuffer::default();
            stuffer.add(data, &mut out);
            stuffer.end(&mut out);
        }
    }
    out
}

#[test]
fn every_session_is_written_again_as_it_was() {
    let mut sessions = 0;
    for (name, wire) in files().into_iter().filter(|(n, _)| n.ends_with("-to-server.bin") || n.ends_with("-to-client.bin")) {
        for step in [1 << 20, 1, 7] {
            let (headers, items) = decode(&wire, step);
            assert!(encode(&headers, &items) == wire, "{name} in portions of {step}");
        }
        sessions += 1;
    }
    assert!(sessions >= 58, "{sessions}");
}

#[test]
fn every_session_is_understood() {
    let files = files();
    for (name, wire) in &files {
        let Some((folder, file)) = name.split_once('/') else { continue };
        let direction = match file {
            "client-to-server.bin" => "client_to_server",
            "server-to-client.bin" => "server_to_client",
            _ => continue,
        };
        let expected: Value = serde_json::from_slice(&files[&format!("{folder}/expected.json")]).expect("JSON");
        let expected = expected[direction]["items"].as_array().expect("items");
        let (headers, items) = decode(wire, 1 << 20);
        for (n, (item, stream)) in items.iter().enumerate() {
            let mut wanted = expected[n].clone();
            if let Some(o) = wanted.as_object_mut() {
                o.remove("list");
            }
            assert_eq!(shown(item, stream.as_deref(), &headers), wanted, "{name}: item {n}");
        }
        assert_eq!(items.len(), expected.len(), "{name}");
    }
}

#[test]
fn handshakes_of_every_option_come_back() {
    let files = files();
    let header = &files["51-handshakes/header-lines.bin"];
    let expected: Value = serde_json::from_slice(&files["51-handshakes/expected.json"]).expect("JSON");
    let mut seen = 0;
    for entry in expected.as_object().expect("lists").values().flat_map(|v| v.as_array().into_iter().flatten()) {
        let Some(line) = entry["line_hex"].as_str() else { continue };
        let mut wire = header.clone();
        wire.extend(hex::decode(line).expect("hex"));
        wire.push(b'\n');
        let mut decoder = Decoder::default();
        decoder.feed(&wire);
        assert_eq!(decoder.next_event(), Ok(Some(Event::Headers)));
        let last = decoder.next_event();
        seen += 1;
        match last {
            Ok(Some(Event::Item(item))) => {
                let mut got = shown(&item, None, decoder.headers());
                got.as_object_mut().expect("an object").remove("item");
                assert_eq!(got, entry["decoded"], "{entry}");
                assert_eq!(encode(decoder.headers(), &[(item, None)]), wire);
            }
            // The sender's bug: -e without -t (wire.md 3.4).
            Err(e) => assert_eq!(e.to_string(), "handshake: Invalid sync_until_timestamp: 0", "{entry}"),
            other => panic!("{other:?} for {entry}"),
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn our_block_is_dovecots_with_one_column_more_and_two_pairs_swapped() {
    let ours = String::from_utf8(Headers::ours().encode()).expect("ASCII");
    let theirs = String::from_utf8(files()["51-handshakes/header-lines.bin"].clone()).expect("ASCII");
    let ours = ours.replace("\tx_dsync_native", "");
    let swapped = ours.replace("\nBuid_validity\tmailbox_guid\t", "\nBmailbox_guid\tuid_validity\t");
    assert_eq!(swapped.replace("\nCuid\ttype\t", "\nCtype\tuid\t"), theirs);
    assert_ne!(ours, theirs);
    assert!(Headers::ours().has(Kind::Deletes, "escape_char"));
}

fn text(octets: &[u8]) -> Value {
    match std::str::from_utf8(octets) {
        Ok(t) => json!(t),
        Err(_) => json!({ "latin1": octets.iter().map(|b| char::from(*b)).collect::<String>() }),
    }
}

fn texts(list: &[Vec<u8>]) -> Value {
    list.iter().map(|t| text(t)).collect()
}

/// The item as the recordings' decoder shows it.
fn shown(item: &Item, stream: Option<&[u8]>, headers: &Headers) -> Value {
    let mut o = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            o.insert(key.to_owned(), value);
        }
    };
    let flag = |on: bool| on.then_some(json!(true));
    let stream = stream.map(|s| json!({ "size": s.len(), "sha256": hex::encode(Sha256::digest(s)) }));
    set("item", Some(json!(if *item == Item::End { "end_of_list" } else { item.name() })));
    match item {
        Item::Handshake(h) => {
            set("hostname", Some(text(&h.hostname)));
            let namespaces = h.namespaces.as_deref().map(|n| n.split(|b| *b == b'\n').map(text).collect());
            set("sync_ns_prefix", namespaces);
            set("sync_box", h.mailbox.as_deref().map(text));
            set("sync_box_guid", h.mailbox_guid.map(|g| json!(g.to_string())));
            set("sync_type", h.sync_type.map(|t| json!(char::from(t).to_string())));
            set("debug", flag(h.debug));
            set("sync_visible_namespaces", flag(h.visible_namespaces));
            set("exclude_mailboxes", h.exclude.as_deref().map(texts));
            set("send_mail_requests", flag(h.send_mail_requests));
            set("backup_send", flag(h.backup_send));
            set("backup_recv", flag(h.backup_recv));
            set("lock_timeout", h.lock_timeout.map(|v| json!(v)));
            set("no_mail_sync", flag(h.no_mail_sync));
            set("no_backup_overwrite", flag(h.no_backup_overwrite));
            set("purge_remote", flag(h.purge));
            set("no_notify", flag(h.no_notify));
            set("sync_since_timestamp", h.since.map(|v| json!(v)));
            set("sync_max_size", h.max_size.map(|v| json!(v)));
            set("sync_flags", h.flags.as_deref().map(text));
            set("sync_until_timestamp", h.until.map(|v| json!(v)));
            set("virtual_all_box", h.virtual_all.as_deref().map(text));
            set("empty_hdr_workaround", flag(h.empty_header_workaround));
            set("import_commit_msgs_interval", h.commit_interval.map(|v| json!(v)));
            set("hashed_headers", h.hashed_headers.as_deref().map(texts));
            set("alt_char", h.alt_char.map(|c| json!(c.map(|c| char::from(c).to_string()).unwrap_or_default())));
        }
        Item::State(s) => {
            set("mailbox_guid", Some(json!(s.guid.to_string())));
            set("last_uidvalidity", Some(json!(s.uidvalidity)));
            set("last_common_uid", Some(json!(s.last_common_uid)));
            set("last_common_modseq", Some(json!(s.modseq)));
            set("last_common_pvt_modseq", Some(json!(s.private_modseq)));
            set("last_messages_count", s.messages.map(|v| json!(v)));
            set("changes_during_sync", flag(s.changes));
        }
        Item::Node(n) => {
            set("name", Some(texts(&n.name)));
            let existence = match n.existence {
                NodeExistence::Exists => "y",
                NodeExistence::Nonexistent => "n",
                NodeExistence::Deleted => "d",
            };
            set("existence", Some(json!(existence)));
            set("mailbox_guid", n.guid.map(|g| json!(g.to_string())));
            set("uid_validity", Some(n.uidvalidity).filter(|v| *v > 0).map(|v| json!(v)));
            set("uid_next", Some(n.uid_next).filter(|v| *v > 0).map(|v| json!(v)));
            set("last_renamed_or_created", n.renamed.map(|v| json!(v)));
            set("subscribed", flag(n.subscribed));
            set("last_subscription_change", n.subscription_changed.map(|v| json!(v)));
        }
        Item::Deletes(d) => {
            set("hierarchy_sep", Some(json!(char::from(d.separator).to_string())));
            set("escape_char", d.escape_char.map(|c| json!(c.map(|c| char::from(c).to_string()).unwrap_or_default())));
            for (key, list) in [("mailboxes", &d.mailboxes), ("dirs", &d.directories), ("unsubscribes", &d.unsubscribes)] {
                set(key, list.as_ref().map(|l| l.iter().map(|(k, t)| json!([hex::encode(k), t])).collect()));
            }
        }
        Item::Mailbox(b) => {
            set("mailbox_guid", Some(json!(b.guid.to_string())));
            set("uid_validity", Some(json!(b.uidvalidity)));
            set("uid_next", Some(json!(b.uid_next)));
            set("messages_count", Some(json!(b.messages)));
            set("first_recent_uid", Some(json!(b.first_recent)));
            set("highest_modseq", Some(json!(b.highest_modseq)));
            set("highest_pvt_modseq", Some(json!(b.highest_private_modseq)));
            set("mailbox_lost", flag(b.lost));
            set("mailbox_ignore", flag(b.ignore));
            let fields = b.cache_fields.as_deref().map(|v| {
                let list = CacheField::list(v, headers).expect("well formed");
                assert_eq!(CacheField::value(&list, headers), v);
                let shown = |f: &CacheField| {
                    let mut o = Map::new();
                    o.insert("name".into(), text(&f.name));
                    o.insert("decision".into(), text(&f.decision));
                    if let Some(t) = f.last_used {
                        o.insert("last_used".into(), json!(t));
                    }
                    Value::Object(o)
                };
                list.iter().map(shown).collect()
            });
            set("cache_fields", fields);
            set("have_guids", flag(b.have_guids));
            set("have_save_guids", flag(b.have_save_guids));
            set("have_only_guid128", flag(b.have_only_guid128));
        }
        Item::Attribute(a) => {
            set("type", Some(json!(if a.private { "p" } else { "s" })));
            set("key", Some(text(&a.key)));
            set("value", a.value.as_deref().map(text));
            set("stream", stream);
            set("deleted", flag(a.deleted));
            set("last_change", a.last_change.map(|v| json!(v)));
            set("modseq", a.modseq.map(|v| json!(v)));
        }
        Item::Change(c) => {
            let kind = match c.kind {
                ChangeType::Save => "s",
                ChangeType::Expunge => "e",
                ChangeType::Flags => "f",
            };
            set("type", Some(json!(kind)));
            set("uid", Some(json!(c.uid)));
            set("guid", c.guid.as_deref().map(text));
            set("hdr_hash", c.hdr_hash.as_deref().map(text));
            let number = |n: u64| Some(n).filter(|n| *n > 0).map(|n| json!(n));
            set("modseq", number(c.modseq));
            set("pvt_modseq", number(c.private_modseq));
            set("add_flags", number(c.add_flags.into()));
            set("remove_flags", number(c.remove_flags.into()));
            set("final_flags", number(c.final_flags.into()));
            set("keywords_reset", flag(c.keywords_reset));
            let keywords = |_: &Vec<u8>| {
                let one = |(operator, mut word): (u8, Vec<u8>)| {
                    word.insert(0, operator);
                    text(&word)
                };
                c.keyword_changes().map(one).collect()
            };
            set("keyword_changes", c.keywords.as_ref().map(keywords));
            set("received_timestamp", c.received.map(|v| json!(v)));
            set("virtual_size", c.virtual_size.map(|v| json!(v)));
        }
        Item::Request(r) => {
            set("guid", r.guid.as_deref().map(text));
            set("uid", r.uid.map(|v| json!(v)));
        }
        Item::Mail(m) => {
            set("guid", m.guid.as_deref().map(text));
            set("uid", m.uid.map(|v| json!(v)));
            set("pop3_uidl", m.pop3_uidl.as_deref().map(text));
            set("pop3_order", m.pop3_order.map(|v| json!(v)));
            set("received_date", m.received.map(|v| json!(v)));
            set("saved_date", m.saved.map(|v| json!(v)));
            set("stream", stream);
        }
        Item::Finish(f) => {
            set("error", f.error.as_ref().map(|e| json!(e)));
            set("mail_error", f.mail_error.map(|v| json!(v)));
            set("require_full_resync", flag(f.full_resync));
        }
        Item::End | Item::Close => {}
    }
    Value::Object(o)
}
