//! The buffers of a gateway that does not run: its brains over its database, with no link, line or listener.

use std::path::Path;
use std::sync::Arc;

use axum::Router;

use crate::app::control::{Controls, Links};
use crate::app::error::StartError;
use crate::app::prepare::{Opened, open};
use crate::app::running::{Running, Stand};
use crate::base::time::Clock;
use crate::config::model::Config;
use crate::hub::Hub;
use crate::store::error::StoreError;
use crate::store::schema::DATABASE_FILE;
use crate::store::writer::Writer;
use crate::web::control;

/// Holds the lock of the data directory. To be ended with `close`: dropped, it leaves what only memory has
/// unwritten.
pub struct Offline {
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    running: Stand,
}

impl Offline {
    /// # Errors
    /// `StoreError::Locked` while a gateway runs; whatever a start may meet.
    pub fn open(config: Arc<Config>) -> Result<Self, StartError> {
        let path = config.gateway.data_dir.join(DATABASE_FILE);
        // A look must not make a database, and not as another user than the gateway's.
        if !path.exists() {
            return Err(StartError::NothingStored { path });
        }
        let Opened { hub, writer, lines: _, watch: _ } = open(&config, Clock::start())?;
        let set_aside = writer.set_aside().map(Path::to_path_buf);
        let running = Stand::new(Running { config, lines: Vec::new(), shares: Vec::new(), reload: None });
        let offline = Self { hub, writer, running };
        match set_aside {
            None => Ok(offline),
            Some(path) => {
                offline.close().map_err(StartError::Store)?;
                Err(StartError::SetAside { path })
            }
        }
    }

    /// The same routes as a running gateway serves on its socket.
    pub fn router(&self) -> Router {
        let controls = Controls::new(self.running.see(), self.hub.clone(), Links::Stopped);
        control::router(Arc::new(controls))
    }

    /// Everything is on disk afterwards.
    pub fn close(self) -> Result<(), StoreError> {
        self.hub.handle_shutdown();
        self.writer.stop()
    }
}
