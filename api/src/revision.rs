//! A name for what a directory source held, so that its writer can tell when the agent has put it in force.

/// The revision of a source whose files, in the order of their paths, hold `files`.
///
/// FNV-1a over each file's length and bytes: it tells versions apart, it does not authenticate.
pub fn source_revision<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for file in files {
        (file.len() as u64).to_le_bytes().into_iter().for_each(&mut mix);
        file.iter().copied().for_each(&mut mix);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_cut_into_other_files_are_another_revision() {
        assert_eq!(source_revision([b"ab".as_slice(), b"c"]), source_revision([b"ab".as_slice(), b"c"]));
        assert_ne!(source_revision([b"ab".as_slice(), b"c"]), source_revision([b"a".as_slice(), b"bc"]));
    }
}
