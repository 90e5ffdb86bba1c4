//! A Modbus TCP connection: made on demand, dropped after anything but a proper answer. Never decides when
//! to try again.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_modbus::Slave;
use tokio_modbus::client::{Client as _, Context, tcp};
use tokio_modbus::slave::SlaveContext as _;

use crate::base::time::Duration;
use crate::bus::exchange::{error_of, exception_of, request_of, response_of};
use crate::bus::tap::Tap;
use crate::device::request::{LineError, Reply, Request};
use crate::observe::frames::Recorder;

/// A connection may take longer than an answer.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);

pub(crate) struct TcpLine {
    address: Arc<str>,
    /// Never one with an answer outstanding.
    context: Option<Context>,
    recorder: Recorder,
}

impl TcpLine {
    pub(crate) fn new(address: Arc<str>, recorder: Recorder) -> Self {
        Self { address, context: None, recorder }
    }

    pub(crate) async fn call(&mut self, request: &Request) -> Reply {
        if let Some(context) = self.context.take() {
            match self.exchange(context, request).await {
                // Servers close idle connections: that says nothing about the next one.
                Err(LineError::Broken(_)) => {}
                reply => return reply,
            }
        }
        let context = self.connect(request.timeout.max(CONNECT_TIMEOUT_MIN)).await?;
        self.exchange(context, request).await
    }

    async fn connect(&mut self, within: Duration) -> Result<Context, LineError> {
        let failed = |kind| LineError::Connect { address: Arc::clone(&self.address), kind };
        let stream = match timeout(within, TcpStream::connect(&*self.address)).await {
            Err(_) => return Err(failed(io::ErrorKind::TimedOut)),
            Ok(Err(error)) => return Err(failed(error.kind())),
            Ok(Ok(stream)) => stream,
        };
        stream.set_nodelay(true).map_err(|error| failed(error.kind()))?;
        Ok(tcp::attach(Tap::new(stream, self.recorder.clone())))
    }

    /// The connection survives only where the answer was complete: a late one would be read as the next.
    async fn exchange(&mut self, mut context: Context, request: &Request) -> Reply {
        context.set_slave(Slave(request.unit));
        let answer = timeout(request.timeout, context.call(request_of(&request.kind))).await;
        self.recorder.end();
        let reply = match answer {
            Err(_) => return Err(LineError::Timeout),
            Ok(Err(error)) => return Err(error_of(&error)),
            Ok(Ok(Err(code))) => Err(exception_of(code)),
            Ok(Ok(Ok(response))) => Ok(response_of(&request.kind, response)?),
        };
        self.context = Some(context);
        Ok(reply)
    }
}
