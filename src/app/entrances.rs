//! From the configuration of a listener to how its connections begin. Reads certificates; opens no socket.

use std::sync::Arc;

use crate::app::error::StartError;
use crate::config::listener::{ClientCertificates, Listener, ServerTls, UsernameFrom};
use crate::lan::entrance::warn_of_age;
use crate::transport::accept::Acceptor;
use crate::transport::identity::NameFrom;
use crate::transport::server::{ClientSettings, ServerSettings, TlsServer};
use crate::transport::websocket::WebSocketSettings;

/// `packet_bytes` is the largest MQTT packet.
pub fn acceptor(listener: &Listener, packet_bytes: u32) -> Result<Acceptor, StartError> {
    let tls = match &listener.tls {
        Some(files) => {
            let server = TlsServer::new(server_settings(files))
                .map_err(|error| StartError::Tls { address: listener.address, error: Box::new(error) })?;
            warn_of_age(&server);
            Some(Arc::new(server))
        }
        None => None,
    };
    let packet_bytes_max = usize::try_from(packet_bytes).unwrap_or(usize::MAX);
    let websocket = listener.websocket_path.clone().map(|path| WebSocketSettings { path, packet_bytes_max });
    Ok(Acceptor { tls, websocket })
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
