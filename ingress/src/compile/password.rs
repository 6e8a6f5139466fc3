//! Passwords as `htpasswd` writes them. Which kinds there are is known here; what they are worth, the proxy finds out.

/// A password that is not written down itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// `$2y$10$...`: slow on purpose.
    Bcrypt(String),
    /// `$apr1$SALT$...`, or `$1$` of crypt(3): a thousand rounds of MD5.
    Md5 { magic: &'static str, salt: String, hash: String },
    /// `{SHA}`, and `{SSHA}` with what was put behind the password.
    Sha1 { hash: [u8; 20], salt: Vec<u8> },
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// The error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected what `htpasswd` writes: bcrypt ($2y$...), MD5 ($apr1$...) or SHA-1 ({SHA}...)";
        let wrong = |what: &str| format!("{what}: {EXPECTED}");
        if ["$2y$", "$2a$", "$2b$"].iter().any(|magic| text.starts_with(magic)) {
            let is_cost = |cost: &str| cost.len() == 2 && (4..=20).contains(&cost.parse().unwrap_or(0_u32));
            let whole = text.len() == 60 && text.is_ascii() && is_cost(&text[4..6]) && &text[6..7] == "$";
            return whole
                .then(|| Self::Bcrypt(text.into()))
                .ok_or(wrong("is no bcrypt of 60 characters and a cost from 04 to 20"));
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                return match rest.split_once('$') {
                    Some((salt, hash)) if (1..=8).contains(&salt.len()) && hash.len() == 22 => {
                        Ok(Self::Md5 { magic, salt: salt.into(), hash: hash.into() })
                    }
                    _ => Err(wrong("is MD5 without salt or of a wrong length")),
                };
            }
        }
        for (magic, salted) in [("{SHA}", false), ("{SSHA}", true)] {
            if let Some(rest) = text.strip_prefix(magic) {
                let bytes =
                    decode(rest).filter(|bytes| if salted { bytes.len() > 20 } else { bytes.len() == 20 });
                let split = bytes.as_deref().and_then(|bytes| bytes.split_first_chunk::<20>());
                return match split {
                    Some((hash, salt)) => Ok(Self::Sha1 { hash: *hash, salt: salt.into() }),
                    None => Err(wrong("is no SHA-1 in base64")),
                };
            }
        }
        Err(wrong(if text.is_empty() { "is missing" } else { "is of a kind that is not supported" }))
    }
}

/// Base64 with its padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_and_what_is_none_is_told_what_would_be_right() {
        for text in [
            "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
            "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
            "$1$3azHgidD$SrJPt7B.9rekpmwJwtON31",
            "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "{SSHA}KcO6oaYb5Ib6GN5IVT3jJEzFG2qR/7K3",
        ] {
            assert!(Password::parse(text).is_ok(), "{text}");
        }
        for text in ["", "secret", "$2y$99$x", "$apr1$x", "{SHA}x", "$6$salt$hash", "rqXexS6ZhobKA"] {
            let error = Password::parse(text).unwrap_err();
            assert!(error.contains("expected what `htpasswd` writes"), "{error}");
        }
    }
}
