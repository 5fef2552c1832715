//! Blocks of settings that hold for some services or addresses only: `protocol`, `local`, `remote`, `local_name`
//! (cli-config.md 10.2).

use std::net::IpAddr;

/// Where a block of settings holds. Also used as the question "what holds for this?".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) service: Option<Service>,
    pub(super) local_name: Option<String>,
    pub(super) local: Option<Net>,
    pub(super) remote: Option<Net>,
}

/// `protocol NAME` or `protocol !NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) negated: bool,
}

/// A network, or a host name that we do not look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Net {
    Ip {
        address: IpAddr,
        bits: u8,
    },
    /// No address is known to be in it.
    Name(String),
}

impl Net {
    /// Reads `ADDRESS`, `ADDRESS/BITS` or a host name.
    ///
    /// # Errors
    /// Dovecot's text for a mask that cannot be.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (host, bits) = text.split_once('/').map_or((text, None), |(h, b)| (h, Some(b)));
        let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
            return Ok(Self::Name(text.into()));
        };
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => all,
            Some(b) => match b.parse() {
                Ok(bits) if bits <= all => bits,
                _ => return Err(format!("Invalid network mask: {b}")),
            },
        };
        Ok(Self::Ip { address, bits })
    }

    /// All of `other` is in this network.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let (Self::Ip { address: a, bits }, Self::Ip { address: b, bits: other_bits }) = (self, other) else {
            return self == other;
        };
        let same = |a: u128, b: u128, all: u8| *bits == 0 || (a ^ b) >> (all - bits) == 0;
        bits <= other_bits
            && match (a, b) {
                (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
                (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
                _ => false,
            }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Ip { bits, .. } => *bits,
            Self::Name(_) => u8::MAX,
        }
    }
}

impl Filter {
    /// What holds for a program of this service that has no connection.
    pub(super) fn of_service(name: &str) -> Self {
        Self { service: Some(Service { name: name.into(), negated: false }), ..Self::default() }
    }

    /// The block holds for everything that `question` stands for. `F.contains(G)` for two blocks: G is at least as
    /// specific as F.
    pub(super) fn contains(&self, question: &Self) -> bool {
        fn part<T>(block: Option<&T>, question: Option<&T>, holds: impl Fn(&T, &T) -> bool) -> bool {
            match (block, question) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(b), Some(q)) => holds(b, q),
            }
        }
        part(self.service.as_ref(), question.service.as_ref(), Service::contains)
            && part(self.local_name.as_ref(), question.local_name.as_ref(), |a, b| a == b)
            && part(self.local.as_ref(), question.local.as_ref(), Net::contains)
            && part(self.remote.as_ref(), question.remote.as_ref(), Net::contains)
    }

    /// The order in which matching blocks apply: the later wins.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let service = match &self.service {
            None => 0,
            Some(s) if s.negated => 1,
            Some(_) => 2,
        };
        let bits = |net: &Option<Net>| net.as_ref().map_or(0, |n| 1 + u16::from(n.rank()));
        (service, self.local_name.is_some(), bits(&self.local), bits(&self.remote))
    }
}

impl Service {
    fn contains(&self, question: &Self) -> bool {
        match (self.negated, question.negated) {
            (false, false) => self.name == question.name,
            (true, false) => self.name != question.name,
            (true, true) => self.name == question.name,
            (false, true) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets_contain_nets() {
        let net = |text| Net::parse(text).unwrap();
        assert!(net("192.0.2.0/24").contains(&net("192.0.2.7")));
        assert!(!net("192.0.2.7").contains(&net("192.0.2.0/24")));
        assert!(net("::/0").contains(&net("2001:db8::1")));
        assert!(!net("0.0.0.0/0").contains(&net("::1")));
        assert_eq!(Net::parse("127.0.0.1/99").unwrap_err(), "Invalid network mask: 99");
    }
}
