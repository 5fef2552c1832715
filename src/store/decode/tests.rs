//! Round trips through every method, wrong sizes, hostile bytes. Bodies that Dovecot compressed: `store::dbox`.

use std::fs::File;
use std::io::{Cursor, Write};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const METHODS: [Method; 5] = [Method::Gz, Method::Bz2, Method::Xz, Method::Lz4, Method::Zstd];
const WITH: Plugins = Plugins { compression: true, encrypts: false };
const WITHOUT: Plugins = Plugins { compression: false, encrypts: false };

/// The answer, which is the same whether or not the bytes are in memory.
fn decode(range: &FileRange, recorded: Option<u64>, plugins: Plugins, strict: bool) -> Result<Decoded, Error> {
    let whole = range.small().expect("readable").expect("small");
    let read = super::decode(Stored { range, whole: Some(&whole) }, recorded, plugins, strict);
    let answer = super::decode(Stored { range, whole: None }, recorded, plugins, strict);
    assert_eq!(format!("{read:?}"), format!("{answer:?}"));
    answer
}

fn compress(method: Method, text: &[u8]) -> Vec<u8> {
    match method {
        Method::Gz => {
            let mut gz = encoder();
            gz.write_all(text).expect("memory");
            gz.finish().expect("memory")
        }
        Method::Bz2 => {
            let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            bz.write_all(text).expect("memory");
            bz.finish().expect("memory")
        }
        Method::Xz => {
            let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
            xz.write_all(text).expect("memory");
            xz.finish().expect("memory")
        }
        Method::Zstd => zstd::encode_all(text, 1).expect("memory"),
        Method::Lz4 => {
            let mut out = lz4::MAGIC.to_vec();
            out.extend_from_slice(&65536u32.to_be_bytes());
            for chunk in text.chunks(65536) {
                let block = lz4_flex::block::compress(chunk);
                out.extend_from_slice(&u32::try_from(block.len()).expect("small").to_be_bytes());
                out.extend_from_slice(&block);
            }
            out
        }
    }
}

/// Seeds for the fuzzer.
pub(crate) fn compressed(method: &str) -> Vec<Vec<u8>> {
    let method = METHODS.into_iter().find(|m| m.to_string() == method).expect("a method");
    [0, 10, 3000].map(|n| compress(method, &text(n))).to_vec()
}

fn range_of(bytes: &[u8]) -> FileRange {
    let mut file: File = tempfile::tempfile().expect("temp file");
    // Something in front and behind, as in a dbox file.
    file.write_all(b"front")
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.write_all(b"\n\x01\x03\n"))
        .expect("written");
    FileRange { file: Arc::new(file), offset: 5, len: bytes.len() as u64 }
}

fn read(decoded: Decoded) -> io::Result<Vec<u8>> {
    let Decoded::Text(mut reader) = decoded else { panic!("plain") };
    let mut text = Vec::new();
    reader.read_to_end(&mut text).map(|_| text)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| if i % 71 == 70 { b'\n' } else { b'a' + u8::try_from(i * i % 23).expect("small") }).collect()
}

#[test]
fn every_method_with_its_recorded_size() {
    let text = text(200_000);
    for method in METHODS {
        let stored = range_of(&compress(method, &text));
        assert!(read(decode(&stored, Some(200_000), WITH, true).expect("decoder")).expect("text") == text, "{method}");
        assert!(read(decode(&stored, None, WITH, true).expect("decoder")).expect("text") == text, "{method}");
        for wrong in [199_999, 200_001] {
            let error = read(decode(&stored, Some(wrong), WITH, true).expect("decoder")).expect_err("wrong size");
            assert!(error.to_string().starts_with(&format!("the text should have {wrong} bytes and has ")), "{error}");
        }
    }
}

#[test]
fn without_the_plugin() {
    for method in METHODS {
        let stored = range_of(&compress(method, &text(5000)));
        let error = decode(&stored, Some(5000), WITHOUT, true).expect_err("no plugin");
        assert_eq!(error.to_string(), format!("message is compressed ({method}), but no compression plugin configured"));
        assert!(matches!(decode(&stored, Some(5000), WITHOUT, false), Ok(Decoded::Plain)));
        assert!(matches!(decode(&stored, Some(stored.len), WITHOUT, true), Ok(Decoded::Plain)));
    }
}

#[test]
fn a_text_that_only_begins_like_a_compressed_one() {
    for text in ["BZh9 is how this mail begins\n", "\u{1f}\n", "Dovecot-LZ4 is a method\n"] {
        let stored = range_of(text.as_bytes());
        assert!(matches!(decode(&stored, Some(stored.len), WITH, true), Ok(Decoded::Plain)), "{text}");
    }
}

#[test]
fn cut_streams_are_errors() {
    for method in METHODS {
        let whole = compress(method, &text(150_000));
        for cut in [whole.len() - 1, whole.len() / 2, 17, 20] {
            let stored = range_of(&whole[..cut]);
            assert!(read(decode(&stored, Some(150_000), WITH, true).expect("decoder")).is_err(), "{method} {cut}");
        }
    }
}

#[test]
fn a_bomb_gives_no_more_than_was_recorded() {
    let bomb = range_of(&compress(Method::Zstd, &vec![0; 50 << 20]));
    let Ok(Decoded::Text(mut reader)) = decode(&bomb, Some(1000), WITH, true) else { panic!("not decoded") };
    let mut text = Vec::new();
    assert!(reader.read_to_end(&mut text).is_err());
    assert_eq!(text.len(), 1000);
}

#[test]
fn encrypted_ones_are_refused() {
    let stored = range_of(b"CRYPTED\x03\x07\x02 and so on");
    for plugins in [WITH, WITHOUT] {
        assert!(matches!(decode(&stored, Some(1000), plugins, true), Err(Error::Encrypted)));
        assert!(matches!(decode(&stored, None, plugins, false), Err(Error::Encrypted)));
        assert!(matches!(decode(&stored, Some(stored.len), plugins, true), Ok(Decoded::Plain)));
    }
}

#[test]
fn plugins_by_name() {
    let with = |names: &[&str], version: Option<&str>| {
        Plugins::of(&Settings {
            plugins: names.iter().map(ToString::to_string).collect(),
            mail_crypt_save_version: version.map(Into::into),
            ..Settings::default()
        })
    };
    assert_eq!(with(&["acl", "zlib"], None), WITH);
    assert_eq!(with(&["mail_compress"], None), WITH);
    assert_eq!(with(&["mail_crypt"], Some("0")), WITHOUT);
    assert!(with(&["mail_crypt"], Some("2")).encrypts);
}

proptest! {
    #[test]
    fn hostile_streams(method in prop::sample::select(METHODS.to_vec()), change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = compress(method, &text(3000));
        for (at, byte) in change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(reader) = decoder(method, Box::new(Cursor::new(bytes))) {
            let _ = io::copy(&mut reader.take(10 << 20), &mut io::sink());
        }
    }
}
