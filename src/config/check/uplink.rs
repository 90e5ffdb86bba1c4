//! The way to a cloud: the URLs of its servers, the proxy, the certificates. Never resolves a name.

use std::sync::Arc;

use crate::config::check::file::{self, Pem};
use crate::config::check::{Context, address};
use crate::config::error::Problem;
use crate::config::raw::{Field, Section, is_empty};
use crate::config::secret::Secret;
use crate::config::uplink::{BridgeUrl, Proxy, ProxyKind, TlsFiles};
use crate::config::uplink_problem::UplinkProblem;
use crate::config::yaml::Kind;

const TLS_KEYS: &[&str] = &["ca", "certificate", "private_key", "server_name", "alpn"];
/// RFC 7301, 3.1: a protocol name's length is one byte.
const ALPN_BYTES_MAX: usize = 255;
const URLS_MAX: usize = 8;
/// A signed query of a cloud takes most of it.
const URL_PATH_BYTES_MAX: usize = 4096;
const URL_PATH_DEFAULT: &str = "/mqtt";
const SOCKS_PORT: u16 = 1080;
/// RFC 1929: a length is one byte.
const LOGIN_BYTES_MAX: usize = 255;

fn refuse<T>(field: &Field<'_>, problem: UplinkProblem) -> Option<T> {
    field.fault(Problem::Uplink(problem));
    None
}

/// One URL, or a list of them. Each with its place; never empty.
pub(super) fn check_urls<'a>(field: &Field<'a>) -> Option<Vec<(BridgeUrl, Field<'a>)>> {
    if !matches!(field.kind(), Kind::List(_)) {
        return Some(vec![(check_url(field)?, field.clone())]);
    }
    let items = field.items()?;
    let count = items.len();
    if count > URLS_MAX {
        return refuse(field, UplinkProblem::TooManyUrls { max: URLS_MAX });
    }
    let mut urls: Vec<(BridgeUrl, Field<'a>)> = Vec::new();
    for item in items {
        let Some(url) = check_url(&item) else { continue };
        if urls.iter().any(|(other, _)| *other == url) {
            refuse::<()>(&item, UplinkProblem::SameUrl);
        } else if urls.first().is_some_and(|(first, _)| first.tls != url.tls) {
            refuse::<()>(&item, UplinkProblem::TlsUnlikeFirst);
        } else {
            urls.push((url, item));
        }
    }
    if count == 0 { refuse(field, UplinkProblem::NoUrl) } else { Some(urls).filter(|urls| !urls.is_empty()) }
}

fn check_url(field: &Field<'_>) -> Option<BridgeUrl> {
    parse_url(field.text()?).map_err(|problem| field.fault(Problem::Uplink(problem))).ok()
}

fn parse_url(text: &str) -> Result<BridgeUrl, UplinkProblem> {
    let (scheme, rest) = text.split_once("://").ok_or(UplinkProblem::BadUrl)?;
    let (tls, websocket, port_default) = match scheme {
        "mqtt" => (false, false, 1883),
        "mqtts" => (true, false, 8883),
        "ws" => (false, true, 80),
        "wss" => (true, true, 443),
        _ => return Err(UplinkProblem::UrlScheme),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(UplinkProblem::UrlHoldsUser);
    }
    let (host, port) = address::split_endpoint(authority).ok_or(UplinkProblem::BadUrl)?;
    let path = match (websocket, path) {
        (true, path) => Some(check_url_path(path)?),
        (false, "" | "/") => None,
        (false, _) => return Err(UplinkProblem::UrlHoldsPath),
    };
    Ok(BridgeUrl { tls, host: host.into(), port: port.unwrap_or(port_default), path })
}

/// What a request for a WebSocket can ask for: RFC 3986, 3.3 and 3.4.
fn check_url_path(path: &str) -> Result<Arc<str>, UplinkProblem> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&b);
    if path.len() > URL_PATH_BYTES_MAX || !path.bytes().all(allowed) {
        return Err(UplinkProblem::BadUrlPath { bytes_max: URL_PATH_BYTES_MAX });
    }
    Ok(match path.strip_prefix('?') {
        Some(query) => format!("{URL_PATH_DEFAULT}?{query}").into(),
        None if path.is_empty() => URL_PATH_DEFAULT.into(),
        None => path.into(),
    })
}

