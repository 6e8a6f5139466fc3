//! A name for what a directory source held, so that its writer can tell when the agent has put it in force.

/// The revision of a source whose files, in the order of their paths, hold `files`.
pub fn source_revision<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> String {
    revision_of_digests(files.into_iter().map(file_digest))
}

/// The same of files of which only the digests are left.
pub fn revision_of_digests(files: impl IntoIterator<Item = u64>) -> String {
    let digests: Vec<u8> = files.into_iter().flat_map(u64::to_le_bytes).collect();
    format!("{:016x}", file_digest(&digests))
}

/// FNV-1a over a file's bytes: it tells versions apart, it does not authenticate.
pub fn file_digest(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
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
