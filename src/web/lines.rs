//! The routes to the lines that only commands on this machine have: a request by hand, and the raw frames that
//! were seen last. Passes on; decides nothing.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::base::time::Duration;
use crate::device::request::{self, RequestKind};
use crate::observe::frames::{Direction, Kept, Protocol, hex};

/// The longest wait for an answer that a request may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Frames in one answer.
pub const FRAMES_PAGE_MAX: usize = 1000;

/// A request by hand. `line` is a port of the configuration, or an address as devices there name it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineAsk {
    pub line: String,
    pub unit: u8,
    pub timeout_millis: u64,
    pub request: RequestKind,
}

impl LineAsk {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_millis).min(TIMEOUT_MAX)
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineAnswer {
    Response(request::Response),
    /// The code.
    Exception(u8),
    /// No answer that can be trusted, and why.
    Failed(String),
}

/// One raw frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameLine {
    pub seq: u64,
    /// Microseconds since 1970.
    pub micros: i64,
    pub line: String,
    pub protocol: Protocol,
    pub direction: Direction,
    /// In all; `hex` may hold less.
    pub length: usize,
    pub hex: String,
}

impl FrameLine {
    pub fn of(kept: &Kept) -> Self {
        let Kept { line, protocol, frame } = kept;
        Self {
            seq: frame.seq,
            micros: frame.micros,
            line: line.to_string(),
            protocol: *protocol,
            direction: frame.direction,
            length: frame.length,
            hex: hex(&frame.bytes, ""),
        }
    }
}

/// What the gateway does on its lines for whoever may open its socket.
pub trait Lines: Send + Sync + 'static {
    /// Between two polls of the line.
    fn ask(&self, ask: LineAsk) -> impl Future<Output = Result<LineAnswer, LinesError>> + Send;
    /// The last `count` behind number `after`, oldest first.
    fn frames(&self, after: u64, line: Option<&str>, count: usize) -> Result<Vec<FrameLine>, LinesError>;
}

#[derive(Debug)]
pub enum LinesError {
    NoLine {
        name: String,
        known: Vec<Arc<str>>,
    },
    TooManyWait,
    /// The line has so much to do that the request did not get its turn in time.
    NoTurn,
    /// The line's task ended meanwhile.
    Gone,
    Query(QueryRejection),
    Body(JsonRejection),
}

impl fmt::Display for LinesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLine { name, known } => {
                write!(f, "no line `{}` is driven (known: {})", name.escape_debug(), known.join(", "))
            }
            Self::TooManyWait => f.write_str("too many requests wait for this line (try again)"),
            Self::NoTurn => f.write_str("the line has no time for it (see `tidegate plan`, or try again)"),
            Self::Gone => f.write_str("the line was stopped (try again)"),
            Self::Query(error) => error.fmt(f),
            Self::Body(error) => error.fmt(f),
        }
    }
}

impl IntoResponse for LinesError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoLine { .. } => StatusCode::NOT_FOUND,
            Self::TooManyWait | Self::NoTurn | Self::Gone => StatusCode::SERVICE_UNAVAILABLE,
            Self::Query(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

pub fn router<L: Lines>(lines: Arc<L>) -> Router {
    Router::new()
        .route("/api/v1/lines/requests", post(ask::<L>))
        .route("/api/v1/lines/frames", get(frames::<L>))
        .with_state(lines)
}

async fn ask<L: Lines>(
    State(lines): State<Arc<L>>,
    body: Result<Json<LineAsk>, JsonRejection>,
) -> Result<Json<LineAnswer>, LinesError> {
    let Json(ask) = body.map_err(LinesError::Body)?;
    lines.ask(ask).await.map(Json)
}

#[derive(Debug, Deserialize)]
struct FramesQuery {
    #[serde(default)]
    after: u64,
    line: Option<String>,
    count: usize,
}

async fn frames<L: Lines>(
    State(lines): State<Arc<L>>,
    query: Result<Query<FramesQuery>, QueryRejection>,
) -> Result<Json<Vec<FrameLine>>, LinesError> {
    let Query(FramesQuery { after, line, count }) = query.map_err(LinesError::Query)?;
    lines.frames(after, line.as_deref(), count.min(FRAMES_PAGE_MAX)).map(Json)
}
