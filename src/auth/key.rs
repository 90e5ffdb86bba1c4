//! The key that tokens are verified with: from PEM or a secret's file to the bytes that a signature is checked with.
//! Reads no file; never signs.

use std::fmt;

use base64ct::{Base64, Encoding};

/// How tokens are signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// As a token's header names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// What is wrong with a key's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// For HS256: a public key is no secret.
    PublicKeyAsSecret,
    /// RFC 7518 3.2: at least as long as the digest.
    SecretTooShort,
    NotPem,
    /// What signs, in place of what verifies.
    PrivateKey,
    Damaged,
    /// A good key, but of another algorithm.
    OtherAlgorithm,
    /// RFC 7518 3.3: at least 2048 bits; ring takes 8192 at most.
    RsaSize,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PublicKeyAsSecret => {
                "holds PEM, and HS256 needs a secret that only issuer and gateway know"
            }
            Self::SecretTooShort => "holds a secret of less than 32 bytes",
            Self::NotPem => "holds no public key (PEM: -----BEGIN PUBLIC KEY-----)",
            Self::PrivateKey => {
                "holds a private key, which stays with the issuer (-----BEGIN PUBLIC KEY-----)"
            }
            Self::Damaged => "holds a public key that is damaged",
            Self::OtherAlgorithm => "holds a public key of another algorithm",
            Self::RsaSize => "holds an RSA key that is not of 2048 to 8192 bits",
        })
    }
}

impl std::error::Error for KeyError {}

const SECRET_BYTES_MIN: usize = 32;
const RSA_MODULUS_BYTES_MIN: usize = 256;
const RSA_MODULUS_BYTES_MAX: usize = 1024;
const ED25519_BYTES: usize = 32;
/// SEC 1 2.3.3: 04, then both coordinates.
const P256_POINT_BYTES: usize = 65;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
/// 1.2.840.113549.1.1.1
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.10045.3.1.7
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.101.112
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A key and the one algorithm that it is for. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub algorithm: Algorithm,
    /// The secret (HS256), `RSAPublicKey` (RS256), the point (ES256) or the key (`EdDSA`).
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ***", self.algorithm.name())
    }
}

impl Key {
    /// The key in a file.
    pub fn read(algorithm: Algorithm, file: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(file).ok();
        let is_pem = text.is_some_and(|text| text.contains("-----BEGIN "));
        let bytes = match algorithm {
            Algorithm::Hs256 if is_pem => return Err(KeyError::PublicKeyAsSecret),
            Algorithm::Hs256 => read_secret(file)?,
            _ => read_public(algorithm, text.ok_or(KeyError::NotPem)?)?,
        };
        Ok(Self { algorithm, bytes })
    }
}

/// The line break that an editor leaves behind a text is not part of it; bytes that are no text count as they are.
fn read_secret(file: &[u8]) -> Result<Vec<u8>, KeyError> {
    let is_text = file.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t'));
    let secret = if is_text { file.trim_ascii_end() } else { file };
    if secret.len() < SECRET_BYTES_MIN { Err(KeyError::SecretTooShort) } else { Ok(secret.to_vec()) }
}

fn read_public(algorithm: Algorithm, text: &str) -> Result<Vec<u8>, KeyError> {
    if let Some(der) = pem(text, "PUBLIC KEY") {
        return read_spki(algorithm, &der?);
    }
    if let Some(der) = pem(text, "RSA PUBLIC KEY") {
        let der = der?;
        if algorithm != Algorithm::Rs256 {
            return Err(KeyError::OtherAlgorithm);
        }
        check_rsa(&der)?;
        return Ok(der);
    }
    Err(if text.contains("PRIVATE KEY-----") { KeyError::PrivateKey } else { KeyError::NotPem })
}

/// RFC 7468. None: there is no such block.
fn pem(text: &str, label: &str) -> Option<Result<Vec<u8>, KeyError>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let Some((body, _)) = rest.split_once(&format!("-----END {label}-----")) else {
        return Some(Err(KeyError::Damaged));
    };
    let body: String = body.split_whitespace().collect();
    Some(Base64::decode_vec(&body).map_err(|_| KeyError::Damaged))
}

/// RFC 5280 4.1.2.7: what algorithm it is, then the key itself.
fn read_spki(algorithm: Algorithm, der: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (spki, rest) = take(der, SEQUENCE)?;
    let (kind, key) = take(spki, SEQUENCE)?;
    let (object_id, parameters) = take(kind, OBJECT_ID)?;
    let (bits, behind) = take(key, BIT_STRING)?;
    // The first byte counts unused bits.
    let Some((0, key)) = bits.split_first() else { return Err(KeyError::Damaged) };
    if !rest.is_empty() || !behind.is_empty() {
        return Err(KeyError::Damaged);
    }
    match algorithm {
        Algorithm::Rs256 if object_id == RSA_ENCRYPTION => check_rsa(key)?,
        Algorithm::Es256 if object_id == EC_PUBLIC_KEY => {
            if take(parameters, OBJECT_ID)?.0 != P256 {
                return Err(KeyError::OtherAlgorithm);
            }
            if key.len() != P256_POINT_BYTES || key.first() != Some(&4) {
                return Err(KeyError::Damaged);
            }
        }
        Algorithm::EdDsa if object_id == ED25519 => {
            if key.len() != ED25519_BYTES {
                return Err(KeyError::Damaged);
            }
        }
        _ => return Err(KeyError::OtherAlgorithm),
    }
    Ok(key.to_vec())
}

