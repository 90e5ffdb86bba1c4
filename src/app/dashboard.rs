//! The dashboard's port, who is let in, and the tasks that serve it. Its port is taken before anything is applied, and
//! outlives the task that serves it: one that is started again has the same port. Knows no route.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::entrances;
use crate::app::error::StartError;
use crate::app::overview::Overview;
use crate::app::supervise::Supervisor;
use crate::base::pulse::Pulses;
use crate::base::time::{Clock, Duration};
use crate::config::model::{Http, HttpLogin};
use crate::lan::listener;
use crate::transport::accept::Acceptor;
use crate::transport::server::TlsServer;
use crate::web;
use crate::web::guard::Gate;
use crate::web::login::Login;
use crate::web::server::Entrance;

/// How long answers have that are under way when their dashboard goes: a little more than the hand allows them.
const END_WAIT: Duration = Duration::from_millis(2500);

/// As it was configured.
pub struct Dashboard {
    configured: Http,
    listener: Arc<TcpListener>,
    acceptor: Arc<Acceptor>,
    gate: Gate,
}

impl Dashboard {
    /// Takes the port and reads the certificate. What is there already and is to be the same stays; `own` are all
    /// listeners of ours that may have the port.
    pub fn open(
        http: &Http,
        known: Option<&Arc<Dashboard>>,
        own: &[Arc<TcpListener>],
        clock: Clock,
    ) -> Result<Arc<Self>, StartError> {
        if let Some(known) = known.filter(|known| known.configured == *http) {
            return Ok(Arc::clone(known));
        }
        let at_same_port = known.filter(|known| known.configured.address == http.address);
        let listener = if let Some(known) = at_same_port {
            Arc::clone(&known.listener)
        } else {
            let bound = listener::bind_beside(http.address, own);
            Arc::new(bound.map_err(|error| StartError::Http { address: http.address, error })?)
        };
        let acceptor = Arc::new(entrances::http_acceptor(http)?);
        let gate = gate_of(http.login.as_ref(), clock)?;
        Ok(Arc::new(Self { configured: http.clone(), listener, acceptor, gate }))
    }

    pub fn listener(&self) -> &Arc<TcpListener> {
        &self.listener
    }

    /// Whose certificate is to be watched.
    pub fn tls(&self) -> Option<Arc<TlsServer>> {
        self.acceptor.tls.clone()
    }

    async fn serve(self: Arc<Self>, overview: Arc<Overview>, cancel: CancellationToken) {
        let entrance = Entrance { listener: self.listener.clone(), acceptor: self.acceptor.clone() };
        if let Err(error) = web::serve(entrance, overview, self.gate.clone(), cancel).await {
            tracing::error!(%error, "the dashboard cannot be served");
        }
    }
}

fn gate_of(login: Option<&HttpLogin>, clock: Clock) -> Result<Gate, StartError> {
    let Some(HttpLogin { username, password_hash }) = login else { return Ok(Gate::ThisMachine) };
    let login = Login::new(username.clone(), password_hash.clone(), clock);
    Ok(Gate::User(login.map_err(StartError::Logins)?))
}

/// Who serves the dashboard, where there is one.
pub struct Web {
    overview: Arc<Overview>,
    pulses: Pulses,
    serving: Option<(Arc<Dashboard>, Supervisor)>,
}

impl Web {
    pub fn start(dashboard: Option<Arc<Dashboard>>, overview: Arc<Overview>, pulses: &Pulses) -> Self {
        let mut web = Self { overview, pulses: pulses.clone(), serving: None };
        web.serving = dashboard.map(|dashboard| web.serve(dashboard));
        web
    }

    pub fn dashboard(&self) -> Option<&Arc<Dashboard>> {
        self.serving.as_ref().map(|(dashboard, _)| dashboard)
    }

    /// This dashboard, and no other, from now on. Streams of events and connections of the one before end, its answers
    /// that are under way do so within a bound.
    pub async fn replace(&mut self, dashboard: Option<Arc<Dashboard>>) {
        let is_same = match (self.dashboard(), &dashboard) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if is_same {
            return;
        }
        let before = self.serving.take();
        // At once: where the port stays, whoever waits there is not to wait for others' answers.
        self.serving = dashboard.map(|dashboard| self.serve(dashboard));
        if let Some((_, tasks)) = before {
            tasks.end(END_WAIT).await;
        }
    }

    fn serve(&self, dashboard: Arc<Dashboard>) -> (Arc<Dashboard>, Supervisor) {
        let Http { address, tls, .. } = &dashboard.configured;
        if tls.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the dashboard's password crosses the network in the clear: set http.tls");
        }
        let mut tasks = Supervisor::new(CancellationToken::new(), &self.pulses);
        let watcher = self.overview.clone();
        tasks.spawn("events".to_owned(), move |cancel| watcher.clone().watch(cancel));
        let (served, overview) = (dashboard.clone(), self.overview.clone());
        tasks.spawn("web".to_owned(), move |cancel| served.clone().serve(overview.clone(), cancel));
        (dashboard, tasks)
    }

    /// Ends all, within `wait`.
    pub async fn close(self, wait: Duration) {
        if let Some((_, tasks)) = self.serving {
            tasks.end(wait).await;
        }
    }
}
