//! Doors for the fuzz targets: what another machine may send.

use std::io::{Cursor, Read, Write, sink};
use std::time::Duration;

use super::{Place, Settings, master, serve, view};
use crate::mail::{self, MailGuid, MailboxGuid, MailboxName, Store, Timestamp, UidValidity};
use crate::mail::{Flags, Keywords, ModSeq};
use crate::os::stop::Stop;
use crate::sync::model::{ModelBox, ModelMail, ModelStore};
use crate::sync::{Mode, Options, Source};
use crate::wire::{Decoder, Ends, Event, Stuffer};

struct Account(ModelStore);

impl Place for Account {
    fn open(&mut self, _: &mut Options) -> mail::Result<Box<dyn Store>> {
        Ok(Box::new(self.0.clone()))
    }

    fn lock_user(&mut self, _: Duration) -> mail::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }
}

/// INBOX with three mails.
fn account() -> Account {
    let store = ModelStore::default();
    let guid = MailboxGuid::new([1; 16]).expect("not zero");
    let mut inbox = ModelBox::new(guid, UidValidity::new(7).expect("not zero"));
    for n in 1..=3u32 {
        let mail = ModelMail {
            guid: MailGuid::new(format!("mail-{n}")).expect("not empty"),
            flags: Flags::NONE,
            keywords: Keywords::NONE,
            modseq: ModSeq(0),
            text: format!("Message-ID: <{n}>\n\nhello\n").into_bytes(),
            received: Timestamp(n),
            unreadable: false,
        };
        inbox.append(None, mail);
    }
    store.world().boxes.insert(MailboxName::inbox(), inbox);
    Account(store)
}

fn settings() -> Settings {
    Settings { timeout: Some(Duration::from_secs(5)), ..Settings::default() }
}

/// Everything that a master says, to our server.
pub fn server(bytes: &[u8]) {
    let ends = Ends { read: Box::new(Cursor::new(bytes.to_vec())), write: Box::new(sink()), name: "fuzz".into() };
    serve(&settings(), &mut account(), ends, &Stop::new());
}

/// Everything that a server says, to our master. The first octet chooses the mode.
pub fn client(bytes: &[u8]) {
    let Some((mode, said)) = bytes.split_first() else { return };
    let sources = [Source::Master, Source::Slave];
    let source = sources[usize::from(*mode & 1)];
    let mode = [Mode::TwoWay, Mode::OneWay(source), Mode::Backup(source)][usize::from(*mode >> 1) % 3];
    let ends = Ends { read: Box::new(Cursor::new(said.to_vec())), write: Box::new(sink()), name: "fuzz".into() };
    let options = Options { mode, ..Options::default() };
    let before = account();
    let mut own = account();
    master(&options, &settings(), &mut own, ends, &Stop::new());
    // Whatever the other side says, a source is not touched.
    if mode.is_source(crate::sync::tree::Side::Master) {
        let mails = |a: &Account| a.0.world().boxes.values().map(|b| b.mails.clone()).collect::<Vec<_>>();
        assert_eq!(mails(&before), mails(&own));
    }
}

/// The items alone: what was read and written is read again so that it is written as the same. (An empty column and none are.)
pub fn items(bytes: &[u8]) {
    let written = written_again(bytes);
    assert_eq!(written_again(&written), written);
}

/// The whole items, written again; nothing where there are none.
fn written_again(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::default();
    let mut items = Vec::new();
    for part in bytes.chunks(61) {
        decoder.feed(part);
        while let Ok(Some(event)) = decoder.next_event() {
            match event {
                Event::Item(item) => items.push((item, Vec::new())),
                Event::Data(data) => items.last_mut().expect("a stream belongs to an item").1.extend(data),
                Event::Headers | Event::DataEnd => {}
            }
        }
    }
    if !decoder.is_between_items() {
        items.pop();
    }
    if items.is_empty() {
        return Vec::new();
    }
    let headers = decoder.headers();
    let mut out = headers.encode();
    for (item, data) in &items {
        item.write(&mut out, headers);
        if item.has_stream() {
            let mut stuffer = Stuffer::default();
            stuffer.add(data, &mut out);
            stuffer.end(&mut out);
        }
    }
    out
}

/// A mail's header. The names to take are in the first line.
pub fn header(bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let names: Vec<String> = String::from_utf8_lossy(&bytes[..end]).split(' ').map(str::to_owned).collect();
    for filtered in [false, true] {
        let text: Box<dyn Read + Send> = Box::new(Cursor::new(bytes[end..].to_vec()));
        assert_eq!(view::header_hash(text, &names, filtered).expect("it can be read").len(), 32);
    }
}