/// RFC 8017 A.1.1: modulus, exponent.
fn check_rsa(der: &[u8]) -> Result<(), KeyError> {
    let (key, rest) = take(der, SEQUENCE)?;
    let (modulus, exponent) = take(key, INTEGER)?;
    let (_, behind) = take(exponent, INTEGER)?;
    if !rest.is_empty() || !behind.is_empty() {
        return Err(KeyError::Damaged);
    }
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    if (RSA_MODULUS_BYTES_MIN..=RSA_MODULUS_BYTES_MAX).contains(&modulus.len()) {
        Ok(())
    } else {
        Err(KeyError::RsaSize)
    }
}

/// One DER value of this kind, and what follows it.
fn take(der: &[u8], kind: u8) -> Result<(&[u8], &[u8]), KeyError> {
    let (&tag, rest) = der.split_first().ok_or(KeyError::Damaged)?;
    let (&first, mut rest) = rest.split_first().ok_or(KeyError::Damaged)?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        // Two bytes of length are enough for any key.
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 2 {
            return Err(KeyError::Damaged);
        }
        let (bytes, behind) = rest.split_at_checked(count).ok_or(KeyError::Damaged)?;
        length = bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
        rest = behind;
    }
    if tag != kind {
        return Err(KeyError::Damaged);
    }
    rest.split_at_checked(length).ok_or(KeyError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Key, KeyError};

    const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDHSlM3LcEUs2GJrrTQJePpEEvW
J3ll3z0HUS1HgBp4hrd44h2vVo+Rk80xnYOCGw18V3qx/tFucnmh0NYDBqNqz9SY
9lGPlKKJ3cPXLlt/P7Cm1XYqc5E5DwA1TBvB3cn2ilAyx+PHkHT668Zfot8liX7u
u75Cm34DJsIvve8kxwIDAQAB
-----END PUBLIC KEY-----
";
    const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE0HqoVFJGIQsWbIt+DqG2mk0wHvsW7XjG
pUhd/EmjLrRfRGQ/ywR7xTM6OdHQr7iun7RHZIoVvzhIcL7sJuV8HQYz+VDOJnRv
3RXfxIGpecO9FFZ2FE0V6uiiSY11nNwQ
-----END PUBLIC KEY-----
";
    const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAE1hwjKqogsQcKzLnNjyOy1JHVT48aZt9q8yX9V1ChQE=
-----END PUBLIC KEY-----
";

    #[test]
    fn files_without_a_fitting_key_are_refused() {
        let private = ED25519.replace("PUBLIC", "PRIVATE");
        let cut = ED25519.replace("9V1ChQE=", "");
        let open = ED25519.replace("-----END", "END");
        let cases: [(Algorithm, &[u8], KeyError); 13] = [
            (Algorithm::Hs256, b"0123456789abcdef0123456789abcde\n", KeyError::SecretTooShort),
            (Algorithm::Hs256, b"", KeyError::SecretTooShort),
            (Algorithm::Hs256, ED25519.as_bytes(), KeyError::PublicKeyAsSecret),
            (Algorithm::Rs256, ED25519.as_bytes(), KeyError::OtherAlgorithm),
            (Algorithm::Rs256, RSA_1024.as_bytes(), KeyError::RsaSize),
            (Algorithm::Es256, P384.as_bytes(), KeyError::OtherAlgorithm),
            (Algorithm::Es256, ED25519.as_bytes(), KeyError::OtherAlgorithm),
            (Algorithm::EdDsa, P384.as_bytes(), KeyError::OtherAlgorithm),
            (Algorithm::EdDsa, private.as_bytes(), KeyError::PrivateKey),
            (Algorithm::EdDsa, cut.as_bytes(), KeyError::Damaged),
            (Algorithm::EdDsa, open.as_bytes(), KeyError::Damaged),
            (Algorithm::EdDsa, b"0123456789abcdef0123456789abcdef", KeyError::NotPem),
            (Algorithm::EdDsa, &[0xff; 32], KeyError::NotPem),
        ];
        for (algorithm, file, error) in cases {
            assert_eq!(Key::read(algorithm, file), Err(error), "{algorithm:?} {}", file.escape_ascii());
        }
    }

    #[test]
    fn a_secret_is_text_without_its_line_break_or_bytes_as_they_are() {
        let text = Key::read(Algorithm::Hs256, b"0123456789abcdef0123456789abcdef\r\n").expect("a key");
        assert_eq!(text.bytes, b"0123456789abcdef0123456789abcdef");
        let mut bytes = [0xab; 33];
        bytes[32] = b'\n';
        assert_eq!(Key::read(Algorithm::Hs256, &bytes).expect("a key").bytes, bytes);
        assert_eq!(format!("{text:?}"), "HS256 ***");
    }

    #[test]
    fn no_mutilated_key_panics() {
        for seed in 0..3000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let source = *rng.choice(&[RSA_1024, P384, ED25519]).expect("some");
            let mut file = source.as_bytes().to_vec();
            let at = rng.usize(26..file.len());
            file[at] = rng.u8(..);
            for algorithm in [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
                // A changed key may still be one; what counts is that there is an answer.
                let _ = Key::read(algorithm, &file);
            }
        }
    }
}
