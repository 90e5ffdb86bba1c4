//! JSON Web Tokens (RFC 7519) as passwords: one algorithm, one key, and what of the claims counts. Verifies; never
//! logs a token, and never lets one choose how it is verified.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::{hmac, signature};
use serde_json::{Map, Value};

use crate::auth::key::{Algorithm, Key};
use crate::auth::{Identity, Proof};
use crate::base::time::{Duration, Timestamp};

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    Malformed,
    /// Signed in another way than the configuration says.
    OtherAlgorithm,
    /// RFC 7515 4.1.11: it asks for what we do not know.
    CriticalHeader,
    BadSignature,
    Expired,
    NotYetValid,
    /// The claim that names the user is missing, empty, or no text.
    NoUser,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is no token",
            Self::OtherAlgorithm => "it is signed with another algorithm",
            Self::CriticalHeader => "it needs an extension that is not known",
            Self::BadSignature => "its signature is wrong",
            Self::Expired => "it has expired",
            Self::NotYetValid => "it is not valid yet",
            Self::NoUser => "it names no user",
        })
    }
}

impl std::error::Error for TokenError {}

/// How tokens are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    pub key: Key,
    /// The claim that names the user.
    pub username_claim: String,
}

/// A token taken apart; nothing of it is proven yet.
#[derive(Debug)]
pub struct Parts<'a> {
    header: Map<String, Value>,
    /// What the signature is over.
    signed: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

/// The parts of what has a token's form: a header that names an algorithm, a payload, a signature.
pub fn looks_like_one(password: &[u8]) -> Option<Parts<'_>> {
    if password.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(password).ok()?;
    let (signed, signature) = text.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    if payload.contains('.') {
        return None;
    }
    let header = object(header)?;
    header.get("alg")?;
    let signature = Base64UrlUnpadded::decode_vec(signature).ok()?;
    Some(Parts { header, signed, payload, signature })
}

impl Tokens {
    /// Who the token says that its bearer is, if it can be believed now.
    pub fn check(&self, parts: &Parts<'_>, now: Timestamp) -> Result<Identity, TokenError> {
        // The key is for one algorithm: a token never chooses another, least of all `none`.
        if parts.header.get("alg").and_then(Value::as_str) != Some(self.key.algorithm.name()) {
            return Err(TokenError::OtherAlgorithm);
        }
        if parts.header.contains_key("crit") {
            return Err(TokenError::CriticalHeader);
        }
        if !self.is_signed(parts.signed.as_bytes(), &parts.signature) {
            return Err(TokenError::BadSignature);
        }
        let claims = object(parts.payload).ok_or(TokenError::Malformed)?;
        // RFC 7519 4.1.5
        // A clock that is not set lags behind more often than not, and would shut out those who have a new token.
        if date(&claims, "nbf")?.is_some_and(|from| now < from && !now.is_doubtful()) {
            return Err(TokenError::NotYetValid);
        }
        // RFC 7519 4.1.4
        let until = date(&claims, "exp")?;
        if until.is_some_and(|until| now >= until) {
            return Err(TokenError::Expired);
        }
        let user = claims.get(&self.username_claim).and_then(Value::as_str).filter(|user| !user.is_empty());
        Ok(Identity { user: user.ok_or(TokenError::NoUser)?.into(), proof: Proof::Token, until })
    }

    fn is_signed(&self, signed: &[u8], with: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.key.algorithm {
            Algorithm::Hs256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key.bytes);
                return hmac::verify(&key, signed, with).is_ok();
            }
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.key.bytes).verify(signed, with).is_ok()
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = Base64UrlUnpadded::decode_vec(part).ok()?;
    match serde_json::from_slice(&bytes).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// RFC 7519 2: seconds since 1970, with a fraction or without. A date that is no number makes the token bad; one
