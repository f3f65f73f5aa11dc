//! The endpoint that a session belongs to: weighted rendezvous hashing.
//!
//! Each address gets a score from the session and itself, and the highest takes the request. So
//! every worker and every gate agrees without asking the others, and when an address goes, only
//! its own sessions move, each back again with it.
//!
//! INVARIANT: the session's id, which the gate drew at random, is all that decides. Nothing that
//! the client or the upstream sends is looked at.

use std::net::{IpAddr, SocketAddr};

/// The address' part of its scores. The same in every process.
pub(super) fn seed(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let [high, low] = [ip.to_bits() >> 64, ip.to_bits() & u128::from(u64::MAX)]
        .map(|half| u64::try_from(half).unwrap_or(0));
    mix(mix(mix(high) ^ low) ^ u64::from(address.port()))
}

/// How much the session belongs to the address with this seed. Over many sessions the highest
/// score falls to each address in proportion to its weight.
pub(super) fn score(session: u64, seed: u64, weight: u32) -> f64 {
    -f64::from(weight.max(1)) / fraction(mix(session ^ seed)).ln()
}

/// Where the session stands in the queue for an endpoint whose share is still growing: from 0 to
/// 1, and the same each time.
pub(super) fn place(session: u64, seed: u64) -> f64 {
    fraction(mix(session.rotate_left(32) ^ mix(seed)))
}

/// More than 0 and less than 1.
pub(super) fn fraction(bits: u64) -> f64 {
    // 32 bits are exact in an f64, and a fraction of 4 billion is fine enough.
    let high = u32::try_from(bits >> 32).unwrap_or(0);
    (f64::from(high) + 0.5) / (f64::from(u32::MAX) + 1.0)
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every bit of the input moves every
/// bit of the output.
pub(super) fn mix(bits: u64) -> u64 {
    let mut bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> (SocketAddr, u32) {
        (SocketAddr::from(([10, 0, 0, number], 8080)), 1)
    }

    fn best(session: u64, addresses: &[(SocketAddr, u32)]) -> SocketAddr {
        let score = |of: &(SocketAddr, u32)| score(mix(session), seed(of.0), of.1);
        addresses.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap().0
    }

    #[test]
    fn sessions_are_spread_by_weight() {
        let mut addresses: Vec<_> = (0..4).map(address).collect();
        addresses[3].1 = 3;
        let mut counts = [0; 4];
        for session in 0..12_000 {
            let chosen = best(session, &addresses);
            counts[addresses.iter().position(|of| of.0 == chosen).unwrap()] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2_000, 2_000, 2_000, 6_000]) {
            assert!((expected - 200..expected + 200).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn only_the_sessions_of_an_address_that_goes_move() {
        let all: Vec<_> = (0..5).map(address).collect();
        let fewer = &all[..4];
        let mut moved = 0;
        for session in 0..5_000 {
            let before = best(session, &all);
            if before == all[4].0 {
                moved += 1;
            } else {
                assert_eq!(best(session, fewer), before);
            }
        }
        assert!((800..1_200).contains(&moved), "{moved} of 5,000");
    }

    #[test]
    fn the_choice_is_the_same_in_every_process() {
        let all: Vec<_> = (0..5).map(address).collect();
        let chosen: Vec<_> = (0..8).map(|session| best(session, &all)).collect();
        let expected = [3, 0, 0, 1, 2, 0, 0, 1].map(|number| address(number).0);
        assert_eq!(chosen, expected);
    }

    #[test]
    fn ports_and_both_families_tell_addresses_apart() {
        let addresses = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "[::1]:80", "[1::]:80"];
        let mut seeds: Vec<_> = addresses.map(|text| seed(text.parse().unwrap())).to_vec();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), addresses.len());
    }
}
