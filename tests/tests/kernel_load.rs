//! The verifier takes every program; pins are made, adopted, refused.

use dataplane::{Dataplane, Options};
use tests::bpffs::Bpffs;

#[test]
fn the_verifier_takes_every_program() {
    let bpffs = Bpffs::new();
    let options = Options { pins: bpffs.path().join("weir"), ..Options::default() };
    let dataplane = match Dataplane::open(&options) {
        Ok(d) => d,
        Err(error) => panic!("{error}: {error:#?}"),
    };
    assert!(!dataplane.adopted());
}
