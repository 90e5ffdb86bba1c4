//! Hands the fuzzer's bytes to the check of the same name, which says what has to hold.

#![no_main]

#[path = "../checks/sparkplug.rs"]
mod sparkplug;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sparkplug::check(input));
