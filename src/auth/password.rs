//! One password's hash: Argon2id as we write it, and the two forms of Mosquitto. Verifies and makes; never keeps a
//! password.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64, Base64Unpadded, Encoding};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};
use subtle::ConstantTimeEq;

/// What a new hash costs: 19 MiB, two passes, one lane, as OWASP asks for at least.
const NEW_MEMORY_KIB: u32 = 19_456;
const NEW_PASSES: u32 = 2;
const NEW_LANES: u32 = 1;
const NEW_SALT_BYTES: usize = 16;
const NEW_HASH_BYTES: usize = 32;
/// Bounds of what a file may ask of this machine.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES_MAX: usize = 64;
const SHA512_BYTES: usize = digest::SHA512_OUTPUT_LEN;

/// What is wrong with the text of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashError {
    /// Neither `$argon2id$`, `$7$` nor `$6$`.
    UnknownKind,
    /// A part is missing, too long, or no base64.
    Malformed,
    /// It would take too much memory or time.
    TooCostly,
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind => {
                "the hash is of no known kind ($argon2id$, or $7$ and $6$ of mosquitto_passwd)"
            }
            Self::Malformed => "the hash is damaged",
            Self::TooCostly => "the hash takes more memory or time than a login may",
        })
    }
}

impl std::error::Error for HashError {}

/// The system has no randomness for a salt, or no memory for the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashNotMade;

impl fmt::Display for HashNotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system has no randomness or no memory for a password hash")
    }
}

impl std::error::Error for HashNotMade {}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    /// `$7$`: PBKDF2 with HMAC-SHA512.
    Pbkdf2 {
        iterations: NonZeroU32,
    },
    /// `$6$`: SHA-512 of password and salt, once.
    Sha512,
}

/// A parsed hash. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    kind: Kind,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PasswordHash {
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let parts: Vec<&str> = text.split('$').collect();
        match parts[..] {
            ["", "argon2id", "v=19", costs, salt, hash] => parse_argon2id(costs, salt, hash),
            ["", "7", iterations, salt, hash] => {
                let iterations = number(iterations)?;
                if iterations > ITERATIONS_MAX {
                    return Err(HashError::TooCostly);
                }
                let iterations = NonZeroU32::new(iterations).ok_or(HashError::Malformed)?;
                mosquitto(Kind::Pbkdf2 { iterations }, salt, hash)
            }
            ["", "6", salt, hash] => mosquitto(Kind::Sha512, salt, hash),
            ["", "argon2id" | "7" | "6", ..] => Err(HashError::Malformed),
            _ => Err(HashError::UnknownKind),
        }
    }

    /// Takes a time that the password does not change, and for Argon2id milliseconds of it.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Argon2id { memory_kib, passes, lanes } => {
                let mut made = vec![0; self.hash.len()];
                let hashed = argon2id(memory_kib, passes, lanes)
                    .and_then(|argon2| argon2.hash_password_into(password, &self.salt, &mut made));
                hashed.is_ok() && bool::from(made.ct_eq(&self.hash))
            }
            Kind::Pbkdf2 { iterations } => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, iterations, &self.salt, password, &self.hash).is_ok()
            }
            Kind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                bool::from(context.finish().as_ref().ct_eq(&self.hash))
            }
        }
    }
}

/// The text of a new Argon2id hash, with a salt of its own.
pub fn make(password: &[u8]) -> Result<String, HashNotMade> {
    let mut salt = [0; NEW_SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| HashNotMade)?;
    let mut hash = [0; NEW_HASH_BYTES];
    argon2id(NEW_MEMORY_KIB, NEW_PASSES, NEW_LANES)
        .and_then(|argon2| argon2.hash_password_into(password, &salt, &mut hash))
        .map_err(|_| HashNotMade)?;
    let (salt, hash) = (Base64Unpadded::encode_string(&salt), Base64Unpadded::encode_string(&hash));
    Ok(format!("$argon2id$v=19$m={NEW_MEMORY_KIB},t={NEW_PASSES},p={NEW_LANES}${salt}${hash}"))
}

fn argon2id(memory_kib: u32, passes: u32, lanes: u32) -> argon2::Result<Argon2<'static>> {
    let params = Params::new(memory_kib, passes, lanes, None)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn parse_argon2id(costs: &str, salt: &str, hash: &str) -> Result<PasswordHash, HashError> {
    let mut costs = costs.split(',');
    let mut cost = |name: &str| {
        let value = costs.next().and_then(|cost| cost.strip_prefix(name)).and_then(|c| c.strip_prefix('='));
        number(value.ok_or(HashError::Malformed)?)
    };
    let (memory_kib, passes, lanes) = (cost("m")?, cost("t")?, cost("p")?);
    if costs.next().is_some() {
        return Err(HashError::Malformed);
    }
    if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(HashError::TooCostly);
    }
    argon2id(memory_kib, passes, lanes).map_err(|_| HashError::Malformed)?;
    let salt = Base64Unpadded::decode_vec(salt).map_err(|_| HashError::Malformed)?;
    let hash = Base64Unpadded::decode_vec(hash).map_err(|_| HashError::Malformed)?;
    // RFC 9106 3.1 asks for 4 bytes at least; fewer than 16 can be guessed.
    if !(8..=SALT_BYTES_MAX).contains(&salt.len()) || !(16..=SHA512_BYTES).contains(&hash.len()) {
        return Err(HashError::Malformed);
    }
    Ok(PasswordHash { kind: Kind::Argon2id { memory_kib, passes, lanes }, salt, hash })
}

