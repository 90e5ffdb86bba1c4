//! The address that somebody comes from: one number for both families. Opens nothing.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// IPv6, or IPv4 mapped into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub u128);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        })
    }
}

impl Address {
    pub fn is_loopback(self) -> bool {
        Ipv6Addr::from_bits(self.0).to_canonical().is_loopback()
    }
}

/// As it is usually written.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from_bits(self.0).to_canonical().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Address;

    #[test]
    fn an_address_is_one_however_it_came() {
        let from = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(from("192.168.1.7"), from("::ffff:192.168.1.7"));
        let cases = [("192.168.1.7", false), ("127.9.9.9", true), ("fe80::1", false), ("::1", true)];
        for (text, loopback) in cases {
            assert_eq!((from(text).to_string().as_str(), from(text).is_loopback()), (text, loopback));
        }
    }
}
