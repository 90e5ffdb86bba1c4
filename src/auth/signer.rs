//! Keys that prove to somebody else who the gateway is: shared secrets and private keys, and what is signed with them.
//! Reads no file, and never shows a key.

use std::fmt;

use base64ct::{Base64, Encoding};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};

use crate::auth::key::Algorithm;

/// What is wrong with a key that is to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignerError {
    /// Of a shared key, which is given as Base64.
    NotBase64,
    NotPem,
    /// RFC 5915: it lacks what ring needs.
    EcWithoutWrapping,
    Encrypted,
    /// Neither RSA of 2048 to 4096 bits nor P-256.
    OtherKind,
}

impl fmt::Display for SignerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBase64 => "not a shared key (Base64, as the provider shows it)",
            Self::NotPem => "not a private key (${file:keys/device.pem}, PEM: -----BEGIN PRIVATE KEY-----)",
            Self::EcWithoutWrapping => {
                "a private key in the older form of EC (`openssl pkcs8 -topk8 -nocrypt -in KEY` turns it into -----BEGIN PRIVATE KEY-----)"
            }
            Self::Encrypted => {
                "an encrypted private key (`openssl pkcs8 -in KEY` takes the pass phrase off)"
            }
            Self::OtherKind => "a private key of another kind (RSA of 2048 to 4096 bits, or EC on P-256)",
        })
    }
}

impl std::error::Error for SignerError {}

/// A secret that both ends know. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey(Box<[u8]>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SharedKey {
    pub fn from_base64(text: &str) -> Result<Self, SignerError> {
        match Base64::decode_vec(text) {
            Ok(bytes) if !bytes.is_empty() => Ok(Self(bytes.into())),
            _ => Err(SignerError::NotBase64),
        }
    }

    /// The text itself is the key.
    pub fn from_text(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    /// HMAC-SHA-256.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), message).as_ref().to_vec()
    }
}

/// A private key that signs tokens: RS256 or ES256, by what it is. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    algorithm: Algorithm,
    form: Form,
    der: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// RFC 5958.
    Pkcs8,
    /// RFC 8017 A.1.2.
    RsaAlone,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ***", self.algorithm.name())
    }
}

impl PrivateKey {
    pub fn from_pem(text: &str) -> Result<Self, SignerError> {
        if text.contains("ENCRYPTED") {
            return Err(SignerError::Encrypted);
        }
        if text.contains("-----BEGIN EC PRIVATE KEY-----") {
            return Err(SignerError::EcWithoutWrapping);
        }
        let forms = [("PRIVATE KEY", Form::Pkcs8), ("RSA PRIVATE KEY", Form::RsaAlone)];
        let found = forms.into_iter().find_map(|(label, form)| Some((pem(text, label)?, form)));
        let (der, form) = found.ok_or(SignerError::NotPem)?;
        let key = |algorithm| Self { algorithm, form, der: der.clone().into() };
        let rsa = key(Algorithm::Rs256);
        if rsa.rsa().is_some() {
            return Ok(rsa);
        }
        let ec = key(Algorithm::Es256);
        if form == Form::Pkcs8 && ec.ec().is_some() { Ok(ec) } else { Err(SignerError::OtherKind) }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// As RFC 7518 3.3 and 3.4 have it. None: the system has no randomness, which ES256 needs.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        if self.algorithm == Algorithm::Es256 {
            return self.ec()?.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec());
        }
        let key = self.rsa()?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
        Some(signature)
    }

    fn rsa(&self) -> Option<RsaKeyPair> {
        match self.form {
            Form::Pkcs8 => RsaKeyPair::from_pkcs8(&self.der).ok(),
            Form::RsaAlone => RsaKeyPair::from_der(&self.der).ok(),
        }
    }

    fn ec(&self) -> Option<EcdsaKeyPair> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.der, &SystemRandom::new()).ok()
    }
}

/// RFC 7468.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    Base64::decode_vec(&body).ok()
}
