//! Names of subjects and issuers as text (RFC 2253), as OpenSSL and so nginx write them.

use super::der::{
    BMP_STRING, Der, IA5_STRING, OID, PRINTABLE_STRING, SEQUENCE, SET, T61_STRING, UTF8_STRING,
};

/// `CN=alice,OU=shop,O=example`, the last part first, from the inside of a `Name`. What is none gives an empty text.
pub(super) fn rfc2253(name: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut sets = Der(name);
    while let Some(mut set) = sets.enter(SET) {
        let mut values = Vec::new();
        while let Some(mut attribute) = set.enter(SEQUENCE) {
            let (Some(kind), Some((tag, value))) = (attribute.expect(OID), attribute.next()) else {
                return String::new();
            };
            values.push(format!("{}={}", short(kind), text(tag, value)));
        }
        values.reverse();
        parts.push(values.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

/// The texts that begin with each `CN=` of such a name.
pub(super) fn from_each_common_name(name: &str) -> impl Iterator<Item = &str> {
    let starts = |at: usize| {
        let Some((separator, before)) = name.as_bytes()[..at].split_last() else { return true };
        // One that belongs to a value has a backslash before it, which is none that is escaped itself.
        let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        matches!(separator, b',' | b'+') && backslashes.is_multiple_of(2)
    };
    name.match_indices("CN=").filter(move |(at, _)| starts(*at)).map(|(at, _)| &name[at..])
}

fn short(oid: &[u8]) -> String {
    let known = match oid {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x04] => "SN",
        [0x55, 0x04, 0x05] => "serialNumber",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x09] => "street",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        [0x55, 0x04, 0x0c] => "title",
        [0x55, 0x04, 0x2a] => "GN",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => "UID",
        _ => return dotted(oid),
    };
    known.to_owned()
}

/// `1.2.840.113549`.
fn dotted(oid: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in oid {
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first.to_string());
                number -= first * 40;
            }
            numbers.push(number.to_string());
            number = 0;
        }
    }
    numbers.join(".")
}

/// Escaped, and nothing but visible ASCII: it is to stand in a header.
fn text(tag: u8, value: &[u8]) -> String {
    let text = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => String::from_utf8_lossy(value).into_owned(),
        T61_STRING => value.iter().map(|byte| char::from(*byte)).collect(),
        BMP_STRING => {
            let units = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{fffd}')).collect()
        }
        _ => return value.iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    };
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (index, char) in text.chars().enumerate() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', char]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            ' '..='~' => out.push(char),
            _ => {
                let mut buffer = [0; 4];
                char.encode_utf8(&mut buffer).bytes().for_each(|byte| out.push_str(&format!("\\{byte:02X}")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inside of a `Name` with one attribute in each set.
    fn name(attributes: &[(&[u8], u8, &str)]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let set = |(oid, tag, value): &(&[u8], u8, &str)| {
            let attribute = [element(OID, oid), element(*tag, value.as_bytes())].concat();
            element(SET, &element(SEQUENCE, &attribute))
        };
        attributes.iter().flat_map(set).collect()
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    #[test]
    fn a_name_is_written_from_its_end_and_escaped() {
        let names = name(&[(O, PRINTABLE_STRING, "A, B+C "), (CN, UTF8_STRING, "#ü")]);
        assert_eq!(rfc2253(&names), "CN=\\#\\C3\\BC,O=A\\, B\\+C\\ ");
        let names = name(&[(&[0x2a, 0x86, 0x48], UTF8_STRING, "x\r\n")]);
        assert_eq!(rfc2253(&names), "1.2.840=x\\0D\\0A");
        assert_eq!(rfc2253(b"\x31\xff"), "", "cut off");
    }

    #[test]
    fn a_common_name_inside_of_another_value_is_none() {
        let forged = rfc2253(&name(&[(CN, UTF8_STRING, "mallory"), (O, UTF8_STRING, "x,CN=alice")]));
        assert_eq!(from_each_common_name(&forged).collect::<Vec<_>>(), ["CN=mallory"]);
        let forged = rfc2253(&name(&[(CN, UTF8_STRING, "CN=alice")]));
        assert_eq!(from_each_common_name(&forged).collect::<Vec<_>>(), ["CN=CN=alice"]);
        let two = rfc2253(&name(&[(CN, UTF8_STRING, "a"), (CN, UTF8_STRING, "b")]));
        assert_eq!(from_each_common_name(&two).collect::<Vec<_>>(), ["CN=b,CN=a", "CN=a"]);
    }
}
