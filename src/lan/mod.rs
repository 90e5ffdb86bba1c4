//! The hand of the broker: listeners, workers, connections. Decides nothing.
