//! The door of `fuzz::kernel` to libFuzzer. Needs root.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|input: &[u8]| fuzz::kernel::check(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    fuzz::script::mutate(data, size, max_size, seed, fuzzer_mutate)
});
