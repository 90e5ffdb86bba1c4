//! How a bridge reaches its cloud: servers, proxy, certificates, compression. Shapes alone; never resolves a name or reads a file.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::secret::Secret;

/// RFC 1035, 2.3.4.
const HOST_BYTES_MAX: usize = 255;

/// Of the payloads that leave, and of what comes back marked so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeUrl {
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: Arc<str>,
    pub port: u16,
    /// Path and query of a WebSocket, beginning with `/`. None: MQTT on TCP or TLS alone.
    pub path: Option<Arc<str>>,
}

impl BridgeUrl {
    /// The same with the host and port that a server named: the first of those in its Server Reference (MQTT 5,
    /// 4.11). None: it names none.
    pub fn elsewhere(&self, reference: &str) -> Option<Self> {
        let first = reference.split_ascii_whitespace().next()?;
        let (host, port) = match first.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
            None => first.split_once(':').map_or((first, None), |(host, port)| (host, Some(port))),
        };
        let allowed =
            |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b) || (b == b':' && first.starts_with('['));
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0)?,
            None => self.port,
        };
        let known = !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(allowed);
        known.then(|| Self { host: host.into(), port, ..self.clone() })
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Without the query, which may hold a token.
impl fmt::Display for BridgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.path, self.tls) {
            (None, false) => "mqtt",
            (None, true) => "mqtts",
            (Some(_), false) => "ws",
            (Some(_), true) => "wss",
        };
        write!(f, "{scheme}://{}", self.authority())?;
        match self.path.as_ref().and_then(|path| path.split('?').next()) {
            Some(path) => f.write_str(path),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// CONNECT.
    Http,
    /// Names are resolved by the proxy.
    Socks5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub kind: ProxyKind,
    pub host: Arc<str>,
    pub port: u16,
    /// User and password, decoded.
    pub login: Option<(Arc<str>, Secret)>,
}

/// Files that could be read when the configuration was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// None: the system's.
    pub ca: Option<PathBuf>,
    /// Never without `private_key`.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// None: the host of the URL.
    pub server_name: Option<Arc<str>>,
    pub alpn: Vec<Arc<str>>,
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::BridgeUrl;

    #[test]
    fn a_server_reference_changes_host_and_port_alone() {
        let url = BridgeUrl { tls: true, host: "a".into(), port: 8883, path: Some("/x?t=1".into()) };
        let cases = [
            ("b", Some("wss://b:8883/x")),
            ("b:1", Some("wss://b:1/x")),
            ("[fe80::1]:1 c:2", Some("wss://[fe80::1]:1/x")),
            ("[::1]", Some("wss://[::1]:8883/x")),
            ("", None),
            (" ", None),
            (":1", None),
            ("b:", None),
            ("b:0", None),
            ("b:x", None),
            ("[::1", None),
            ("fe80::1", None),
            ("mqtt://b:1", None),
            ("b/../c", None),
        ];
        for (reference, moved) in cases {
            let found = url.elsewhere(reference).map(|url| url.to_string());
            assert_eq!(found.as_deref(), moved, "{reference:?}");
        }
    }

    #[test]
    fn urls_print_as_they_are_written_but_for_the_query() {
        let cases = [
            (true, "broker.example.com", 8883, None, "mqtts://broker.example.com:8883"),
            (false, "::1", 1883, None, "mqtt://[::1]:1883"),
            (false, "10.0.0.1", 80, Some("/mqtt"), "ws://10.0.0.1:80/mqtt"),
            (true, "::1", 443, Some("/a/b?token=secret"), "wss://[::1]:443/a/b"),
        ];
        for (tls, host, port, path, printed) in cases {
            let url = BridgeUrl { tls, host: host.into(), port, path: path.map(Into::into) };
            assert_eq!(url.to_string(), printed);
        }
    }
}
