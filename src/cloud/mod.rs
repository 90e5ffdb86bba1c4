//! The hand of a bridge: one task that drives a Bridge through rumqttc's codec and state. Decides nothing.
