//! `%{HASH;rounds=N,truncate=BITS,format=F,salt=S:VAR}` (cli-config.md 15.2).

use base64::Engine as _;
use md5::Digest;

use super::{Result, VarError};

/// A hash by its name.
#[derive(Clone, Copy)]
pub(super) struct Algorithm(fn(&Options, &[u8]) -> Vec<u8>);

struct Options<'o> {
    rounds: u32,
    truncate: usize,
    base64: bool,
    salt: &'o str,
}

/// PBKDF2 has no length of its own; Dovecot takes the size of an internal structure.
const PKCS5_BYTES: usize = 336;
/// More rounds than anybody uses would only keep us busy.
const MAX_ROUNDS: u32 = 1_000_000;

fn rounds<D: Digest>(options: &Options<'_>, value: &[u8]) -> Vec<u8> {
    (0..options.rounds)
        .fold(value.to_vec(), |data, _| D::new().chain_update(options.salt.as_bytes()).chain_update(&data).finalize().to_vec())
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(Self(match name {
            "md4" => rounds::<md4::Md4>,
            "md5" => rounds::<md5::Md5>,
            "sha1" => rounds::<sha1::Sha1>,
            "sha256" => rounds::<sha2::Sha256>,
            "sha384" => rounds::<sha2::Sha384>,
            "sha512" => rounds::<sha2::Sha512>,
            "sha3-256" => rounds::<sha3::Sha3_256>,
            "sha3-512" => rounds::<sha3::Sha3_512>,
            "size" => |_, value| (value.len() as u64).to_be_bytes().to_vec(),
            "pkcs5" => |options, value| {
                let mut out = vec![0; PKCS5_BYTES];
                pbkdf2::pbkdf2_hmac::<sha2::Sha256>(value, options.salt.as_bytes(), options.rounds, &mut out);
                out
            },
            _ => return None,
        }))
    }

    pub(super) fn apply(self, options: &str, value: &[u8]) -> Result<String> {
        let options = Options::parse(options)?;
        let digest = truncate((self.0)(&options, value), options.truncate);
        Ok(if options.base64 { base64::engine::general_purpose::STANDARD.encode(digest) } else { hex::encode(digest) })
    }
}

impl<'o> Options<'o> {
    fn parse(text: &'o str) -> Result<Self> {
        let mut options = Self { rounds: 1, truncate: 0, base64: false, salt: "" };
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(salt) = rest.strip_prefix("salt=") {
                // The salt may hold commas, so it comes last.
                options.salt = salt;
                break;
            }
            let (option, next) = rest.split_once(',').unwrap_or((rest, ""));
            rest = next;
            let wrong = || VarError::Hash(format!("Invalid hash option '{option}'"));
            match option.split_once('=') {
                Some(("rounds", n)) => {
                    options.rounds = n.parse().ok().filter(|n| (1..=MAX_ROUNDS).contains(n)).ok_or_else(wrong)?;
                }
                Some(("truncate", n)) => options.truncate = n.parse().map_err(|_| wrong())?,
                Some(("format", "base64")) => options.base64 = true,
                Some(("format", "hex" | "hexuc")) => options.base64 = false,
                _ => return Err(wrong()),
            }
        }
        Ok(options)
    }
}

/// The first `bits` bits, shifted right into whole bytes; 0 = all.
fn truncate(mut digest: Vec<u8>, bits: usize) -> Vec<u8> {
    if bits == 0 || bits >= digest.len() * 8 {
        return digest;
    }
    digest.truncate(bits.div_ceil(8));
    let shift = digest.len() * 8 - bits;
    if shift > 0 {
        let mut carry = 0;
        for byte in &mut digest {
            let out = *byte << (8 - shift);
            *byte = *byte >> shift | carry;
            carry = out;
        }
    }
    digest
}
