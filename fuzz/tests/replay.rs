//! Every input that is kept, once more: what a fuzzer once found wrong stays right.

#[test]
fn packets_that_a_fuzzer_made_are_parsed_alike() {
    fuzz::kept::replay("packet", fuzz::packet::check);
}

#[test]
fn manifests_that_a_fuzzer_made_narrow_and_agree() {
    fuzz::kept::replay("manifest", fuzz::manifest::check);
}

#[test]
fn calls_that_a_fuzzer_made_are_answered_by_the_specification() {
    fuzz::kept::replay("cni", fuzz::cni::check);
}
