//! The broker's listeners: bound before anything is applied, started and ended as the configuration says. Connections
//! outlive the listener that they came in by. Speaks no MQTT.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::entrances;
use crate::app::error::StartError;
use crate::app::supervise::Supervisor;
use crate::base::pulse::Pulses;
use crate::base::time::Duration;
use crate::config::listener::Listener;
use crate::config::model::Config;
use crate::hub::Hub;
use crate::lan::admission::Admission;
use crate::lan::entrance::{Entrance, watch_certificates};
use crate::lan::listener;
use crate::lan::worker::Worker;
use crate::transport::accept::Acceptor;
use crate::transport::server::TlsServer;

/// How long a task may take to end that was told to.
const END_WAIT: Duration = Duration::from_secs(1);

/// A port that is taken, and how its connections begin.
pub struct Bound {
    configured: Listener,
    packet_bytes: u32,
    listener: Arc<TcpListener>,
    acceptor: Arc<Acceptor>,
}

impl Bound {
    /// Every listener of a configuration. What is bound already stays bound; nothing else is touched.
    /// `own` are all of ours that may have a port: one that is wanted here may go elsewhere.
    pub fn all(
        config: &Config,
        known: &[Arc<Bound>],
        own: &[Arc<TcpListener>],
    ) -> Result<Vec<Arc<Bound>>, StartError> {
        let mut all: Vec<Arc<Bound>> = Vec::new();
        let packet_bytes = config.broker.limits.packet_bytes;
        for configured in &config.broker.listeners {
            let address = configured.address;
            let of_address = known.iter().filter(|bound| bound.configured.address == address);
            // Port 0 stands for several.
            let nth = all.iter().filter(|bound| bound.configured.address == address).count();
            let known_here = of_address.into_iter().nth(nth);
            if let Some(bound) = known_here
                .filter(|bound| bound.configured == *configured && bound.packet_bytes == packet_bytes)
            {
                all.push(Arc::clone(bound));
                continue;
            }
            let listener = if let Some(bound) = known_here {
                Arc::clone(&bound.listener)
            } else {
                let bound = listener::bind_beside(address, own);
                Arc::new(bound.map_err(|error| StartError::Listen { address, error })?)
            };
            let acceptor = Arc::new(entrances::acceptor(configured, packet_bytes)?);
            all.push(Arc::new(Bound { configured: configured.clone(), packet_bytes, listener, acceptor }));
        }
        Ok(all)
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn listener(&self) -> &Arc<TcpListener> {
        &self.listener
    }

    /// Whose certificate is to be watched.
    pub fn tls(&self) -> Option<Arc<TlsServer>> {
        self.acceptor.tls.clone()
    }
}

/// Who serves clients.
pub struct Lan {
    hub: Arc<Hub>,
    admission: Arc<Admission>,
    workers: Vec<Worker>,
    workers_end: CancellationToken,
    pulses: Pulses,
    listeners: Vec<(Arc<Bound>, Supervisor)>,
    certificates: Option<Supervisor>,
}

impl Lan {
    pub fn start(
        bound: Vec<Arc<Bound>>,
        (workers, web): (usize, Option<Arc<TlsServer>>),
        (config, hub): (&Config, &Arc<Hub>),
        pulses: &Pulses,
    ) -> std::io::Result<Lan> {
        let workers_end = CancellationToken::new();
        let workers = (0..workers)
            .map(|index| {
                let name = format!("lan-{index}");
                let pulse = pulses.part(&name);
                Worker::start(name, pulse, hub.clone(), workers_end.clone())
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        let mut lan = Lan {
            hub: hub.clone(),
            admission: Admission::new(&config.broker.limits),
            workers,
            workers_end,
            pulses: pulses.clone(),
            listeners: Vec::new(),
            certificates: None,
        };
        lan.listen(bound);
        lan.watch(web);
        Ok(lan)
    }

    pub fn bound(&self) -> Vec<Arc<Bound>> {
        self.listeners.iter().map(|(bound, _)| Arc::clone(bound)).collect()
    }

    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Accepts at these ports, and at no others, from now on.
    pub async fn replace(&mut self, bound: Vec<Arc<Bound>>, web: Option<Arc<TlsServer>>) {
        let stays = |known: &Arc<Bound>| bound.iter().any(|bound| Arc::ptr_eq(bound, known));
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.listeners).into_iter().partition(|(known, _)| stays(known));
        for (_, tasks) in go {
            tasks.end(END_WAIT).await;
        }
        self.listeners = stay;
        self.listen(bound);
        self.watch(web);
    }

    /// In this order.
    fn listen(&mut self, bound: Vec<Arc<Bound>>) {
        let mut known = std::mem::take(&mut self.listeners);
        for bound in bound {
            let at = known.iter().position(|(known, _)| Arc::ptr_eq(known, &bound));
            let listening = match at {
                Some(at) => known.swap_remove(at),
                None => self.accept(bound),
            };
            self.listeners.push(listening);
        }
    }

    fn accept(&self, bound: Arc<Bound>) -> (Arc<Bound>, Supervisor) {
        let mut tasks = Supervisor::new(CancellationToken::new(), &self.pulses);
        let entrance = Arc::new(Entrance::new(Arc::clone(&bound.acceptor), self.workers_end.clone()));
        let senders: Vec<_> = self.workers.iter().map(Worker::sender).collect();
        let (hub, admission, listener) = (self.hub.clone(), self.admission.clone(), bound.listener.clone());
        tasks.spawn(format!("listener:{}", bound.configured.address), move |cancel| {
            let shared = (hub.clone(), admission.clone(), entrance.clone());
            listener::run(listener.clone(), senders.clone(), shared, cancel)
        });
        (bound, tasks)
    }

    /// Certificates that are read again when their files change.
    fn watch(&mut self, web: Option<Arc<TlsServer>>) {
        let servers = self.listeners.iter().filter_map(|(bound, _)| bound.tls());
        let servers: Vec<_> = servers.chain(web).collect();
        let mut tasks = Supervisor::new(CancellationToken::new(), &self.pulses);
        if !servers.is_empty() {
            tasks.spawn("certificates".to_owned(), move |cancel| watch_certificates(servers.clone(), cancel));
        }
        self.certificates = Some(tasks);
    }

    /// Nobody comes in any more. Who is here is to be served to the end: the workers, and what ends them.
    pub async fn close(self) -> (Vec<Worker>, CancellationToken) {
        for (_, tasks) in self.listeners {
            tasks.end(END_WAIT).await;
        }
        (self.workers, self.workers_end)
    }
}
