//! The dashboard, API and metrics over HTTP. Reads the hub's status; never touches a brain.
