//! The door of `fuzz::packet` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::packet::check(input));