/// before 1970 counts as 1970.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let secs = value.as_f64().ok_or(TokenError::Malformed)?;
    let since = Duration::try_from_secs_f64(secs.clamp(0.0, 1e15)).map_err(|_| TokenError::Malformed)?;
    Ok(Some(Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))))
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64UrlUnpadded, Encoding};
    use ring::hmac;

    use super::{TokenError, Tokens, looks_like_one};
    use crate::auth::key::{Algorithm, Key};
    use crate::auth::{Identity, Proof};
    use crate::base::time::{Doubt, Timestamp};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1gNSuy/BvdZjI1yqmPew
AwNuOJYAV46d6j3tczbnDLOog9ApC0bjDnq4dBYpK1eXSlf5TZ7gP0bDcaPKin6d
UI4E4rKhGHmCnYZ6GB+Ddc7AFZ39A4dN6fd/hyUHDfExHiWLixKOAl6IiKRz6//D
fJFVq+0GM0x2GUYKSnfzYMmFTT4wSfMMIyu9dysUDSntLcTzKy4wm8jf845MdTo4
K2zElqQr29hfl85kWLY7+jMB0OXdVWdBeLwg7A4DsJWr/JRrBvo4D0nlG+gZTMBn
Q+EQZyo3B0xKaOtK8gevIOIchu7HS1LaDMqEcSbMXEURGjgDrE7Td4he6LBMaa4u
+QIDAQAB
-----END PUBLIC KEY-----
";
    const RSA_PKCS1: &str = "-----BEGIN RSA PUBLIC KEY-----
MIIBCgKCAQEA1gNSuy/BvdZjI1yqmPewAwNuOJYAV46d6j3tczbnDLOog9ApC0bj
Dnq4dBYpK1eXSlf5TZ7gP0bDcaPKin6dUI4E4rKhGHmCnYZ6GB+Ddc7AFZ39A4dN
6fd/hyUHDfExHiWLixKOAl6IiKRz6//DfJFVq+0GM0x2GUYKSnfzYMmFTT4wSfMM
Iyu9dysUDSntLcTzKy4wm8jf845MdTo4K2zElqQr29hfl85kWLY7+jMB0OXdVWdB
eLwg7A4DsJWr/JRrBvo4D0nlG+gZTMBnQ+EQZyo3B0xKaOtK8gevIOIchu7HS1La
DMqEcSbMXEURGjgDrE7Td4he6LBMaa4u+QIDAQAB
-----END RSA PUBLIC KEY-----
";
    const EC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2jXzSCgON3XvBD9/uAqY0bap1gxQ
Z/7MsVTeuBZOgRmWf2pePYvlYTaJi8NKRz4a5x2tgkO+YB2drII+Dy8uPQ==
-----END PUBLIC KEY-----
";
    const ED: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAE1hwjKqogsQcKzLnNjyOy1JHVT48aZt9q8yX9V1ChQE=
