//! From the configuration of a listener to how its connections begin. Reads certificates; opens no socket.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::app::error::StartError;
use crate::config::listener::{ClientCertificates, Listener, ServerTls, UsernameFrom};
use crate::config::model::Http;
use crate::lan::entrance::warn_of_age;
use crate::transport::accept::Acceptor;
use crate::transport::identity::NameFrom;
use crate::transport::server::{ClientSettings, ServerSettings, TlsServer};
use crate::transport::websocket::WebSocketSettings;

/// `packet_bytes` is the largest MQTT packet.
pub fn acceptor(listener: &Listener, packet_bytes: u32) -> Result<Acceptor, StartError> {
    let tls = listener.tls.as_ref().map(|files| tls_server(files, listener.address)).transpose()?;
    let packet_bytes_max = usize::try_from(packet_bytes).unwrap_or(usize::MAX);
    let websocket = listener.websocket_path.clone().map(|path| WebSocketSettings { path, packet_bytes_max });
    Ok(Acceptor { tls, websocket })
}

/// Of the dashboard and the API.
pub fn http_acceptor(http: &Http) -> Result<Acceptor, StartError> {
    let tls = http.tls.as_ref().map(|files| tls_server(files, http.address)).transpose()?;
    Ok(Acceptor { tls, websocket: None })
}

fn tls_server(files: &ServerTls, address: SocketAddr) -> Result<Arc<TlsServer>, StartError> {
    let server = TlsServer::new(server_settings(files))
        .map_err(|error| StartError::Tls { address, error: Box::new(error) })?;
    warn_of_age(&server);
    Ok(Arc::new(server))
}

fn server_settings(files: &ServerTls) -> ServerSettings {
    ServerSettings {
        certificate: files.certificate.clone(),
        private_key: files.private_key.clone(),
        clients: files.clients.as_ref().map(client_settings),
    }
}

fn client_settings(clients: &ClientCertificates) -> ClientSettings {
    ClientSettings {
        ca: clients.ca.clone(),
        required: clients.required,
        name_from: match clients.username_from {
            UsernameFrom::CommonName => Some(NameFrom::CommonName),
            UsernameFrom::Subject => Some(NameFrom::Subject),
            UsernameFrom::SanDns => Some(NameFrom::SanDns),
            UsernameFrom::None => None,
        },
    }
}
