//! The routes and their JSON. Reads the source; what changes something stands in `write`.

use crate::web::events::Streams;
use crate::web::guard::{Gate, HEALTH_PATH, REQUEST_BODY_BYTES_MAX, guard};
use crate::web::login::Denied;
use crate::web::snapshot::Snapshot;
use crate::web::{Source, assets, metrics, write};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// What every route sees.
#[derive(Clone)]
pub struct Context {
    pub source: Arc<dyn Source>,
    pub streams: Streams,
}

pub fn router(context: Context, gate: Gate) -> Router {
    Router::new()
        .merge(assets::routes())
        .route("/api/v1/status", get(status))
        .route("/api/v1/devices", get(devices))
        .route("/api/v1/devices/{name}", get(device))
        .route("/api/v1/devices/{name}/points/{point}", get(point).put(write::write_point))
        .route("/api/v1/bridges", get(bridges))
        .route("/api/v1/clients", get(clients))
        .route("/api/v1/config", get(config))
        .route("/api/v1/events", get(crate::web::events::events))
        .route("/metrics", get(metrics))
        .route(HEALTH_PATH, get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || Problem::PATH)
        .method_not_allowed_fallback(async || Problem::METHOD)
        .layer(DefaultBodyLimit::max(REQUEST_BODY_BYTES_MAX))
        .layer(from_fn_with_state(gate, guard))
        .with_state(context)
}

/// An error answer: `{"error":"…"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    text: &'static str,
}

impl Problem {
    pub const HOST: Self = Self::new(
        StatusCode::FORBIDDEN,
        "the Host header names another machine (localhost, 127.0.0.1 or [::1] would be right)",
    );
    pub const ORIGIN: Self = Self::new(
        StatusCode::FORBIDDEN,
        "a page of another site may not ask for this (Origin and Host must agree)",
    );
    const LOGIN: Self = Self::new(StatusCode::UNAUTHORIZED, "a user name and a password are needed");
    const LOGINS: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many logins wait to be checked");
    pub const TOO_LARGE: Self = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    pub const STREAMS: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open");
    const PATH: Self = Self::new(StatusCode::NOT_FOUND, "no such path");
    const DEVICE: Self = Self::new(StatusCode::NOT_FOUND, "no such device");
    const POINT: Self = Self::new(StatusCode::NOT_FOUND, "no such point");
    const METHOD: Self = Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method");
    const MAX: Self = Self::new(StatusCode::BAD_REQUEST, "max is no number (like ?max=50)");
    pub const VALUE: Self =
        Self::new(StatusCode::BAD_REQUEST, "the body is no value (like {\"value\":21.5})");

    const fn new(status: StatusCode, text: &'static str) -> Self {
        Self { status, text }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}

impl From<PathRejection> for Problem {
    /// A name that is not even text is the name of nothing.
    fn from(_: PathRejection) -> Self {
        Self::PATH
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::LOGIN,
            Denied::Busy => Self::LOGINS,
        }
    }
}

async fn status(State(context): State<Context>) -> Json<Snapshot> {
    Json(context.source.snapshot())
}

async fn devices(State(context): State<Context>) -> Response {
    Json(context.source.snapshot().devices).into_response()
}

async fn device(
    State(context): State<Context>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let devices = context.source.snapshot().devices;
    let device = devices.into_iter().find(|device| device.name == name).ok_or(Problem::DEVICE)?;
    Ok(Json(device).into_response())
}

type PointPath = Result<Path<(String, String)>, PathRejection>;

async fn point(State(context): State<Context>, path: PointPath) -> Result<Response, Problem> {
    let Path((name, point)) = path?;
    let devices = context.source.snapshot().devices;
    let device = devices.into_iter().find(|device| device.name == name).ok_or(Problem::DEVICE)?;
    let point = device.points.into_iter().find(|known| known.name == point).ok_or(Problem::POINT)?;
    Ok(Json(point).into_response())
}

async fn bridges(State(context): State<Context>) -> Response {
    Json(context.source.snapshot().bridges).into_response()
}

#[derive(Debug, Deserialize)]
struct ClientsQuery {
    /// There may be thousands; a page shows the first ones.
    max: Option<usize>,
}

async fn clients(
    State(context): State<Context>,
    query: Result<Query<ClientsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(ClientsQuery { max }) = query.map_err(|_| Problem::MAX)?;
    Ok(Json(context.source.clients(max.unwrap_or(usize::MAX))).into_response())
}

async fn config(State(context): State<Context>) -> Response {
    ([(CONTENT_TYPE, "application/json")], context.source.config().to_string()).into_response()
}

async fn metrics(State(context): State<Context>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&context.source.snapshot())).into_response()
}

/// That this answers is half of the answer: whoever can do so is alive. The other half is what the watchdog knows.
async fn healthz(State(context): State<Context>) -> Response {
    context.source.hung().map_or_else(|| "ok\n".into_response(), unavailable)
}

async fn readyz(State(context): State<Context>) -> Response {
    if let Some(hung) = context.source.hung() {
        return unavailable(hung);
    }
    let snapshot = context.source.snapshot();
    if snapshot.ready {
        return "ready\n".into_response();
    }
    unavailable(snapshot.reason.unwrap_or_else(|| "not ready".into()))
}

fn unavailable(reason: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response()
}
