//! The bounded, ordered, durable queue that sessions and bridges share. Pure: emits records, never writes them.
