//! Dashboard and API: their address, and who is let in.

use std::path::Path;
use std::sync::Arc;

use crate::auth::password::PasswordHash;
use crate::config::check::address::{self, Addresses};
use crate::config::check::listener::check_server;
use crate::config::error::Problem;
use crate::config::listener::ServerTls;
use crate::config::model::{Http, HttpLogin};
use crate::config::raw::{Field, Section};

const KEYS: &[&str] = &["address", "username", "password_hash", "tls"];
const TLS_KEYS: &[&str] = &["certificate", "private_key"];
const ADDRESS_DEFAULT: &str = "127.0.0.1:8080";

pub(super) fn check(field: &Field<'_>, base_dir: &Path, addresses: &mut Addresses) -> Http {
    let default = address::fixed(ADDRESS_DEFAULT);
    let Some(section) = field.section(KEYS) else {
        return Http { address: default, login: None, tls: None };
    };
    let login = check_login(&section);
    let tls = section.read("tls", |field| {
        let (certificate, private_key) = check_server(&field.section(TLS_KEYS)?, base_dir)?;
        Some(ServerTls { certificate, private_key, clients: None })
    });
    let Some(field) = section.find("address") else {
        addresses.claim(default, "http.address");
        return Http { address: default, login, tls };
    };
    let address = address::listen(&field, addresses);
    // A login that is faulty was meant all the same.
    let is_open = !section.has("username") && !section.has("password_hash");
    if is_open && address.is_some_and(|address| !address.ip().is_loopback()) {
        field.fault(Problem::NotLoopback);
    }
    Http { address: address.unwrap_or(default), login, tls }
}

fn check_login(section: &Section<'_>) -> Option<HttpLogin> {
    if !section.has("username") && !section.has("password_hash") {
        return None;
    }
    let username = section.require("username", "username: admin").and_then(|field| {
        let name = field.filled_text()?;
        // RFC 7617, 2: the colon ends the name.
        if name.contains(':') || name.chars().any(char::is_control) {
            field.fault(Problem::BadHttpUser);
            return None;
        }
        Some(Arc::from(name))
    });
    let example = "password_hash: what `tidegate passwd` writes behind the name";
    let password_hash = section.require("password_hash", example).and_then(|field| {
        let parsed = PasswordHash::parse(field.filled_text()?);
        parsed.map_err(|error| field.fault(Problem::BadPasswordHash(error))).ok()
    });
    Some(HttpLogin { username: username?, password_hash: password_hash? })
}