/// Empty text, as from an unset variable, stands for none.
pub(super) fn check_proxy(section: &Section<'_>) -> Option<Proxy> {
    let field = section.find("proxy").filter(|field| !is_empty(field.kind()))?;
    parse_proxy(field.text()?).map_err(|problem| field.fault(Problem::Uplink(problem))).ok()
}

fn parse_proxy(text: &str) -> Result<Proxy, UplinkProblem> {
    let (scheme, rest) = text.split_once("://").ok_or(UplinkProblem::BadProxy)?;
    let (kind, port_default) = match scheme {
        "http" => (ProxyKind::Http, None),
        // The names of both are resolved by the proxy: the gateway may know no name server.
        "socks5" | "socks5h" => (ProxyKind::Socks5, Some(SOCKS_PORT)),
        _ => return Err(UplinkProblem::ProxyScheme),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(UplinkProblem::ProxyHoldsPath);
    }
    let (login, endpoint) = match rest.rsplit_once('@') {
        Some((login, endpoint)) => (Some(parse_login(login).ok_or(UplinkProblem::BadProxyLogin)?), endpoint),
        None => (None, rest),
    };
    let (host, port) = address::split_endpoint(endpoint).ok_or(UplinkProblem::BadProxy)?;
    let port = port.or(port_default).ok_or(UplinkProblem::BadProxy)?;
    Ok(Proxy { kind, host: host.into(), port, login })
}

