//! The running gateway as a command asks it: HTTP over the socket in its data directory, one connection a question.
//! Interprets no answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::HOST;
use axum::http::{Method, Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For a whole answer: a gateway whose disk is slow takes its time to make an import safe.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Above what any answer holds: a page of messages, or the state of thousands of points.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens on the socket.
    NotRunning {
        path: PathBuf,
    },
    Unreachable {
        path: PathBuf,
        error: io::Error,
    },
    Http(hyper::Error),
    /// The answer is too long, or ended early.
    Body(axum::Error),
    TooSlow,
    /// The gateway said no: its own words.
    Refused {
        reason: Box<str>,
    },
    /// No JSON, or not the one that was asked for: another version answers.
    Unexpected(serde_json::Error),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning { path } => {
                write!(
                    f,
                    "no gateway runs: nobody listens on {} (start it, or name its `--config`)",
                    path.display()
                )
            }
            Self::Unreachable { path, error } if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "{}: permission denied (be root or the gateway's user)", path.display())
            }
            Self::Unreachable { path, error } => {
                write!(f, "cannot reach the gateway on {}: {error}", path.display())
            }
            Self::Http(error) => write!(f, "the gateway did not answer: {error}"),
            Self::Body(error) => write!(f, "the gateway's answer was cut off: {error}"),
            Self::TooSlow => write!(f, "the gateway did not answer within {} s", ANSWER_WAIT.as_secs()),
            Self::Refused { reason } => f.write_str(reason),
            Self::Unexpected(error) => {
                write!(f, "the gateway's answer makes no sense: {error} (is it another version?)")
            }
        }
    }
}

impl std::error::Error for AskError {}

pub fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    // A path that is none asks for nothing that exists.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().insert(HOST, axum::http::HeaderValue::from_static("localhost"));
    request
}

/// Asks the gateway that listens on `socket`.
pub async fn ask(socket: &Path, request: Request<Body>) -> Result<Bytes, AskError> {
    let asked = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
        let (mut sender, connection) =
            http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(AskError::Http)?;
        // Ends with the answer, or with the command.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(AskError::Http)?;
        answer(response.map(Body::new)).await
    };
    timeout(ANSWER_WAIT, asked).await.unwrap_or(Err(AskError::TooSlow))
}

/// The body of an answer that says yes.
pub async fn answer(response: Response<Body>) -> Result<Bytes, AskError> {
    let status = response.status();
    let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.map_err(AskError::Body)?;
    if status.is_success() {
        return Ok(body);
    }
    let problem: Option<Value> = serde_json::from_slice(&body).ok();
    let said = problem.as_ref().and_then(|problem| problem.get("error")?.as_str());
    Err(AskError::Refused { reason: said.unwrap_or(status.as_str()).into() })
}

pub fn unreachable(socket: &Path, error: io::Error) -> AskError {
    let path = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning { path },
        _ => AskError::Unreachable { path, error },
    }
}
