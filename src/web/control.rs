//! The routes that only commands on this machine have: messages that wait, and what a person does with them.
//! Passes on; decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::mqtt::topic::TopicError;
use crate::spool::survey::Part;
use crate::store::error::StoreError;
use crate::web::line::MessageLine;

/// The longest line that an import takes: a message of 16 MiB as base64 with room to spare.
pub const IMPORT_LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Lines, and bytes but one line at least, that one request of an import brings.
pub const IMPORT_CHUNK_LINES_MAX: usize = 256;
pub const IMPORT_CHUNK_BYTES_MAX: usize = 256 * 1024;

/// What waits for one bridge. Counts go on over a restart where they are of the buffer, else since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BufferSnapshot {
    pub bridge: String,
    /// Of the link; `stopped` where no gateway runs.
    pub state: String,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    pub in_flight: u64,
    pub oldest: Option<String>,
    pub oldest_age_seconds: Option<u64>,
    /// Messages that the buffer ever took.
    pub accepted: u64,
    pub forwarded: u64,
    pub dropped: Dropped,
    /// The same in bytes.
    pub dropped_bytes: Dropped,
    /// The forward rules in the order of the configuration.
    pub rules: Vec<RuleSnapshot>,
    pub dead: DeadSnapshot,
}

/// What can never be delivered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeadSnapshot {
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// When the one that has been dead for longest was taken.
    pub oldest: Option<String>,
    pub oldest_age_seconds: Option<u64>,
    /// Since the start, by reasons.
    pub died: BTreeMap<String, u64>,
}

/// What waits and was lost of one forward rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuleSnapshot {
    pub topic: String,
    pub messages: u64,
    pub bytes: u64,
    /// None: no share of its own.
    pub bytes_max: Option<u64>,
    pub dropped: Dropped,
    pub dropped_bytes: Dropped,
}

/// Messages that left in another way than to the cloud, since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Dropped {
    pub full: u64,
    pub rejected: u64,
    pub aged: u64,
    pub expired: u64,
    pub too_large: u64,
    pub unroutable: u64,
    pub purged: u64,
}

/// Messages that wait, oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Page {
    pub messages: Vec<MessageLine>,
    /// Where the next page begins; None at the end.
    pub next: Option<u64>,
}

/// What became of a chunk of lines.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Imported {
    pub imported: u64,
    pub refused: Vec<RefusedLine>,
    /// The buffer took no more: lines behind the last refused one were not looked at.
    pub full: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedLine {
    /// From 0, in its chunk.
    pub line: usize,
    pub error: String,
}

/// How far a purge has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PurgeStep {
    pub messages: u64,
    pub bytes: u64,
    pub in_flight: u64,
    /// The last number that goes: to be named with the next step, so that what comes meanwhile stays.
    pub up_to: u64,
    pub unfinished: bool,
}

/// How far dead letters were sent again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReviveStep {
    pub messages: u64,
    /// No forward rule carries them any more: they stay.
    pub unroutable: u64,
    /// Where the next step begins, and the last number that it looks at.
    pub after: u64,
    pub up_to: u64,
    pub unfinished: bool,
    /// The buffer takes no more.
    pub full: bool,
}

/// The message that a new subscriber would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retained {
    /// None: it is no text.
    pub payload: Option<String>,
    pub bytes: usize,
    pub qos: u8,
    /// When the gateway took it.
    pub time: String,
}

/// What the gateway can do for whoever may open its socket. Calls may wait for the disk: never made where
/// others would wait with them.
pub trait Control: Send + Sync + 'static {
    fn buffers(&self) -> Vec<BufferSnapshot>;
    /// What is retained on a topic.
    fn retained(&self, topic: &str) -> Option<Retained>;
    fn messages(&self, bridge: &str, part: Part, after: u64, max: usize) -> Result<Page, ControlError>;
    /// Returns once what was taken is safe.
    fn import(&self, bridge: &str, lines: &[u8]) -> Result<Imported, ControlError>;
    /// One step, for a bounded time. Returns once what went is gone for good.
    fn purge(&self, bridge: &str, part: Part, up_to: Option<u64>) -> Result<PurgeStep, ControlError>;
    /// One step of putting dead letters, all or by their topics, behind what waits. `span`: behind the first number, up to
    /// the other. Returns once that is safe.
    fn revive(
        &self,
        bridge: &str,
        topic: Option<&str>,
        span: (u64, Option<u64>),
    ) -> Result<ReviveStep, ControlError>;
    /// Closes the link until a retry, or until the process ends.
    fn pause(&self, bridge: &str) -> Result<(), ControlError>;
    /// Ends a pause or a back-off.
    fn retry(&self, bridge: &str) -> Result<(), ControlError>;
}

