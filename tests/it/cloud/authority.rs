//! Certificates made for one test. Never leaves its folder.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

/// A certificate authority with its files in one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub ca: PathBuf,
}

pub struct Identity {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let ca = folder.join(format!("{name}.crt"));
        fs::write(&ca, issuer.pem()).expect("writes");
        Authority { folder: folder.to_owned(), issuer, ca }
    }

    pub fn issue(&self, file: &str, host: &str) -> Identity {
        self.issue_until(file, host, 4000)
    }

    pub fn issue_until(&self, file: &str, host: &str, year: i32) -> Identity {
        self.sign(file, &params(host, year))
    }

    /// An empty name is none.
    pub fn issue_to(&self, file: &str, common_name: &str, host: &str) -> Identity {
        let mut params = params(host, 4000);
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common_name.is_empty() {
            params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        }
        self.sign(file, &params)
    }

    fn sign(&self, file: &str, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let identity = Identity {
            certificate: self.folder.join(format!("{file}.crt")),
            private_key: self.folder.join(format!("{file}.key")),
        };
        fs::write(&identity.certificate, certificate.pem()).expect("writes");
        fs::write(&identity.private_key, key.serialize_pem()).expect("writes");
        identity
    }
}

fn params(host: &str, year: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    params
}
