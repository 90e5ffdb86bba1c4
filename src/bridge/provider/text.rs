//! Bytes and names as the clouds want them written. Knows no cloud.

/// RFC 3986 2.3: all but letters, digits and `-._~`.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(digit(byte >> 4).to_ascii_uppercase());
            encoded.push(digit(byte & 15).to_ascii_uppercase());
        }
    }
    encoded
}

/// In small letters.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::{hex, percent_encoded};

    #[test]
    fn what_would_mean_something_is_encoded() {
        assert_eq!(percent_encoded("a-Z_0.~/+ =é"), "a-Z_0.~%2F%2B%20%3D%C3%A9");
        assert_eq!(hex(&[0, 0xfa, 0x1d]), "00fa1d");
    }
}
