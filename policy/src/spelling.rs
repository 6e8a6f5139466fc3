//! Whether two words look like one word and a slip of the finger.

/// Another case, or so few letters added, lost, changed or swapped that one is likely meant for the other. Equal words
/// are not near: there is no slip.
pub(crate) fn is_near(one: &str, other: &str) -> bool {
    if one == other {
        return false;
    }
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    if one == other {
        return true;
    }
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let shorter = a.len().min(b.len());
    // In words of one or two letters everything is near everything; a number is another number.
    if shorter < 3 || numbers_differ(&one, &other) {
        return false;
    }
    let most = if shorter < 6 { 1 } else { 2 };
    a.len().abs_diff(b.len()) <= most && distance(&a, &b) <= most
}

/// `db-1` and `db-2`, `v1` and `v2` are meant as they stand.
fn numbers_differ(one: &str, other: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    digits(one) != digits(other)
}

/// Insertions, removals, changes and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        for (one, other, near) in [
            ("web", "wbe", true),
            ("frontend", "fronted", true),
            ("frontend", "Frontend", true),
            ("monitoring", "montioring", true),
            ("web", "web", false),
            ("web", "db", false),
            ("web", "app", false),
            ("prod", "dev", false),
            ("db-1", "db-2", false),
            ("v1", "v2", false),
            ("frontend", "backend", false),
            ("cartservice", "adservice", false),
        ] {
            assert_eq!(is_near(one, other), near, "{one} {other}");
        }
    }
}
