//! Every play of frames that is kept, once more, through the programs in the kernel.

#[test]
fn frames_that_a_fuzzer_made_pass_only_as_the_tables_allow() {
    fuzz::kept::replay("kernel", fuzz::kernel::check);
}
