//! Which kernels Weir runs on.

/// The oldest release that has everything the programs cannot do without.
pub const KERNEL_FLOOR: (u32, u32) = (5, 15);

/// The first two numbers of what `uname -r` says; 0 for what cannot be read, so that it counts as old.
pub fn release_numbers(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_by_its_numbers_and_one_that_cannot_be_read_is_old() {
        assert_eq!(release_numbers("6.18.5-cloud-amd64"), (6, 18));
        assert_eq!(release_numbers("5.4.0-150-generic"), (5, 4));
        assert!(release_numbers("5.10.0") < KERNEL_FLOOR && release_numbers("5.15.0") >= KERNEL_FLOOR);
        assert!(release_numbers("6.1") >= KERNEL_FLOOR);
        assert_eq!(release_numbers("next"), (0, 0));
    }
}
