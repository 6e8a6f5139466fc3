//! Names that controllers would draw at random, drawn from a hash instead: the same manifests give the same names.

use serde_json::Value;

/// The letters and digits of generated names: Kubernetes leaves out vowels and lookalikes, so that no words appear.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// 64-bit FNV-1a over all parts, each closed by a byte that no name contains.
///
/// Not cryptographic: it only has to spread, and to stay the same between builds (the standard hasher promises neither).
pub fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of a JSON value. Object keys are visited in sorted order, whatever order they were written in.
pub fn hash_value(value: &Value) -> u64 {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key}={:x}", hash_value(value))).collect();
            fields.sort();
            hash(&fields.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| format!("{:x}", hash_value(item))).collect();
            hash(&[&["["], &*items.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        }
        scalar => hash(&[&scalar.to_string()]),
    }
}

/// The last `length` digits of `hash` in the alphabet of generated names.
pub fn suffix(hash: u64, length: usize) -> String {
    // One more round: FNV's low bits move little between inputs that differ only at the end.
    let mut rest = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 29);
    (0..length)
        .map(|_| {
            let digit = ALPHABET[(rest % 27) as usize];
            rest /= 27;
            char::from(digit)
        })
        .collect()
}

/// A UUID made of the parts (version 8: custom).
pub fn uid(parts: &[&str]) -> String {
    let high = hash(parts);
    let low = hash(&[parts, &["low"]].concat());
    format!(
        "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_input_gives_the_same_name_in_every_build() {
        assert_eq!(suffix(hash(&["shop", "web"]), 10), "mxrqsmg8kf");
        assert_eq!(uid(&["shop", "web"]), "50714172-026a-8931-9791-fb5c4759b026");
    }

    #[test]
    fn neighbours_get_different_names() {
        let names: std::collections::BTreeSet<_> =
            (0..1000).map(|i| suffix(hash(&["shop/web-5d8f9c7b6d", &i.to_string()]), 5)).collect();
        assert_eq!(names.len(), 1000);
    }

    #[test]
    fn where_one_part_ends_matters() {
        assert_ne!(hash(&["a", "bc"]), hash(&["ab", "c"]));
    }

    #[test]
    fn the_order_of_keys_does_not_matter_but_that_of_items_does() {
        let parse = |text| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(hash_value(&parse(r#"{"a":1,"b":2}"#)), hash_value(&parse(r#"{"b":2,"a":1}"#)));
        assert_ne!(hash_value(&json!([1, 2])), hash_value(&json!([2, 1])));
        assert_ne!(hash_value(&json!({"a": {"b": 1}})), hash_value(&json!({"a": {"b": 2}})));
    }
}
