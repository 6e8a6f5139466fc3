//! Two readers of HTTP/1.1 for what an upstream is sent: one that takes nothing but what the standard has, and one that takes
//! whatever some server somewhere takes. Of what a proxy sends they must read the same.

/// A request as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) line: String,
    pub(crate) body: Vec<u8>,
    /// All of its body is there.
    pub(crate) whole: bool,
}

impl Found {
    /// Its target's path.
    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What the standard has (RFC 9112), and no more, but that targets may have letters beyond ASCII, which clients send and
/// servers take. The error says what is not of it. With the requests comes where the last whole one ends.
pub(crate) fn strict(bytes: &[u8]) -> Result<(Vec<Found>, usize), String> {
    let (mut all, mut at, mut ends) = (Vec::new(), 0, 0);
    while let Some(len) = find(&bytes[at..], b"\r\n\r\n") {
        let (head, rest) = (&bytes[at..at + len], &bytes[at + len + 4..]);
        let shown = String::from_utf8_lossy(head).into_owned();
        let wrong = |what: &str| format!("{what} in {shown:?}");
        let mut lines =
            head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        if head.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count()
            != 2 * (head.split(|it| *it == b'\n').count() - 1)
        {
            return Err(wrong("a line end that is not CR and LF"));
        }
        let line = lines.next().unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let [method, target, b"HTTP/1.1"] = words[..] else {
            return Err(wrong("a request line that is none"));
        };
        if !is_token(method)
            || !target.starts_with(b"/")
            || !target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80)
        {
            return Err(wrong("a method or target that is none"));
        }
        let (mut length, mut chunked, mut hosts) = (None, false, 0);
        for header in lines {
            let colon = header
                .iter()
                .position(|byte| *byte == b':')
                .ok_or_else(|| wrong("a line without a colon"))?;
            let (name, value) = (&header[..colon], header[colon + 1..].trim_ascii());
            if !is_token(name) || value.iter().any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f) {
                return Err(wrong("a name or value that is none"));
            }
            match name.to_ascii_lowercase().as_slice() {
                b"host" => hosts += 1,
                b"transfer-encoding" if chunked || value != b"chunked" => {
                    return Err(wrong("a transfer coding"));
                }
                b"transfer-encoding" => chunked = true,
                b"content-length" => {
                    let number =
                        str::from_utf8(value).ok().filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
                    let number = number.and_then(|it| it.parse().ok()).ok_or_else(|| wrong("a length"))?;
                    if length.replace(number).is_some() {
                        return Err(wrong("two lengths"));
                    }
                }
                _ => {}
            }
        }
        if hosts != 1 || (chunked && length.is_some()) {
            return Err(wrong("not one Host, or two framings"));
        }
        let line = String::from_utf8_lossy(line).into_owned();
        let (body, whole, used) = if chunked {
            chunks(rest, false).map_err(|what| wrong(&what))?
        } else {
            let len: usize = length.unwrap_or(0);
            (rest[..len.min(rest.len())].to_vec(), len <= rest.len(), len.min(rest.len()))
        };
        all.push(Found { line, body, whole });
        at += len + 4 + used;
        ends = if whole { at } else { ends };
    }
    Ok((all, ends))
}

/// As careless as any: lines end with LF, names may have blanks and low lines, folded lines belong to the one before, control
/// characters are passed over, `chunked` counts wherever it stands, of two lengths the last, of a length what is a number.
pub(crate) fn lenient(mut bytes: &[u8]) -> Vec<Found> {
    let mut all = Vec::new();
    loop {
        while let [b'\r' | b'\n', rest @ ..] = bytes {
            bytes = rest;
        }
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut at = 0;
        loop {
            let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') else { return all };
            let line = &bytes[at..at + end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            at += end + 1;
            if line.is_empty() {
                break;
            }
            // A return alone ends a line for some.
            for part in line.split(|byte| *byte == b'\r') {
                match (part.first(), lines.last_mut()) {
                    (Some(b' ' | b'\t'), Some(last)) => last.extend_from_slice(part),
                    _ => lines.push(part.to_vec()),
                }
            }
        }
        let rest = &bytes[at..];
        let (mut length, mut chunked) = (0, false);
        for header in &lines[1..] {
            let Some(colon) = header.iter().position(|byte| matches!(byte, b':' | 0)) else { continue };
            let name: Vec<u8> = header[..colon]
                .iter()
                .filter(|it| it.is_ascii_graphic())
                .map(u8::to_ascii_lowercase)
                .collect();
            let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'_' { b'-' } else { byte }).collect();
            let value = String::from_utf8_lossy(&header[colon + 1..]).to_ascii_lowercase();
            match name.as_slice() {
                b"transfer-encoding" => chunked |= value.contains("chunked"),
                b"content-length" => {
                    let digits: String = value
                        .chars()
                        .skip_while(|it| !it.is_ascii_digit())
                        .take_while(char::is_ascii_digit)
                        .collect();
                    length = digits.parse().unwrap_or(0);
                }
                _ => {}
            }
        }
        let line = String::from_utf8_lossy(&lines[0]).into_owned();
        let (body, whole, used) = if chunked {
            chunks(rest, true).unwrap_or_default()
        } else {
            let len: usize = length;
            (rest[..len.min(rest.len())].to_vec(), len <= rest.len(), len.min(rest.len()))
        };
        all.push(Found { line, body, whole });
        bytes = &rest[used..];
    }
}

