//! The door of `fuzz::cni` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::cni::check(input));
