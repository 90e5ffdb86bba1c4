//! One promise a test.
