//! The way to a unit: through the running gateway that owns the line, or by a line of one's own. One request at a
//! time; tries nothing twice.

use std::io::{self, Write as _};
use std::sync::Arc;

use axum::http::Method;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use tokio::net::UnixStream;

use crate::base::time::Duration;
use crate::bus::Endpoint;
use crate::bus::wire::Wire;
use crate::cli::gateway::{AskError, ask, request, unreachable};
use crate::cli::modbus::ToolError;
use crate::cli::modbus::target::Target;
use crate::device::request::{Exception, Request, RequestKind, Response};
use crate::observe::frames::{Direction, Frames, hex};
use crate::web::lines::{LineAnswer, LineAsk};

pub struct Asker {
    unit: u8,
    timeout: Duration,
    way: Way,
}

enum Way {
    Gateway { socket: std::path::PathBuf, line: String },
    Direct { wire: Box<Wire>, frames: Arc<Frames>, shown: u64, shows: bool },
}

impl Asker {
    /// `shows`: the raw frames go to stderr as they pass, where the line is one's own.
    pub async fn open(target: &Target, shows: bool) -> Result<Self, ToolError> {
        let (unit, timeout) = (target.device.link.unit(), target.device.timeout);
        if let Some(socket) = &target.socket {
            match UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error)) {
                Ok(_) => {
                    let way = Way::Gateway { socket: socket.clone(), line: target.endpoint.to_string() };
                    return Ok(Self { unit, timeout, way });
                }
                Err(AskError::NotRunning { .. }) => {}
                // Who may not ask the gateway may still have a network; a serial port says so by itself.
                Err(_) if target.endpoint.port().is_none() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self::direct(&target.endpoint, unit, timeout, shows))
    }

    pub fn direct(endpoint: &Endpoint, unit: u8, timeout: Duration, shows: bool) -> Self {
        let frames = Arc::new(Frames::default());
        let wire = Box::new(Wire::new(endpoint, &frames));
        Self { unit, timeout, way: Way::Direct { wire, frames, shown: 0, shows } }
    }

    pub fn set_unit(&mut self, unit: u8) {
        self.unit = unit;
    }

    pub async fn call(&mut self, kind: RequestKind) -> Result<Result<Response, Exception>, ToolError> {
        let (unit, timeout) = (self.unit, self.timeout);
        match &mut self.way {
            Way::Direct { wire, frames, shown, shows } => {
                let reply = wire.call(&Request::by_hand(unit, kind, timeout)).await;
                if *shows {
                    show(frames, shown)?;
                }
                reply.map_err(|error| ToolError::Line { error, unit, timeout })
            }
            Way::Gateway { socket, line } => {
                let timeout_millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                let asked = LineAsk { line: line.clone(), unit, timeout_millis, request: kind };
                let body = serde_json::to_vec(&asked).map_err(AskError::Unexpected)?;
                let mut question = request(Method::POST, "/api/v1/lines/requests", body);
                let json = HeaderValue::from_static("application/json");
                question.headers_mut().insert(CONTENT_TYPE, json);
                let body = ask(socket, question).await?;
                match serde_json::from_slice(&body).map_err(AskError::Unexpected)? {
                    LineAnswer::Response(response) => Ok(Ok(response)),
                    LineAnswer::Exception(code) => Ok(Err(Exception(code))),
                    LineAnswer::Failed(reason) => Err(ToolError::Remote(reason.into())),
                }
            }
        }
    }
}

/// `> 01 03 00 00 00 01 84 0a`
fn show(frames: &Frames, shown: &mut u64) -> io::Result<()> {
    for kept in frames.behind(*shown, None, usize::MAX) {
        let sign = match kept.frame.direction {
            Direction::Sent => '>',
            Direction::Received => '<',
        };
        writeln!(io::stderr(), "{sign} {}", hex(&kept.frame.bytes, " "))?;
        *shown = kept.frame.seq;
    }
    Ok(())
}
