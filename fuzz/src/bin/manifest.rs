//! The door of `fuzz::manifest` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::manifest::check(input));
