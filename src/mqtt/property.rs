//! MQTT 5 properties (2.2.2): identifiers, where each is allowed, how each is read and written.

use std::sync::Arc;

/// 2.2.2.2: name and value pairs, in order, repeats allowed.
pub type UserProperties = Vec<(Arc<str>, Arc<str>)>;
