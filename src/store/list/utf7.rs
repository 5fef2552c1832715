//! Modified UTF-7 for mailbox names (RFC 3501 5.1.3).
//!
//! Own code: the crates that do this decode whatever looks similar, and a name that is not in its one canonical form must be
//! told apart from one that is, or two directories become one mailbox.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// A name as it stands on disk.
#[must_use]
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut run: Vec<u16> = Vec::new();
    for c in name.chars() {
        if matches!(c, ' '..='~') {
            flush(&mut run, &mut out);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            run.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    flush(&mut run, &mut out);
    out
}

fn flush(run: &mut Vec<u16>, out: &mut String) {
    if run.is_empty() {
        return;
    }
    out.push('&');
    let (mut bits, mut count) = (0_u32, 0_u32);
    for unit in run.drain(..) {
        bits = bits << 16 | u32::from(unit);
        count += 16;
        while count >= 6 {
            count -= 6;
            out.push(digit(bits >> count));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        out.push(digit(bits << (6 - count)));
    }
    out.push('-');
}

fn digit(bits: u32) -> char {
    char::from(DIGITS[(bits & 63) as usize])
}

/// The name behind its form on disk. `None` if that is not the canonical form of any name.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let (run, behind) = rest[at + 1..].split_once('-')?;
        if run.is_empty() {
            out.push('&');
        } else {
            decode_run(run, &mut out)?;
        }
        rest = behind;
    }
    out.push_str(rest);
    // Encoding is a function: whatever else decodes to the same name is not canonical.
    (encode(&out) == text).then_some(out)
}

fn decode_run(run: &str, out: &mut String) -> Option<()> {
    let mut units = Vec::with_capacity(run.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for b in run.bytes() {
        let value = DIGITS.iter().position(|&d| d == b)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push((bits >> count & 0xffff) as u16);
            bits &= (1 << count) - 1;
        }
    }
    out.push_str(&String::from_utf16(&units).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_specification() {
        for (name, disk) in [
            ("Ärger/日本", "&AMQ-rger/&ZeVnLA-"),
            ("A&B", "A&-B"),
            ("台北", "&U,BTFw-"),
            ("~peter/mail/日本語/台北", "~peter/mail/&ZeVnLIqe-/&U,BTFw-"),
            ("😀", "&2D3eAA-"),
            ("a\tb", "a&AAk-b"),
            ("raw\u{fffd}", "raw&,,0-"),
        ] {
            assert_eq!(encode(name), disk);
            assert_eq!(decode(disk).as_deref(), Some(name));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        // Unended, padded, a printable character encoded, split runs, not in the alphabet, half a surrogate, raw UTF-8.
        for text in ["A&AOQ", "&", "&AMQA-", "&AGE-", "&AMQ-&AMQ-", "&AM=-", "&2D0-", "Ä", "&AMR-"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_name_comes_back(name in "\\PC{0,20}|[&\\-,+a-z\\x00-\\x20é日😀]{0,20}") {
            proptest::prop_assert_eq!(decode(&encode(&name)), Some(name));
        }

        #[test]
        fn no_text_breaks_it(text in "[&A-Za-z,+\\-éA]{0,20}") {
            if let Some(name) = decode(&text) {
                proptest::prop_assert_eq!(encode(&name), text);
            }
        }
    }
}
