//! The buffers of a gateway, whether it runs or not: over its socket, or over its database in this process. The
//! same questions, the same answers. Interprets none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::app::error::StartError;
use crate::app::offline::Offline;
use crate::app::socket_path;
use crate::cli::gateway::{AskError, answer, ask, unreachable};
use crate::config::load::data_dir_of;
use crate::config::model::Config;
use crate::store::error::StoreError;
use crate::web::local::SOCKET_FILE;

/// What to ask.
pub enum Reach {
    Running { socket: PathBuf },
    Stopped { offline: Offline, service: TowerToHyperService<Router> },
}

/// Neither way leads to the buffers.
#[derive(Debug)]
pub enum ReachError {
    Ask(AskError),
    Start(StartError),
    /// Somebody holds the data directory and does not listen.
    Busy {
        socket: PathBuf,
    },
    Close(StoreError),
}

impl std::fmt::Display for ReachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ask(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Busy { socket } => write!(
                f,
                "a gateway or another command holds the data directory, but nobody listens on {} (try again)",
                socket.display()
            ),
            Self::Close(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReachError {}

impl From<AskError> for ReachError {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

/// Where a gateway listens for commands. Its configuration need not load: it may have been changed since, or need what the
/// service alone has.
pub fn running_socket(configuration: &Path) -> Option<PathBuf> {
    let socket = data_dir_of(configuration)?.join(SOCKET_FILE);
    std::os::unix::net::UnixStream::connect(&socket).ok()?;
    Some(socket)
}

impl Reach {
    /// The gateway that runs, also where its configuration does not load.
    pub fn running(configuration: &Path) -> Option<Self> {
        running_socket(configuration).map(|socket| Self::Running { socket })
    }

    pub async fn open(config: Config) -> Result<Self, ReachError> {
        let socket = socket_path(&config);
        match UnixStream::connect(&socket).await.map_err(|error| unreachable(&socket, error)) {
            Ok(_) => return Ok(Self::Running { socket }),
            Err(AskError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let offline = match Offline::open(Arc::new(config)) {
            Ok(offline) => offline,
            Err(StartError::Store(StoreError::Locked { .. })) => return Err(ReachError::Busy { socket }),
            Err(error) => return Err(ReachError::Start(error)),
        };
        let service = TowerToHyperService::new(offline.router());
        Ok(Self::Stopped { offline, service })
    }

    pub async fn bytes(&self, request: Request<Body>) -> Result<Bytes, AskError> {
        match self {
            Self::Running { socket } => ask(socket, request).await,
            Self::Stopped { service, .. } => match service.call(request).await {
                Ok(response) => answer(response).await,
                Err(never) => match never {},
            },
        }
    }

    pub async fn json<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T, AskError> {
        let body = self.bytes(request).await?;
        serde_json::from_slice(&body).map_err(AskError::Unexpected)
    }

    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    pub fn close(self) -> Result<(), ReachError> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Stopped { offline, .. } => offline.close().map_err(ReachError::Close),
        }
    }
}
