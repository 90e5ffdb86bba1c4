//! What a request must show before it meets a route, and what every answer carries. Knows no route.

use crate::base::address::Address;
use crate::web::api::Problem;
use crate::web::login::Login;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// No route takes more than one value.
pub const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024;

/// Says only that somebody answers.
pub const HEALTH_PATH: &str = "/healthz";
/// Fetch Metadata: which site's page a browser asks for.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"tidegate\", charset=\"UTF-8\"");

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

/// Who is let in.
#[derive(Clone)]
pub enum Gate {
    /// Whoever is on this machine, and calls it by a name of its own.
    ThisMachine,
    User(Arc<Login>),
}

/// Refuses who is not to be let in and what another page's script sends, and dresses the answer.
pub async fn guard(
    State(gate): State<Gate>,
    Extension(from): Extension<Address>,
    request: Request,
    next: Next,
) -> Response {
    let password = request.headers().get(AUTHORIZATION).cloned();
    let admitted = match admit(&gate, &request) {
        Ok(Some(login)) => login.check(password.as_ref(), from).await.map_err(Problem::from),
        Ok(None) => Ok(()),
        Err(problem) => Err(problem),
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    }
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Some: by this login, else at once.
fn admit<'a>(gate: &'a Gate, request: &Request) -> Result<Option<&'a Arc<Login>>, Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let (Some(host), None) = (host, hosts.next()) else { return Err(Problem::HOST) };
    if is_foreign(request, host) {
        return Err(Problem::ORIGIN);
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > REQUEST_BODY_BYTES_MAX as u64) {
        return Err(Problem::TOO_LARGE);
    }
    match gate {
        Gate::ThisMachine => {
            // A page that had its name pointed here (DNS rebinding) still says its own name. Where there is a login,
            // a browser gives it no password.
            let is_named = request.uri().authority().is_none_or(|authority| is_loopback(authority.as_str()));
            if is_named && is_loopback(host) { Ok(None) } else { Err(Problem::HOST) }
        }
        // Whoever watches whether the gateway lives needs no password for it.
        Gate::User(_) if request.uri().path() == HEALTH_PATH => Ok(None),
        Gate::User(login) => Ok(Some(login)),
    }
}

/// Whether a page of another origin asks for a change (CSRF): a browser sends the password along by itself.
fn is_foreign(request: &Request, host: &str) -> bool {
    if request.method().is_safe() {
        return false;
    }
    let headers = request.headers();
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let of_another_site = text(&SEC_FETCH_SITE).is_some_and(|site| !["same-origin", "none"].contains(&site));
    let of_another_origin = text(&ORIGIN).is_some_and(|origin| {
        origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host))
    });
    of_another_site || of_another_origin
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
