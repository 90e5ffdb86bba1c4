//! What a request must show before it meets a route, and what every answer carries. Knows no route.

use crate::web::api::Problem;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// No route takes more than one value.
const REQUEST_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Pages take scripts, styles and events from here alone, and nobody frames them.
const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static(
            "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
        ),
    ),
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY")),
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store")),
];

/// Refuses what does not speak to this machine by a name of its own, and dresses the answer.
pub async fn guard(request: Request, next: Next) -> Response {
    let mut response = match refusal(&request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

fn refusal(request: &Request) -> Option<Problem> {
    let is_named = match request.uri().authority() {
        Some(authority) => is_loopback(authority.as_str()),
        None => true,
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_local = |host: &HeaderValue| host.to_str().is_ok_and(is_loopback);
    // A page that had its name pointed here (DNS rebinding) still says its own name.
    if !is_named || !hosts.next().is_some_and(is_local) || hosts.next().is_some() {
        return Some(Problem::HOST);
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.is_some_and(|length: u64| length > REQUEST_BODY_BYTES_MAX).then_some(Problem::TOO_LARGE)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let is_bare = !host.contains('@');
    let port = host.strip_prefix(authority.host()).unwrap_or("@");
    let is_port = port.is_empty() || (port.starts_with(':') && authority.port_u16().is_some());
    let name = authority.host();
    is_bare && is_port && (name.eq_ignore_ascii_case("localhost") || ["127.0.0.1", "[::1]"].contains(&name))
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_this_machine_pass() {
        let good = [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:8080",
            "localhost:80",
        ];
        for host in good {
            assert!(is_loopback(host), "{host}");
        }
        let bad = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "evil.example@localhost",
            "localhost@evil.example",
            "::1",
            "[::2]",
            "0.0.0.0",
            "127.0.0.2",
            "localhost:",
            "localhost:x",
            "localhost:70000",
            "localhost:80:80",
            "localhost/",
            " localhost",
            "localhost,evil.example",
        ];
        for host in bad {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
