//! Addresses: to listen on and to connect to. Pure text: never resolves a name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::error::Problem;
use crate::config::raw::Field;

/// The addresses that are listened on so far, and by which key.
#[derive(Debug, Default)]
pub(super) struct Addresses(Vec<(SocketAddr, String)>);

impl Addresses {
    /// Takes an address that nobody has written down.
    pub(super) fn claim(&mut self, address: SocketAddr, path: &str) {
        self.0.push((address, path.to_owned()));
    }
}

/// A constant of ours.
pub(super) fn fixed(text: &str) -> SocketAddr {
    text.parse().expect("invariant: defaults are valid addresses, which the test of the defaults proves")
}

/// `IP:PORT`; port 0 leaves the choice to the system.
pub(super) fn listen(field: &Field<'_>, taken: &mut Addresses) -> Option<SocketAddr> {
    let Ok(address) = field.text()?.parse::<SocketAddr>() else {
        field.fault(Problem::BadSocketAddress);
        return None;
    };
    if let Some((_, by)) = taken.0.iter().find(|(other, _)| collide(address, *other)) {
        field.fault(Problem::AddressTaken { by: by.as_str().into() });
        return None;
    }
    taken.claim(address, field.path());
    Some(address)
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // The unspecified IPv6 address takes IPv4 too.
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let same_host = a.ip() == b.ip() || covers(a, b) || covers(b, a);
    a.port() == b.port() && a.port() != 0 && same_host
}

/// `HOST:PORT`, `HOST`, `[IPV6]:PORT` or `[IPV6]`; the host without brackets.
pub(super) fn split_endpoint(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(parse_port(port)?))),
            None if port.is_empty() => Some((host, None)),
            None => None,
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if host.is_empty() || !host.bytes().all(allowed) || is_broken_ipv4(host) {
        return None;
    }
    Some((host, port))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// `192.168.1.500` is no host name either: a last label of digits alone names an address.
fn is_broken_ipv4(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    numeric && host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::split_endpoint;

    #[test]
    fn endpoints_are_hosts_with_ports() {
        let cases = [
            ("192.168.1.50:502", Some(("192.168.1.50", Some(502)))),
            ("meter.local", Some(("meter.local", None))),
            ("[::1]:502", Some(("::1", Some(502)))),
            ("[fe80::1]", Some(("fe80::1", None))),
            ("", None),
            (":502", None),
            ("a:0", None),
            ("a:70000", None),
            ("a:+5", None),
            ("a:", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]502", None),
            ("[meter]:502", None),
            ("192.168.1.500:502", None),
            ("192.168.1:502", None),
            ("a b:502", None),
        ];
        for (text, expected) in cases {
            assert_eq!(split_endpoint(text), expected, "{text:?}");
        }
    }
}
