//! Integration tests: one binary, a room a module.

mod device;
