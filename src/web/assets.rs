//! The dashboard's own files, part of the binary. Nothing is fetched from elsewhere and nothing is read from the disk.

use crate::web::api::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("/view.js", "text/javascript; charset=utf-8", include_str!("assets/view.js")),
    ("/format.js", "text/javascript; charset=utf-8", include_str!("assets/format.js")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

pub fn routes() -> Router<Context> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)))
    })
}
