//! Addresses: to listen on, to connect to, and the URLs of bridges. Pure text: never resolves a name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::error::Problem;
use crate::config::model::BridgeUrl;
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

/// `host:port`, with brackets where the host is an IPv6 address.
pub(super) fn endpoint_text(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub(super) fn parse_url(text: &str) -> Result<BridgeUrl, Problem> {
    let (scheme, rest) = text.split_once("://").ok_or(Problem::BadUrl)?;
    let (tls, port_default) = match scheme {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        "ws" | "wss" => {
            return Err(Problem::ValueNotSupportedYet { instead: "mqtts://broker.example.com:8883" });
        }
        _ => return Err(Problem::UrlScheme),
    };
    if rest.contains('@') {
        return Err(Problem::UrlHoldsUser);
    }
    if let Some((_, path)) = rest.split_once(['/', '?', '#'])
        && !(path.is_empty() && rest.ends_with('/'))
    {
        return Err(Problem::UrlHoldsPath);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = split_endpoint(rest).ok_or(Problem::BadUrl)?;
    Ok(BridgeUrl { tls, host: host.into(), port: port.unwrap_or(port_default) })
}

#[cfg(test)]
mod tests {
    use super::{Problem, parse_url, split_endpoint};

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

    #[test]
    fn urls_are_taken_apart_or_refused_for_the_right_reason() {
        let good = [
            ("mqtts://broker.example.com:8883", "mqtts://broker.example.com:8883"),
            ("mqtt://10.0.0.1", "mqtt://10.0.0.1:1883"),
            ("mqtts://[::1]/", "mqtts://[::1]:8883"),
        ];
        for (text, printed) in good {
            assert_eq!(parse_url(text).map(|url| url.to_string()), Ok(printed.to_owned()), "{text}");
        }
        let bad = [
            ("broker.example.com", Problem::BadUrl),
            ("mqtt://", Problem::BadUrl),
            ("mqtt://a:b", Problem::BadUrl),
            ("http://a", Problem::UrlScheme),
            ("mqtt://u:p@a", Problem::UrlHoldsUser),
            ("mqtt://a/x", Problem::UrlHoldsPath),
            ("mqtt://a?x", Problem::UrlHoldsPath),
        ];
        for (text, problem) in bad {
            assert_eq!(parse_url(text), Err(problem), "{text}");
        }
        assert!(matches!(parse_url("wss://a/mqtt"), Err(Problem::ValueNotSupportedYet { .. })));
    }
}
