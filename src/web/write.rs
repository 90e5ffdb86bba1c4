//! Values that are written to points over HTTP: what is asked, and in which words it is answered. Never writes itself.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::web::api::{Context, Problem};

/// What came of it: the answer that a command by MQTT has.
pub type Written = BoxFuture<'static, Result<Value, WriteFault>>;

/// Why a point does not hold the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteFault {
    NoDevice,
    NoPoint,
    NotWritable,
    /// The value is none that the point takes.
    Refused(String),
    /// The gateway has no room for it now.
    Busy(String),
    /// The device will not, or holds something else afterwards.
    Failed(String),
    /// The device does not answer, or not in time.
    Silent(String),
}

impl WriteFault {
    fn told(self) -> (StatusCode, String) {
        match self {
            Self::NoDevice => (StatusCode::NOT_FOUND, "no such device".to_owned()),
            Self::NoPoint => (StatusCode::NOT_FOUND, "no such point".to_owned()),
            Self::NotWritable => (StatusCode::METHOD_NOT_ALLOWED, "the point is not writable".to_owned()),
            Self::Refused(error) => (StatusCode::UNPROCESSABLE_ENTITY, error),
            Self::Busy(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
            Self::Failed(error) => (StatusCode::BAD_GATEWAY, error),
            Self::Silent(error) => (StatusCode::GATEWAY_TIMEOUT, error),
        }
    }
}

impl IntoResponse for WriteFault {
    fn into_response(self) -> Response {
        let (status, error) = self.told();
        let mut response = (status, Json(json!({ "ok": false, "error": error }))).into_response();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// `PUT {"value":…}`
pub async fn write_point(
    State(context): State<Context>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let Path((device, point)) = path.map_err(|rejection| Problem::from(rejection).into_response())?;
    let body = body.map_err(|_| Problem::TOO_LARGE.into_response())?;
    let is_value =
        serde_json::from_slice::<Value>(&body).is_ok_and(|body| body.as_object().is_some_and(is_value_alone));
    if !is_value {
        return Err(Problem::VALUE.into_response());
    }
    let written = context.source.write(&device, &point, body).await;
    written.map(|answer| Json(answer).into_response()).map_err(WriteFault::into_response)
}

fn is_value_alone(members: &serde_json::Map<String, Value>) -> bool {
    members.len() == 1 && members.contains_key("value")
}
