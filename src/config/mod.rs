//! The configuration: YAML as written, checked into an immutable model, with every fault at once.