fn mosquitto(kind: Kind, salt: &str, hash: &str) -> Result<PasswordHash, HashError> {
    let salt = Base64::decode_vec(salt).map_err(|_| HashError::Malformed)?;
    let hash = Base64::decode_vec(hash).map_err(|_| HashError::Malformed)?;
    if salt.is_empty() || salt.len() > SALT_BYTES_MAX || hash.len() != SHA512_BYTES {
        return Err(HashError::Malformed);
    }
    Ok(PasswordHash { kind, salt, hash })
}

fn number(text: &str) -> Result<u32, HashError> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HashError::Malformed);
    }
    text.parse().map_err(|_| HashError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::{HashError, PasswordHash, make};

    /// Made by `mosquitto_passwd` 2.0.11 (with and without -H and -I) and by OpenSSL's Argon2id.
    const MADE_ELSEWHERE: [(&str, &str); 5] = [
        (
            "secret",
            "$7$101$4DRL9r/pqd7aI5c+$x4iYuTA6k6xIDkKzTcC+x5oWNML+KoIKe94+LxARs8xf33UJ8JQJU+e+/yJVEdFJq0Q7abmm0vKfpj3H1yelug==",
        ),
        (
            "pass word",
            "$6$AOAiZ42r7mtIJWMw$ReDysK1xZsVXylX0EtE7UOumhmK2cIs7gzjV+OfIbFAtDVhF1RcUqcMqjj36Zsb+Z9h+N5R4K+yxAmrYQpSvuw==",
        ),
        (
            "päss",
            "$7$1000$EhIIohp8AbWRudkF$wbUxlFKWDoi1nN4UgjZI5WSg2YvnSi3kwvYG8bQvDbkwhFCSOkoitMf24nKv5P71lG+mFdb6ZA8EhZ6OPBSvDg==",
        ),
        (
            "secret",
            "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew",
        ),
        (
            "päss",
            "$argon2id$v=19$m=256,t=3,p=2$c29tZXNhbHQxMjM0NTY3OA$K1YkvEvDtEtkZA2F24BrnKPsb+7utr9cN7UeOBqGi2g",
        ),
    ];

    #[test]
    fn hashes_made_elsewhere_verify_their_password_and_no_other() {
        for (password, text) in MADE_ELSEWHERE {
            let hash = PasswordHash::parse(text).expect(text);
            assert!(hash.verify(password.as_bytes()), "{text}");
            for other in ["", "Secret", "secret ", "pass word\0", "x"] {
                assert!(!hash.verify(other.as_bytes()), "{text}");
            }
            assert_eq!(format!("{hash:?}"), "***");
        }
    }

    #[test]
    fn a_new_hash_verifies_and_has_its_own_salt() {
        let (one, two) = (make(b"secret").expect("a hash"), make(b"secret").expect("a hash"));
        assert_ne!(one, two);
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let hash = PasswordHash::parse(&one).expect("a hash");
        assert!(hash.verify(b"secret") && !hash.verify(b"secres"));
    }

    #[test]
    fn texts_that_are_no_hash_are_refused() {
        let costly = |costs: &str| {
            format!(
                "$argon2id$v=19${costs}$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew"
            )
        };
        let cases = [
            (String::new(), HashError::UnknownKind),
            ("secret".into(), HashError::UnknownKind),
            ("$2b$12$abc".into(), HashError::UnknownKind),
            ("$5$salt$hash".into(), HashError::UnknownKind),
            ("$6$".into(), HashError::Malformed),
            ("$6$AOAiZ42r7mtIJWMw$".into(), HashError::Malformed),
            ("$6$AOAiZ42r7mtIJWMw$QUFB".into(), HashError::Malformed),
            ("$7$0$4DRL9r/pqd7aI5c+$QUFB".into(), HashError::Malformed),
            ("$7$-1$4DRL9r/pqd7aI5c+$QUFB".into(), HashError::Malformed),
            ("$7$99999999$4DRL9r/pqd7aI5c+$QUFB".into(), HashError::TooCostly),
            (costly("m=64,t=2"), HashError::Malformed),
            (costly("m=64,t=2,p=1,x=1"), HashError::Malformed),
            (costly("m=4,t=2,p=1"), HashError::Malformed),
            (costly("m=64,t=0,p=1"), HashError::Malformed),
            (costly("m=64,t=2,p=0"), HashError::Malformed),
            (costly("m=999999999,t=2,p=1"), HashError::TooCostly),
            (costly("m=64,t=65,p=1"), HashError::TooCostly),
            (costly("m=64,t=2,p=1").replace("v=19", "v=16"), HashError::Malformed),
            (costly("m=64,t=2,p=1").replace("c29t", "c2!t"), HashError::Malformed),
        ];
        for (text, error) in cases {
            assert_eq!(PasswordHash::parse(&text), Err(error), "{text}");
        }
    }
}