/// A chunked body: the data, whether its end is there, and how many bytes it takes with what is around it.
fn chunks(bytes: &[u8], careless: bool) -> Result<(Vec<u8>, bool, usize), String> {
    let (mut data, mut at) = (Vec::new(), 0);
    let line = |at: usize| {
        let len = bytes[at..].iter().position(|byte| *byte == b'\n')?;
        let line = &bytes[at..at + len];
        Some((line.strip_suffix(b"\r").unwrap_or(line), line.ends_with(b"\r"), at + len + 1))
    };
    loop {
        let Some((size, closed, next)) = line(at) else { return Ok((data, false, bytes.len())) };
        let text = String::from_utf8_lossy(size).into_owned();
        let digits: String = if careless {
            let text = text.trim_start().trim_start_matches("0x");
            text.chars().take_while(char::is_ascii_hexdigit).collect()
        } else {
            text.clone()
        };
        let is_size = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_hexdigit());
        if !careless && (!is_size || !closed) {
            return Err(format!("a chunk's size {text:?}"));
        }
        let len = usize::from_str_radix(&digits, 16).unwrap_or(0);
        at = next;
        if len == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at.saturating_add(len)) else {
            data.extend_from_slice(&bytes[at..]);
            return Ok((data, false, bytes.len()));
        };
        data.extend_from_slice(chunk);
        at += len;
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [b'\n', ..] if careless => at += 1,
            [] | [b'\r'] => return Ok((data, false, bytes.len())),
            _ if careless => {}
            _ => return Err("a chunk that does not end where it must".into()),
        }
    }
    loop {
        match line(at) {
            None => return Ok((data, false, bytes.len())),
            Some((b"", _, next)) => return Ok((data, true, next)),
            Some((trailer, closed, next)) => {
                let name: Vec<u8> = trailer.iter().take_while(|byte| **byte != b':').copied().collect();
                if !careless && (!closed || !is_token(&name)) {
                    return Err("a trailer that is none".into());
                }
                at = next;
            }
        }
    }
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[test]
fn the_two_readers_differ_where_real_servers_do() {
    let inner = "GET /in HTTP/1.1\r\nHost: a\r\n\r\n";
    let differs = |head: &str, body: &str| {
        let bytes = format!("POST /out HTTP/1.1\r\nHost: a\r\n{head}\r\n{body}");
        strict(bytes.as_bytes()).ok().map(|(found, _)| found) != Some(lenient(bytes.as_bytes()))
    };
    let chunked = format!("0\r\n\r\n{inner}");
    let len = chunked.len();
    for head in [
        format!("Content-Length: {len}\r\nTransfer-Encoding : chunked\r\n"),
        format!("Content-Length: {len}\r\nTransfer_Encoding: chunked\r\n"),
        format!("Content-Length: {len}\r\nX: y\nTransfer-Encoding: chunked\r\n"),
        format!("Content-Length: {len}\r\nX: y\rTransfer-Encoding: chunked\r\n"),
        format!("Content-Length: {len}\r\nContent-Length: 5\r\n"),
        format!("Content-Length: +{len}\r\n"),
    ] {
        assert!(differs(&head, &chunked), "{head:?}");
    }
    assert!(differs("Transfer-Encoding: chunked\r\n", &format!("0x0\r\n\r\n{inner}")));
    assert!(!differs(&format!("Content-Length: {len}\r\n"), &chunked));
    assert!(!differs("Transfer-Encoding: chunked\r\n", &format!("3\r\nabc\r\n0\r\nX: y\r\n\r\n{inner}")));
}
