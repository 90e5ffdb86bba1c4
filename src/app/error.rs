//! Why a gateway did not start.

use std::io;
use std::net::SocketAddr;

use crate::auth::password::HashNotMade;
use crate::store::error::StoreError;
use crate::transport::tls::TlsError;

#[derive(Debug)]
pub enum StartError {
    Store(StoreError),
    Listen { address: SocketAddr, error: io::Error },
    Tls { address: SocketAddr, error: Box<TlsError> },
    Http { address: SocketAddr, error: io::Error },
    Threads(io::Error),
    Logins(HashNotMade),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Tls { address, error } => write!(f, "cannot serve TLS on {address}: {error}"),
            Self::Http { address, error } => write!(f, "cannot serve the dashboard on {address}: {error}"),
            Self::Logins(error) => write!(f, "cannot check logins: {error}"),
            Self::Threads(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
