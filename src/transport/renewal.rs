//! The TLS files of a client, read again when they change. What is faulty changes nothing: the last good ones stay.

use std::path::PathBuf;

use crate::transport::stamp::Stamp;
use crate::transport::tls::{TlsClient, TlsError, TlsSettings};

#[derive(Debug)]
pub struct RenewedTls {
    settings: TlsSettings,
    current: Option<TlsClient>,
    /// Of the files as they were read last, or as they were found faulty.
    stamps: Vec<Option<Stamp>>,
}

impl RenewedTls {
    /// Reads nothing yet.
    pub fn new(settings: TlsSettings) -> Self {
        Self { settings, current: None, stamps: Vec::new() }
    }

    /// What was good last.
    pub fn current(&self) -> Option<&TlsClient> {
        self.current.as_ref()
    }

    /// Reads the files, and the system's authorities where they count. Blocks for a moment.
    pub fn read(&mut self) -> Result<(), TlsError> {
        // Taken first: what changes while it is read is read again.
        self.stamps = self.look();
        self.current = Some(TlsClient::new(&self.settings)?);
        Ok(())
    }

    /// Reads the files again where one of them has changed; None: none has. Blocks for a moment.
    pub fn refresh(&mut self) -> Option<Result<(), TlsError>> {
        (self.look() != self.stamps).then(|| self.read())
    }

    fn look(&self) -> Vec<Option<Stamp>> {
        let TlsSettings { ca, certificate, private_key, .. } = &self.settings;
        let files: [&Option<PathBuf>; 3] = [ca, certificate, private_key];
        files.into_iter().flatten().map(|path| Stamp::of(path)).collect()
    }
}