/// A way that remembers what went over it.
struct Tee<W>(W, std::sync::mpsc::Sender<Vec<u8>>);

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.0.write(data)?;
        let _ = self.1.send(data[..n].to_vec());
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// What a master and a server of our own kind say to each other, in this mode: seeds.
///
/// # Errors
/// No pipes.
pub fn own_session(mode: Mode) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let ((up_read, up), (down_read, down)) = (std::io::pipe()?, std::io::pipe()?);
    let ((up_tee, up_said), (down_tee, down_said)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let served = std::thread::spawn(move || {
        let write = Box::new(Tee(down, down_tee));
        let ends = Ends { read: Box::new(up_read), write, name: "seeds".into() };
        let mut empty = account();
        empty.0.world().boxes.clear();
        serve(&settings(), &mut empty, ends, &Stop::new());
    });
    let ends = Ends { read: Box::new(down_read), write: Box::new(Tee(up, up_tee)), name: "seeds".into() };
    master(&Options { mode, ..Options::default() }, &settings(), &mut account(), ends, &Stop::new());
    drop(served.join());
    Ok((up_said.iter().flatten().collect(), down_said.iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Uid;
    use crate::sync::{Algorithm, Report};

    /// A run as with a Dovecot. The master is slow and the time short. Gives its report, what it said, and the other side.
    fn slow_run(nameless: &[u32]) -> (Report, Vec<u8>, Account) {
        let ((up_read, up), (down_read, down)) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        let (tee, said) = std::sync::mpsc::channel();
        let settings = |seconds| Settings { own_kind: false, timeout: Some(Duration::from_secs(seconds)), ..settings() };
        let served = std::thread::spawn(move || {
            let ends = Ends { read: Box::new(up_read), write: Box::new(down), name: "slow".into() };
            let mut empty = account();
            let inbox = empty.0.world().boxes.get(&MailboxName::inbox()).cloned().expect("there is one");
            let fresh = ModelBox::new(inbox.guid, inbox.uidvalidity);
            empty.0.world().boxes.insert(MailboxName::inbox(), fresh);
            serve(&settings(60), &mut empty, ends, &Stop::new());
            empty
        });
        let mut own = account();
        own.0.world().slow = Duration::from_millis(500);
        own.0.world().nameless = nameless.iter().filter_map(|&uid| Uid::new(uid)).collect();
        let ends = Ends { read: Box::new(down_read), write: Box::new(Tee(up, tee)), name: "slow".into() };
        let options = Options { algorithm: Algorithm::Full, ..Options::default() };
        let mastered = master(&options, &settings(4), &mut own, ends, &Stop::new());
        (mastered.report, said.iter().flatten().collect(), served.join().expect("it ends"))
    }

    fn has(said: &[u8], part: &[u8]) -> bool {
        memchr::memmem::find(said, part).is_some()
    }

    #[test]
    fn a_list_that_was_begun_goes_on_with_whatever_is_first() {
        let (report, said, other) = slow_run(&[]);
        assert!(has(&said, b"\nC0") && has(&said, b"01\ts\t"), "{}", String::from_utf8_lossy(&said));
        assert_eq!((report.failed, report.desync), (None, None));
        assert_eq!(other.0.world().boxes[&MailboxName::inbox()].mails.len(), 3);

        // The first mail cannot be read.
        let (report, said, other) = slow_run(&[1]);
        assert!(has(&said, b"\nC0") && has(&said, b"02\ts\t"), "{}", String::from_utf8_lossy(&said));
        assert_eq!((report.failed, report.skipped), (None, 1));
        assert_eq!(other.0.world().boxes[&MailboxName::inbox()].mails.len(), 2);
    }

    /// Then the run has to end, and the other side loses nothing.
    #[test]
    fn a_list_that_was_begun_in_vain_ends_the_run() {
        let (report, said, _) = slow_run(&[1, 2, 3]);
        assert!(report.failed.is_some() && !has(&said, b"\ts\t"), "{report:?} {}", String::from_utf8_lossy(&said));
        let zeros = said.iter().rev().take_while(|b| **b == b'0').count();
        let begun = &said[..said.len() - zeros];
        assert!(begun.ends_with(b"\nC"), "{}", String::from_utf8_lossy(&said));
    }
}
