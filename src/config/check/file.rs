//! Files that the configuration names: there, readable, and of the kind that is wanted.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::config::error::Problem;
use crate::config::expand::read_bounded;
use crate::config::raw::Field;
use crate::config::uplink_problem::UplinkProblem;

/// The largest bundle of CA certificates is a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// What opens an encrypted key: as PKCS#8, and as the older kinds, RFC 1421, 4.6.1.1.
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

/// What a PEM file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pem {
    Certificate,
    PrivateKey,
}

impl Pem {
    fn words(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
        }
    }

    /// RFC 7468: the end of the line that opens it.
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Certificate => b"CERTIFICATE-----",
            Self::PrivateKey => b"PRIVATE KEY-----",
        }
    }
}

/// The path, starting at `base_dir` where it is relative.
pub(super) fn pem(field: &Field<'_>, base_dir: &Path, wants: Pem) -> Option<PathBuf> {
    let path = base_dir.join(field.filled_text()?);
    let file = path.display().to_string().into_boxed_str();
    let problem = match read_bounded(&path, PEM_BYTES_MAX) {
        Ok(Some(bytes)) if wants == Pem::PrivateKey && ENCRYPTED.iter().any(|mark| holds(&bytes, mark)) => {
            Problem::Uplink(UplinkProblem::EncryptedKey { file })
        }
        Ok(Some(bytes)) if holds(&bytes, wants.mark()) => return Some(path),
        Ok(Some(_)) => Problem::NotPem { file, wants: wants.words() },
        Ok(None) => Problem::ReferenceTooLarge { file, bytes_max: PEM_BYTES_MAX },
        Err(error) => Problem::PathUnreadable { file, kind: error.kind() },
    };
    field.fault(problem);
    None
}

/// Whether a server can show the certificate with the key; both files were read once before.
pub(super) fn fits(certificate: &Path, private_key: &Path) -> bool {
    let Ok(chain) = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect) else {
        return false;
    };
    PrivateKeyDer::from_pem_file(private_key)
        .is_ok_and(|key| CertifiedKey::from_der(chain, key, &ring::default_provider()).is_ok())
}

fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}
