//! Sets of addresses, written as networks, and who is behind an address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// Networks, any of which an address may be in. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("this is neither an IP address nor a network")]
    Malformed,
    #[error("the prefix is longer than the {0} bits of such an address")]
    Prefix(u8),
    /// Most likely a typing error in one of the two parts.
    #[error("the address has bits outside of the prefix")]
    HostBits(IpNet),
    /// It would match nothing: addresses are compared in the form of IPv4.
    #[error("IPv4 in the form of IPv6 matches nothing")]
    Mapped,
}

impl Networks {
    pub fn contains(&self, address: IpAddr) -> bool {
        // A socket for both families reports IPv4 peers as `::ffff:a.b.c.d`.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// Reads `10.0.0.0/8`, or an address that stands for itself alone.
///
/// # Errors
/// [`NetworkError`].
pub fn network(text: &str) -> Result<IpNet, NetworkError> {
    // Not `IpNet`'s own reading: it takes leading zeros, which elsewhere mean octal.
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| NetworkError::Malformed);
    let network = match text.split_once('/') {
        None => IpNet::from(address(text)?),
        Some((_, length)) if length.starts_with(['0', '+']) && length != "0" => {
            return Err(NetworkError::Malformed);
        }
        Some((start, length)) => {
            let start = address(start)?;
            let longest = IpNet::from(start).prefix_len();
            let length: u32 = length.parse().map_err(|_| NetworkError::Malformed)?;
            let length = u8::try_from(length).map_err(|_| NetworkError::Prefix(longest))?;
            IpNet::new(start, length).map_err(|_| NetworkError::Prefix(longest))?
        }
    };
    if network != network.trunc() {
        return Err(NetworkError::HostBits(network.trunc()));
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(NetworkError::Mapped),
        _ => Ok(network),
    }
}

/// Whoever is held to have an address, for all that is counted by address: an IPv4 address, or the
/// /64 that an IPv6 host has to itself (RFC 4291, section 2.5.1) and a subscriber at the least
/// (RFC 6177), who could take another address of it each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber(IpAddr);

impl Subscriber {
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
            v4 => v4,
        })
    }

    /// Another number for each. `::/64`, which nobody has, shares some with IPv4.
    pub fn bits(self) -> u128 {
        match self.0 {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        }
    }
}

/// `192.0.2.1`, `2001:db8:1:2::/64`.
impl fmt::Display for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| network(text).unwrap()).collect()
    }

    #[test]
    fn an_address_is_in_a_network_in_either_of_its_forms() {
        let office = networks(&["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]);
        for inside in
            ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.9", "2001:db8::1", "198.51.100.7"]
        {
            assert!(office.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["192.0.3.0", "::192.0.2.9", "2001:db9::1", "198.51.100.8", "::"] {
            assert!(!office.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_reads_in_two_ways_is_no_network() {
        for (text, error) in [
            ("10.0.0.1/8", NetworkError::HostBits("10.0.0.0/8".parse().unwrap())),
            ("::ffff:10.0.0.0/104", NetworkError::Mapped),
            ("::ffff:10.0.0.1", NetworkError::Mapped),
            ("10.0.0.0/08", NetworkError::Malformed),
            ("10.0.0.0/+8", NetworkError::Malformed),
            ("10.0.0.0/33", NetworkError::Prefix(32)),
            ("10.0.0.0/300", NetworkError::Prefix(32)),
            ("2001:db8::/129", NetworkError::Prefix(128)),
            ("10.0.0/8", NetworkError::Malformed),
            ("010.0.0.0/8", NetworkError::Malformed),
            ("10.0.0.0/255.0.0.0", NetworkError::Malformed),
            ("", NetworkError::Malformed),
        ] {
            assert_eq!(network(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_subscriber_is_one_whichever_of_his_addresses_he_takes() {
        let of = |text: &str| Subscriber::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1").bits(), of("2001:db8:1:3::1").bits());
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1").bits(), of("192.0.2.2").bits());
        assert_eq!(of("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }
}