fn parse_login(text: &str) -> Option<(Arc<str>, Secret)> {
    let (user, password) = text.split_once(':')?;
    let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
    let fits = |text: &str| (1..=LOGIN_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    // Basic separates the two by a colon: RFC 7617, 2.
    (fits(&user) && fits(&password) && !user.contains(':')).then(|| (user.into(), Secret::new(&password)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        if *first == b'%' {
            let [high, low, behind @ ..] = behind else { return None };
            let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            bytes.push(digit(high)? * 16 + digit(low)?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

/// `alpn` makes what is said where nobody wrote it.
pub(super) fn check_tls(
    section: &Section<'_>,
    url: Option<&BridgeUrl>,
    context: &Context<'_>,
    alpn: impl FnOnce() -> Vec<Arc<str>>,
) -> TlsFiles {
    let mut files = check_tls_files(section, url, context);
    if files.alpn.is_empty() {
        files.alpn = alpn();
    }
    files
}

fn check_tls_files(section: &Section<'_>, url: Option<&BridgeUrl>, context: &Context<'_>) -> TlsFiles {
    let Some(field) = section.find("tls") else { return TlsFiles::default() };
    if url.is_some_and(|url| !url.tls) && !is_empty(field.kind()) {
        field.fault_at_key(Problem::OnlyWith("an mqtts:// or wss:// url"));
    }
    let Some(tls) = field.section(TLS_KEYS) else { return TlsFiles::default() };
    let pem = |key, wants| tls.read(key, |field| file::pem(field, context.base_dir, wants));
    for (key, other, example) in [
        ("certificate", "private_key", "private_key: tls/gateway.key"),
        ("private_key", "certificate", "certificate: tls/gateway.crt"),
    ] {
        if tls.has(key) {
            tls.require(other, example);
        }
    }
    TlsFiles {
        ca: pem("ca", Pem::Certificate),
        certificate: pem("certificate", Pem::Certificate),
        private_key: pem("private_key", Pem::PrivateKey),
        server_name: tls.read("server_name", check_server_name),
        alpn: tls.read("alpn", check_alpn).unwrap_or_default(),
    }
}

fn check_server_name(field: &Field<'_>) -> Option<Arc<str>> {
    if let Some((host, None)) = address::split_endpoint(field.filled_text()?) {
        return Some(host.into());
    }
    refuse(field, UplinkProblem::BadServerName)
}

fn check_alpn(field: &Field<'_>) -> Option<Vec<Arc<str>>> {
    let names = field.items()?.into_iter().filter_map(|item| {
        let name = item.filled_text()?;
        if name.len() > ALPN_BYTES_MAX {
            item.fault(Problem::TextTooLong { bytes_max: ALPN_BYTES_MAX });
            return None;
        }
        Some(name.into())
    });
    Some(names.collect())
}

#[cfg(test)]
mod tests {
    use super::{Proxy, ProxyKind, UplinkProblem, parse_proxy, parse_url};

    #[test]
    fn urls_are_taken_apart_or_refused_for_the_right_reason() {
        let good = [
            ("mqtts://broker.example.com:8883", "mqtts://broker.example.com:8883"),
            ("mqtt://10.0.0.1", "mqtt://10.0.0.1:1883"),
            ("mqtts://[::1]/", "mqtts://[::1]:8883"),
            ("ws://[::1]", "ws://[::1]:80/mqtt"),
            ("wss://a", "wss://a:443/mqtt"),
            ("wss://a/", "wss://a:443/"),
            ("wss://a:8443/x/y", "wss://a:8443/x/y"),
        ];
        for (text, printed) in good {
            assert_eq!(parse_url(text).map(|url| url.to_string()), Ok(printed.to_owned()), "{text}");
        }
        let path = |text| parse_url(text).map(|url| url.path);
        assert_eq!(path("wss://a?token=x@y%20z"), Ok(Some("/mqtt?token=x@y%20z".into())));
        let too_long = format!("ws://a/{}", "x".repeat(4096));
        let bad = [
            ("broker.example.com", UplinkProblem::BadUrl),
            ("mqtt://", UplinkProblem::BadUrl),
            ("mqtt://a:b", UplinkProblem::BadUrl),
            ("ws://::1", UplinkProblem::BadUrl),
            ("http://a", UplinkProblem::UrlScheme),
            ("mqtt://u:p@a", UplinkProblem::UrlHoldsUser),
            ("wss://u:p@a/mqtt", UplinkProblem::UrlHoldsUser),
            ("mqtt://a/x", UplinkProblem::UrlHoldsPath),
            ("mqtt://a?x", UplinkProblem::UrlHoldsPath),
            ("ws://a/x#y", UplinkProblem::BadUrlPath { bytes_max: 4096 }),
            ("ws://a/x y", UplinkProblem::BadUrlPath { bytes_max: 4096 }),
            ("ws://a/\r\nX: y", UplinkProblem::BadUrlPath { bytes_max: 4096 }),
            (&too_long, UplinkProblem::BadUrlPath { bytes_max: 4096 }),
        ];
        for (text, problem) in bad {
            assert_eq!(parse_url(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn proxies_are_taken_apart_or_refused_for_the_right_reason() {
        let show = |proxy: Proxy| {
            let login = proxy.login.map(|(user, secret)| format!("{user} {} at ", secret.reveal()));
            format!("{:?} {}{} {}", proxy.kind, login.unwrap_or_default(), proxy.host, proxy.port)
        };
        let good = [
            ("http://proxy:3128", "Http proxy 3128"),
            ("http://proxy:3128/", "Http proxy 3128"),
            ("http://u%40corp:p%3Aa%25%C3%A4@[::1]:8080", "Http u@corp p:a%ä at ::1 8080"),
            ("socks5://proxy", "Socks5 proxy 1080"),
            ("socks5h://u:p@10.0.0.1:9", "Socks5 u p at 10.0.0.1 9"),
        ];
        for (text, shown) in good {
            assert_eq!(parse_proxy(text).map(show), Ok(shown.to_owned()), "{text}");
        }
        let long = format!("socks5://{}:p@a", "u".repeat(256));
        let bad = [
            ("proxy:3128", UplinkProblem::BadProxy),
            ("http://proxy", UplinkProblem::BadProxy),
            ("http://:3128", UplinkProblem::BadProxy),
            ("https://proxy:3128", UplinkProblem::ProxyScheme),
            ("socks4://proxy", UplinkProblem::ProxyScheme),
            ("http://proxy:3128/x", UplinkProblem::ProxyHoldsPath),
            ("http://u@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://:p@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://u%3Ax:p@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://u%:p@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://u:p%zz@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://u:p%FF@proxy:3128", UplinkProblem::BadProxyLogin),
            ("http://u:p%0d%0aX@proxy:3128", UplinkProblem::BadProxyLogin),
            (&long, UplinkProblem::BadProxyLogin),
        ];
        for (text, problem) in bad {
            assert_eq!(parse_proxy(text).map(show), Err(problem), "{text}");
        }
        let secret = parse_proxy("http://u:geheim@proxy:1");
        assert!(!format!("{secret:?}").contains("geheim"));
        assert!(matches!(secret, Ok(Proxy { kind: ProxyKind::Http, .. })));
    }
}
