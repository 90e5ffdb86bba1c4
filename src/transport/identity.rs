//! What a certificate says: whom it names and how long it is good. Reads what TLS has verified; never verifies.

use std::fmt::Write;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The longest name that is taken from a certificate.
const NAME_BYTES_MAX: usize = 1024;
/// RFC 4514, 3: the attributes with short names.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// What of a certificate is the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFrom {
    /// The only one; of several none can be preferred.
    CommonName,
    /// The distinguished name as RFC 4514 writes it, its last part first: `CN=pump-7,O=Plant`.
    Subject,
    /// The first DNS name of the subject's alternative names.
    SanDns,
}

/// Seconds since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

/// The name; None where there is none that can be one.
pub fn name_of(certificate: &CertificateDer<'_>, from: NameFrom) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = match from {
        NameFrom::CommonName => only_common_name(certificate.subject())?,
        NameFrom::Subject => distinguished_name(certificate.subject())?,
        NameFrom::SanDns => first_dns_name(&certificate)?,
    };
    let usable = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
    usable.then(|| name.into())
}

/// None: not a certificate.
pub fn validity_of(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
}

fn only_common_name(subject: &X509Name<'_>) -> Option<String> {
    let mut names = subject.iter_common_name();
    let first = names.next()?;
    if names.next().is_some() { None } else { first.as_str().ok().map(str::to_owned) }
}

fn first_dns_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

fn distinguished_name(subject: &X509Name<'_>) -> Option<String> {
    let sets: Vec<_> = subject.iter_rdn().collect();
    let mut text = String::new();
    for set in sets.into_iter().rev() {
        for (index, attribute) in set.iter().enumerate() {
            if !text.is_empty() {
                text.push(if index == 0 { ',' } else { '+' });
            }
            push_attribute(&mut text, attribute)?;
        }
    }
    Some(text)
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) -> Option<()> {
    let id = attribute.attr_type().to_id_string();
    let name = SHORT_NAMES.iter().find(|(known, _)| *known == id).map_or(id.as_str(), |(_, name)| name);
    write!(text, "{name}=").ok()?;
    escape(attribute.as_str().ok()?, text);
    Some(())
}

/// RFC 4514, 2.4: else a value could pass for several attributes.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let edge = (index == 0 && (c == ' ' || c == '#')) || (index == last && c == ' ');
        if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use tokio_rustls::rustls::pki_types::CertificateDer;

    use super::{NameFrom, Validity, name_of, validity_of};

    type Case = (Vec<(DnType, &'static str)>, &'static [&'static str], [Option<&'static str>; 3]);

    fn certificate(attributes: &[(DnType, &str)], dns: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn names_are_taken_as_asked() {
        let organization = || DnType::OrganizationName;
        let odd = DnType::CustomDnType(vec![1, 2, 3]);
        // Attributes, DNS names; what each of the three kinds of name is.
        let cases: [Case; 6] = [
            (
                vec![(organization(), "Plant"), (DnType::CommonName, "pump-7")],
                &["a.local", "b.local"],
                [Some("pump-7"), Some("CN=pump-7,O=Plant"), Some("a.local")],
            ),
            (vec![(organization(), "Plant")], &[], [None, Some("O=Plant"), None]),
            (vec![], &[], [None, None, None]),
            (vec![(DnType::CommonName, "a,O=b")], &[], [Some("a,O=b"), Some("CN=a\\,O\\=b"), None]),
            (vec![(DnType::CommonName, "a\nb")], &[], [None, None, None]),
            (vec![(odd, " #x ")], &["10.0.0.1"], [None, Some("1.2.3=\\ #x\\ "), None]),
        ];
        for (attributes, dns, wanted) in cases {
            let certificate = certificate(&attributes, dns);
            for (from, wanted) in
                [NameFrom::CommonName, NameFrom::Subject, NameFrom::SanDns].into_iter().zip(wanted)
            {
                assert_eq!(name_of(&certificate, from).as_deref(), wanted, "{attributes:?} {from:?}");
            }
        }
    }

    #[test]
    fn validity_is_read() {
        let validity = validity_of(&certificate(&[], &["a"]));
        assert_eq!(validity, Some(Validity { from: 978_307_200, until: 1_009_843_200 }));
        assert_eq!(validity_of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