-----END PUBLIC KEY-----
";
    /// `{"sub":"ann","exp":2000000000,"nbf":1700000000,"name":"alias"}`
    const CLAIMS: &str =
        "eyJzdWIiOiJhbm4iLCJleHAiOjIwMDAwMDAwMDAsIm5iZiI6MTcwMDAwMDAwMCwibmFtZSI6ImFsaWFzIn0";
    /// Header and signature of each algorithm, made by OpenSSL.
    const HS256: [&str; 2] =
        ["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "DxGZpiVRdPDMEdHcLLIivqWDvflZoO_RgyZRiC7Z2oc"];
    const RS256: [&str; 2] = [
        "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9",
        "KMk7hMSDmvJfvI1zrF2Egv-yJKePBp5g5mwVma0N94OZR__1i75FtfOKfyVznlYIBN6xIJPlRhCj19031WAtwN5d9J2RNGSOgySdn0fYkekNMp_XuWhu9ulS9db3pRh2H4dnbhYaKotDs4bnE-YI6U4-2ju-tMtAxoYg3BIo72lCEeGUl-WpwBea16DhrOC-EFQNjvMUu9VYXtzjgoym1t7CiHGLWjeikNBpYDdf5v97YVHEdyhbXN4x7OFMJTOMBk1g_4mpYjkzpqICMczBrlS20uZa89rP5avrAo0DdIQzdxA8RjCVOyeFb-sI54HWnE1RlPjeFEy8BuGT1glMEw",
    ];
    const ES256: [&str; 2] = [
        "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9",
        "sgFVwlDfGoIaEa42QERVUnhcJXLSxIxkRiB5nIYjbbmu5SFpbzKYtIvl2tEY25-AskG_9dPytwWJubzY7SLUVg",
    ];
    const EDDSA: [&str; 2] = [
        "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9",
        "PJMYp2tZMm7GPlCTnsgF7LN-DSPP1ixTNR0zy1A-I1182QyRsYoQ76oxPNYSutJnIuXC1B5yvCR1B2Uojnx5AA",
    ];
    const EXPIRES: i64 = 2_000_000_000_000;

    fn tokens(algorithm: Algorithm, file: &[u8]) -> Tokens {
        Tokens { key: Key::read(algorithm, file).expect("a key"), username_claim: "sub".into() }
    }

    fn check(tokens: &Tokens, token: &str, at_millis: i64) -> Result<Identity, TokenError> {
        let parts = looks_like_one(token.as_bytes()).ok_or(TokenError::Malformed)?;
        tokens.check(&parts, Timestamp::from_millis(at_millis))
    }

    fn join([header, signature]: [&str; 2]) -> String {
        format!("{header}.{CLAIMS}.{signature}")
    }

    /// Signed with the secret.
    fn signed(header: &str, claims: &str) -> String {
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let text = format!("{}.{}", encode(header), encode(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
        format!("{text}.{}", Base64UrlUnpadded::encode_string(tag.as_ref()))
    }

    #[test]
    fn tokens_of_every_algorithm_are_good_while_they_last() {
        let cases = [
            (Algorithm::Hs256, SECRET, HS256),
            (Algorithm::Rs256, RSA.as_bytes(), RS256),
            (Algorithm::Rs256, RSA_PKCS1.as_bytes(), RS256),
            (Algorithm::Es256, EC.as_bytes(), ES256),
            (Algorithm::EdDsa, ED.as_bytes(), EDDSA),
        ];
        for (algorithm, key, token) in cases {
            let (tokens, token) = (tokens(algorithm, key), join(token));
            let ann = Identity {
                user: "ann".into(),
                proof: Proof::Token,
                until: Some(Timestamp::from_millis(EXPIRES)),
            };
            assert_eq!(check(&tokens, &token, EXPIRES - 1), Ok(ann), "{algorithm:?}");
            assert_eq!(check(&tokens, &token, EXPIRES), Err(TokenError::Expired));
            assert_eq!(check(&tokens, &token, 1_699_999_999_999), Err(TokenError::NotYetValid));
            let alias = Tokens { username_claim: "name".into(), ..tokens.clone() };
            assert_eq!(check(&alias, &token, EXPIRES - 1).map(|who| who.user), Ok("alias".into()));
            let nobody = Tokens { username_claim: "nbf".into(), ..tokens.clone() };
            assert_eq!(check(&nobody, &token, EXPIRES - 1), Err(TokenError::NoUser));
            let bent = token.replace("eyJzdWIi", "eyJzdWIj");
            assert_eq!(check(&tokens, &bent, EXPIRES - 1), Err(TokenError::BadSignature));
        }
    }

    #[test]
    fn a_clock_that_is_not_set_lets_new_tokens_in_and_old_ones_out() {
        let (hs, token) = (tokens(Algorithm::Hs256, SECRET), join(HS256));
        let parts = looks_like_one(token.as_bytes()).unwrap();
        let at = |millis| hs.check(&parts, Timestamp::from_millis(millis).with_doubt(Doubt::Unset));
        assert_eq!(at(0).map(|who| who.user), Ok("ann".into()));
        assert_eq!(at(EXPIRES), Err(TokenError::Expired));
    }

    #[test]
    fn no_token_chooses_its_algorithm() {
        let rsa = tokens(Algorithm::Rs256, RSA.as_bytes());
        // HS256 with the public key as the secret, which everybody has.
        let confused = "8cl-LM0rhzn_LcunPZ5j3R4fPFEGuXjesBFq0n7OUNg";
        assert_eq!(check(&rsa, &join([HS256[0], confused]), EXPIRES - 1), Err(TokenError::OtherAlgorithm));
        // The same signature under the right name.
        assert_eq!(check(&rsa, &join([RS256[0], confused]), EXPIRES - 1), Err(TokenError::BadSignature));
        let hs = tokens(Algorithm::Hs256, SECRET);
        let none = "eyJhbGciOiJub25lIn0";
        assert_eq!(check(&hs, &join([none, ""]), EXPIRES - 1), Err(TokenError::OtherAlgorithm));
        assert_eq!(check(&hs, &join([HS256[0], ""]), EXPIRES - 1), Err(TokenError::BadSignature));
        assert_eq!(check(&hs, &join(EDDSA), EXPIRES - 1), Err(TokenError::OtherAlgorithm));
    }

    #[test]
    fn claims_are_held_to_the_letter() {
        let hs = tokens(Algorithm::Hs256, SECRET);
        let good = r#"{"alg":"HS256"}"#;
        let until = |millis| Ok(Some(Timestamp::from_millis(millis)));
        let cases = [
            (good, r#"{"sub":"ann"}"#, Ok(None)),
            (good, r#"{"sub":"ann","exp":1000.5}"#, until(1_000_500)),
            (good, r#"{"sub":"ann","exp":1e300}"#, until(1_000_000_000_000_000_000)),
            (good, r#"{"sub":"ann","exp":-5}"#, Err(TokenError::Expired)),
            (good, r#"{"sub":"ann","exp":"2000000000"}"#, Err(TokenError::Malformed)),
            (good, r#"{"sub":"ann","exp":null}"#, Err(TokenError::Malformed)),
            (good, r#"{"sub":"ann","nbf":false}"#, Err(TokenError::Malformed)),
            (good, r#"{"sub":""}"#, Err(TokenError::NoUser)),
            (good, r#"{"sub":7}"#, Err(TokenError::NoUser)),
            (good, r#"["sub","ann"]"#, Err(TokenError::Malformed)),
            (r#"{"alg":"HS256","crit":["exp"]}"#, r#"{"sub":"ann"}"#, Err(TokenError::CriticalHeader)),
            (r#"{"alg":"hs256"}"#, r#"{"sub":"ann"}"#, Err(TokenError::OtherAlgorithm)),
            (r#"{"alg":["HS256"]}"#, r#"{"sub":"ann"}"#, Err(TokenError::OtherAlgorithm)),
        ];
        for (header, claims, wanted) in cases {
            let checked = check(&hs, &signed(header, claims), 1_000_000).map(|who| who.until);
            assert_eq!(checked, wanted, "{header} {claims}");
        }
    }

    #[test]
    fn what_has_not_a_tokens_form_is_a_password() {
        let good = join(HS256);
        let long = format!("{good}{}", "A".repeat(16 * 1024));
        let padded = format!("{good}=");
        for text in ["", "secret", "a.b.c", "..", "e30.e30.e30", "eyJhbGciOiJub25lIn0.e30", &long, &padded] {
            assert!(looks_like_one(text.as_bytes()).is_none(), "{text}");
        }
        assert!(looks_like_one(good.as_bytes()).is_some());
        assert!(looks_like_one(format!("{good}.x").as_bytes()).is_none());
        assert!(looks_like_one(&[0xff, b'.', b'.']).is_none());
    }
}
