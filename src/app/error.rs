//! Why a gateway did not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::auth::password::HashNotMade;
use crate::store::error::StoreError;
use crate::transport::tls::TlsError;

#[derive(Debug)]
pub enum StartError {
    Store(StoreError),
    /// There is no database to look at.
    NothingStored {
        path: PathBuf,
    },
    /// A command met a damaged database.
    SetAside {
        path: PathBuf,
    },
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    Tls {
        address: SocketAddr,
        error: Box<TlsError>,
    },
    Http {
        address: SocketAddr,
        error: io::Error,
    },
    Share {
        port: Arc<str>,
        address: SocketAddr,
        error: io::Error,
    },
    Threads(io::Error),
    Logins(HashNotMade),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::NothingStored { path } => {
                write!(f, "no gateway has run here: {} does not exist (name its `--config`)", path.display())
            }
            Self::SetAside { path } => {
                write!(
                    f,
                    "the database was damaged: it was set aside as {} and a new one begun",
                    path.display()
                )
            }
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {}", refusal(error)),
            Self::Tls { address, error } => write!(f, "cannot serve TLS on {address}: {error}"),
            Self::Http { address, error } => {
                write!(f, "cannot serve the dashboard on {address}: {}", refusal(error))
            }
            Self::Share { port, address, error } => {
                write!(
                    f,
                    "cannot share port {port} on {address}: {error} (another address for ports.{port}.share)"
                )
            }
            Self::Logins(error) => write!(f, "cannot check logins: {error}"),
            Self::Threads(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What stands in the way of a port, and what to do about it.
fn refusal(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another program has this port: `ss -ltnp` names it",
        io::ErrorKind::AddrNotAvailable => {
            "no network interface has this address: `ip address` lists those there are"
        }
        io::ErrorKind::PermissionDenied => "a port below 1024 is for root, or needs CAP_NET_BIND_SERVICE",
        _ => return error.to_string(),
    };
    format!("{} ({hint})", error.kind())
}

#[cfg(test)]
mod tests {
    use super::StartError;
    use std::io;

    #[test]
    fn a_port_that_cannot_be_had_comes_with_a_way_out() {
        let told = |kind: io::ErrorKind| {
            let address = "127.0.0.1:80".parse().expect("an address");
            StartError::Listen { address, error: kind.into() }.to_string()
        };
        let expected = "cannot listen on 127.0.0.1:80: address in use (another program has this port: `ss -ltnp` names it)";
        assert_eq!(told(io::ErrorKind::AddrInUse), expected);
        assert!(told(io::ErrorKind::PermissionDenied).contains("CAP_NET_BIND_SERVICE"));
        assert!(told(io::ErrorKind::AddrNotAvailable).contains("ip address"));
    }
}
