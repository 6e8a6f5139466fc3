//! The door of `fuzz::manifest` to libFuzzer.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|input: &[u8]| fuzz::manifest::check(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    fuzz::tree::mutate(data, size, max_size, seed, fuzzer_mutate)
});
