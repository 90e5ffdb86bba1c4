//! The route to the last log lines, which only commands on this machine have. Keeps none.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::base::time::Timestamp;
use crate::observe::tail;

pub fn router() -> Router {
    Router::new().route("/api/v1/log", get(lines))
}

async fn lines() -> Json<Value> {
    let lines = tail::last().into_iter().map(|kept| {
        let time = Timestamp::from_millis(kept.millis).to_string();
        json!({ "time": time, "level": kept.line.level.as_str(), "message": kept.line.text })
    });
    Json(lines.collect())
}
