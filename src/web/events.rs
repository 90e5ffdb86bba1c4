//! Events as server-sent events, one bounded stream a client. A slow client loses events and is told how many;
//! it holds up nobody.

use crate::web::api::{Context, Problem};
use crate::web::snapshot::Event;
use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Comments keep proxies from closing a quiet stream, and find out who is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The streams that may be open, and when they all end.
#[derive(Debug, Clone)]
pub struct Streams {
    free: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Streams {
    pub fn new(streams_max: usize, cancel: CancellationToken) -> Self {
        Self { free: Arc::new(Semaphore::new(streams_max)), cancel }
    }
}

/// One client's stream. What it has not read yet waits in the channel, whose length is its bound.
struct Listener {
    events: Receiver<Event>,
    cancel: CancellationToken,
    _place: OwnedSemaphorePermit,
}

pub async fn events(
    State(context): State<Context>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let place = context.streams.free.try_acquire_owned().map_err(|_| Problem::STREAMS)?;
    let listener =
        Listener { events: context.source.events(), cancel: context.streams.cancel.clone(), _place: place };
    let hello = sse::Event::default().event("hello").data("{}");
    let events = stream::unfold((listener, Some(hello)), |(mut listener, hello)| async {
        let event = match hello {
            Some(hello) => hello,
            None => listener.next_event().await?,
        };
        Some((Ok(event), (listener, None)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Listener {
    /// None at the end: the gateway stops, or whoever sends events is gone.
    async fn next_event(&mut self) -> Option<sse::Event> {
        let received = tokio::select! {
            received = self.events.recv() => received,
            () = self.cancel.cancelled() => return None,
        };
        match received {
            Ok(event) => {
                // An event holds nothing that JSON cannot: map keys are text, numbers are JSON's own.
                let text = serde_json::to_string(&event).unwrap_or_default();
                Some(sse::Event::default().event(event.kind()).data(text))
            }
            Err(RecvError::Lagged(lost)) => {
                Some(sse::Event::default().event("lost").data(format!("{{\"events\":{lost}}}")))
            }
            Err(RecvError::Closed) => None,
        }
    }
}
