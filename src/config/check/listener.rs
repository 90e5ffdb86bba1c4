//! One listener: its address, transport and certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::check::address::{self, Addresses};
use crate::config::check::file::{self, Pem};
use crate::config::error::Problem;
use crate::config::listener::{ClientCertificates, Listener, ServerTls, UsernameFrom};
use crate::config::raw::{Field, Section};

const KEYS: &[&str] = &["address", "transport", "tls", "path"];
const TLS_KEYS: &[&str] = &["certificate", "private_key", "client_ca", "client_certificate", "username_from"];
const USERNAME_FROM: [(&str, UsernameFrom); 4] = [
    ("common_name", UsernameFrom::CommonName),
    ("subject", UsernameFrom::Subject),
    ("san_dns", UsernameFrom::SanDns),
    ("none", UsernameFrom::None),
];
const PATH_DEFAULT: &str = "/mqtt";
const PATH_BYTES_MAX: usize = 256;

pub(super) fn check(field: &Field<'_>, addresses: &mut Addresses, base_dir: &Path) -> Option<Listener> {
    let section = field.section(KEYS)?;
    let websocket =
        section.read_or("transport", false, |field| field.choice(&[("tcp", false), ("websocket", true)]));
    if !websocket {
        section.refuse_keys(&["path"], &Problem::OnlyWith("transport: websocket"));
    }
    let path = section.read_or("path", PATH_DEFAULT.into(), check_path);
    let tls = section.read("tls", |field| check_tls(&field.section(TLS_KEYS)?, base_dir));
    let address = address::listen(&section.require("address", "address: 0.0.0.0:1883")?, addresses)?;
    Some(Listener { address, tls, websocket_path: websocket.then_some(path) })
}

/// What a request's path can be, without a query.
fn check_path(field: &Field<'_>) -> Option<Arc<str>> {
    let text = field.filled_text()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    if text.starts_with('/') && text.len() <= PATH_BYTES_MAX && text.bytes().all(allowed) {
        return Some(text.into());
    }
    field.fault(Problem::BadPath);
    None
}

fn check_tls(section: &Section<'_>, base_dir: &Path) -> Option<ServerTls> {
    let files = check_server(section, base_dir);
    let clients = check_clients(section, base_dir);
    let (certificate, private_key) = files?;
    Some(ServerTls { certificate, private_key, clients })
}

/// What a server shows, and its key.
pub(super) fn check_server(section: &Section<'_>, base_dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let pem = |field: Option<Field<'_>>, wants| field.and_then(|field| file::pem(&field, base_dir, wants));
    let certificate = pem(section.require("certificate", "certificate: tls/server.crt"), Pem::Certificate);
    let key_field = section.require("private_key", "private_key: tls/server.key");
    let private_key = pem(key_field.clone(), Pem::PrivateKey);
    let (certificate, private_key) = (certificate?, private_key?);
    if let Some(field) = key_field
        && !file::fits(&certificate, &private_key)
    {
        field.fault(Problem::KeyDoesNotFit { file: private_key.display().to_string().into() });
        return None;
    }
    Some((certificate, private_key))
}

fn check_clients(section: &Section<'_>, base_dir: &Path) -> Option<ClientCertificates> {
    let Some(field) = section.find("client_ca") else {
        section.refuse_keys(&["client_certificate", "username_from"], &Problem::OnlyWith("client_ca"));
        return None;
    };
    let choices = [("required", true), ("optional", false)];
    let required = section.read_or("client_certificate", true, |field| field.choice(&choices));
    let username_from =
        section.read_or("username_from", UsernameFrom::CommonName, |field| field.choice(&USERNAME_FROM));
    Some(ClientCertificates { ca: file::pem(&field, base_dir, Pem::Certificate)?, required, username_from })
}
