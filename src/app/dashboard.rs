//! The dashboard's port, and who is let in. Outlives the task that serves it: one that is started again has the same
//! port. Knows no route.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::entrances;
use crate::app::error::StartError;
use crate::app::overview::Overview;
use crate::base::time::Clock;
use crate::config::model::{Http, HttpLogin};
use crate::lan::listener;
use crate::transport::accept::Acceptor;
use crate::transport::server::TlsServer;
use crate::web;
use crate::web::guard::Gate;
use crate::web::login::Login;
use crate::web::server::Entrance;

pub struct Dashboard {
    listener: std::net::TcpListener,
    acceptor: Arc<Acceptor>,
    gate: Gate,
}

impl Dashboard {
    /// Takes the port and reads the certificate.
    pub fn open(http: &Http, clock: Clock) -> Result<Self, StartError> {
        let listen = |error| StartError::Http { address: http.address, error };
        let listener = listener::bind(http.address).and_then(TcpListener::into_std).map_err(listen)?;
        let acceptor = Arc::new(entrances::http_acceptor(http)?);
        if http.tls.is_none() && !http.address.ip().is_loopback() {
            tracing::warn!(address = %http.address, "the dashboard's password crosses the network in the clear: set http.tls");
        }
        Ok(Self { listener, acceptor, gate: gate_of(http.login.as_ref(), clock)? })
    }

    /// Whose certificate is to be watched.
    pub fn tls(&self) -> Option<Arc<TlsServer>> {
        self.acceptor.tls.clone()
    }

    pub async fn serve(self: Arc<Self>, overview: Arc<Overview>, cancel: CancellationToken) {
        let served = match self.listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => {
                let entrance = Entrance { listener, acceptor: self.acceptor.clone() };
                web::serve(entrance, overview, self.gate.clone(), cancel).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the dashboard cannot be served");
        }
    }
}

fn gate_of(login: Option<&HttpLogin>, clock: Clock) -> Result<Gate, StartError> {
    let Some(HttpLogin { username, password_hash }) = login else { return Ok(Gate::ThisMachine) };
    let login = Login::new(username.clone(), password_hash.clone(), clock);
    Ok(Gate::User(login.map_err(StartError::Logins)?))
}
