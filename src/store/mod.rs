//! SQLite: schema, one writer with group commit, recovery. The only room with SQL; never decides what to keep.

pub mod record;
