//! A network of addresses, as the configuration names it.
//!
//! Guarantees: an IPv4 address is the same address where it is written inside of an IPv6 one, so that no other way of
//! writing it gets past a network that is allowed or refused.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, plain(address)) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(first) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(first) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

/// The IPv4 address inside of an IPv6 one: mapped, translated by NAT64 (64:ff9b::/96), or of 6to4 (2002::/16).
pub fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(whole) = address else { return address };
    match whole.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            IpAddr::from([a, b, c, d])
        }
        _ => IpAddr::V6(whole),
    }
}

/// Not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    /// `10.0.0.0/8`, `fd00::/8`, or a single address.
    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NoNetwork)?;
        if bits > most {
            return Err(NoNetwork);
        }
        // One inside of IPv6 that is narrow enough is the IPv4 network that it means.
        match (first, plain(first)) {
            (IpAddr::V6(first), IpAddr::V4(inside)) if first.to_ipv4_mapped().is_some() && bits >= 96 => {
                Ok(Self { first: IpAddr::V4(inside), bits: bits - 96 })
            }
            (first, _) => Ok(Self { first, bits }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// Why an address isn't one of the public Internet; `None`: it is one.
pub fn why_not_public(address: IpAddr) -> Option<&'static str> {
    const IPV4: &[(&str, &str)] = &[
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "a loopback address"),
        ("10.0.0.0/8", "a private address"),
        ("172.16.0.0/12", "a private address"),
        ("192.168.0.0/16", "a private address"),
        ("100.64.0.0/10", "an address of a carrier's private network"),
        ("169.254.0.0/16", "a link-local address, where clouds keep their metadata"),
        ("168.63.129.16/32", "the address of a cloud's metadata"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documents"),
        ("192.88.99.0/24", "a reserved address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documents"),
        ("203.0.113.0/24", "an address for documents"),
        ("224.0.0.0/3", "a multicast or reserved address"),
    ];
    // Only 2000::/3 is given out for the public Internet.
    const IPV6: &[(&str, &str)] = &[
        ("::/128", "unspecified"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "an address for documents"),
        ("3fff::/20", "an address for documents"),
    ];
    let address = plain(address);
    let known = if address.is_ipv4() { IPV4 } else { IPV6 };
    let found = known.iter().find(|(network, _)| network.parse::<Network>().is_ok_and(|one| one.contains(address)));
    match (found, address) {
        (Some((_, kind)), _) => Some(kind),
        (None, IpAddr::V6(address)) if !is_global(address) => Some("a reserved address"),
        _ => None,
    }
}

fn is_global(address: Ipv6Addr) -> bool {
    address.segments().first().is_some_and(|first| first & 0xe000 == 0x2000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "198.19.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "100::1",
        ] {
            assert!(why_not_public(private.parse().unwrap()).is_some(), "{private}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(why_not_public(public.parse().unwrap()), None, "{public}");
        }
    }

    #[test]
    fn a_network_holds_what_begins_alike() {
        let holds =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"), "the same address, written otherwise");
        assert!(holds("::ffff:10.0.0.0/104", "10.9.9.9"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fc00::1"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "2606:4700::1111"));
        assert!(holds("::/0", "fd00::1"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "host", "10.0.0.0/8/8"] {
            assert_eq!(bad.parse::<Network>(), Err(NoNetwork), "{bad:?}");
        }
    }
}
