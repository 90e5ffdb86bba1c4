//! The hand of the devices: one task a line that drives a Poller through tokio-modbus. Decides nothing.
