//! Hands the fuzzer's bytes to the check of the same name, which says what has to hold.

#![no_main]

#[path = "../checks/framing.rs"]
mod framing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| framing::check(input));