#[derive(Debug)]
pub enum ControlError {
    NoBridge {
        name: String,
    },
    /// No gateway runs.
    NoLink,
    Store(StoreError),
    Topic(TopicError),
    Path(PathRejection),
    Query(QueryRejection),
    Body(BytesRejection),
    /// The work panicked.
    Inside,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBridge { name } => {
                write!(f, "no bridge `{}` is configured (see `tidegate buffer list`)", name.escape_debug())
            }
            Self::NoLink => {
                f.write_str("no gateway runs, and so no link (a gateway starts with none of them paused)")
            }
            Self::Store(error) => error.fmt(f),
            Self::Topic(error) => write!(f, "topic filter: {error}"),
            Self::Path(error) => error.fmt(f),
            Self::Query(error) => error.fmt(f),
            Self::Body(error) => error.fmt(f),
            Self::Inside => f.write_str("the gateway failed inside (see its log)"),
        }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoBridge { .. } => StatusCode::NOT_FOUND,
            Self::NoLink => StatusCode::CONFLICT,
            Self::Store(_) | Self::Inside => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Topic(_) | Self::Path(_) | Self::Query(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

type Shared = State<Arc<dyn Control>>;
type BridgePath = Result<Path<String>, PathRejection>;

pub fn router(control: Arc<dyn Control>) -> Router {
    let body_bytes_max = IMPORT_LINE_BYTES_MAX + IMPORT_CHUNK_BYTES_MAX;
    Router::new()
        .route("/api/v1/buffers", get(buffers))
        .route("/api/v1/retained", get(retained))
        .route("/api/v1/buffers/{bridge}/messages", get(messages).post(import).delete(purge))
        .route("/api/v1/buffers/{bridge}/dead/retry", post(revive))
        .route("/api/v1/buffers/{bridge}/pause", post(pause))
        .route("/api/v1/buffers/{bridge}/retry", post(retry))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(control)
}

async fn buffers(State(control): Shared) -> Result<Response, ControlError> {
    Ok(Json(aside(move || Ok(control.buffers())).await?).into_response())
}

#[derive(Debug, Deserialize)]
struct RetainedQuery {
    topic: String,
}

async fn retained(
    State(control): Shared,
    query: Result<Query<RetainedQuery>, QueryRejection>,
) -> Result<Response, ControlError> {
    let Query(RetainedQuery { topic }) = query.map_err(ControlError::Query)?;
    Ok(Json(aside(move || Ok(control.retained(&topic))).await?).into_response())
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    #[serde(default)]
    after: u64,
    max: usize,
    #[serde(default)]
    dead: bool,
}

fn part(dead: bool) -> Part {
    if dead { Part::Dead } else { Part::Waiting }
}

async fn messages(
    State(control): Shared,
    path: BridgePath,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    let Query(PageQuery { after, max, dead }) = query.map_err(ControlError::Query)?;
    Ok(Json(aside(move || control.messages(&bridge, part(dead), after, max)).await?).into_response())
}

async fn import(
    State(control): Shared,
    path: BridgePath,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    let lines = body.map_err(ControlError::Body)?;
    Ok(Json(aside(move || control.import(&bridge, &lines)).await?).into_response())
}

#[derive(Debug, Deserialize)]
struct PurgeQuery {
    up_to: Option<u64>,
    #[serde(default)]
    dead: bool,
}

async fn purge(
    State(control): Shared,
    path: BridgePath,
    query: Result<Query<PurgeQuery>, QueryRejection>,
) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    let Query(PurgeQuery { up_to, dead }) = query.map_err(ControlError::Query)?;
    Ok(Json(aside(move || control.purge(&bridge, part(dead), up_to)).await?).into_response())
}

#[derive(Debug, Deserialize)]
struct ReviveQuery {
    topic: Option<String>,
    #[serde(default)]
    after: u64,
    up_to: Option<u64>,
}

async fn revive(
    State(control): Shared,
    path: BridgePath,
    query: Result<Query<ReviveQuery>, QueryRejection>,
) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    let Query(ReviveQuery { topic, after, up_to }) = query.map_err(ControlError::Query)?;
    let revive = move || control.revive(&bridge, topic.as_deref(), (after, up_to));
    Ok(Json(aside(revive).await?).into_response())
}

async fn pause(State(control): Shared, path: BridgePath) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    Ok(Json(aside(move || control.pause(&bridge)).await?).into_response())
}

async fn retry(State(control): Shared, path: BridgePath) -> Result<Response, ControlError> {
    let Path(bridge) = path.map_err(ControlError::Path)?;
    Ok(Json(aside(move || control.retry(&bridge)).await?).into_response())
}

/// On a thread that may wait.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    spawn_blocking(work).await.unwrap_or(Err(ControlError::Inside))
}
