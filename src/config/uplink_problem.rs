//! What can be wrong with the way to a cloud, in words that name a way out. Never holds a URL: it may hold a secret.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkProblem {
    BadUrl,
    UrlScheme,
    UrlHoldsUser,
    UrlHoldsPath,
    BadUrlPath {
        bytes_max: usize,
    },
    NoUrl,
    TooManyUrls {
        max: usize,
    },
    SameUrl,
    TlsUnlikeFirst,
    BadServerName,
    BadProxy,
    ProxyScheme,
    ProxyHoldsPath,
    /// What stands before the `@`.
    BadProxyLogin,
    EncryptedKey {
        file: Box<str>,
    },
}

impl fmt::Display for UplinkProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadUrl => "not a URL (mqtts://broker.example.com:8883)",
            Self::UrlScheme => "unknown scheme (mqtt://, mqtts://, ws:// or wss://)",
            Self::UrlHoldsUser => "a user in a URL (use `username` and `password`)",
            Self::UrlHoldsPath => "a path in a URL of MQTT (mqtts://broker.example.com:8883)",
            Self::BadUrlPath { bytes_max } => {
                return write!(
                    f,
                    "not a URL's path (/mqtt, and a query if need be; {bytes_max} bytes at most; others as %20)"
                );
            }
            Self::NoUrl => "an empty list (one URL at least)",
            Self::TooManyUrls { max } => return write!(f, "too many URLs ({max} at most)"),
            Self::SameUrl => "stands in this list before (each server once)",
            Self::TlsUnlikeFirst => {
                "not like the first of the list (all with TLS or none: an outage must not send the password in the clear)"
            }
            Self::BadServerName => "not a server's name (broker.example.com)",
            Self::BadProxy => "not a proxy's URL (http://proxy.example.com:3128)",
            Self::ProxyScheme => "unknown scheme (http:// or socks5://)",
            Self::ProxyHoldsPath => "a path in a proxy's URL (http://proxy.example.com:3128)",
            Self::BadProxyLogin => {
                "not a user and password (user:password@ before the host, each of 1 to 255 bytes, special characters as %40)"
            }
            Self::EncryptedKey { file } => {
                return write!(
                    f,
                    "{file} is encrypted, and nobody types its password (openssl pkey -in KEY -out KEY.plain)"
                );
            }
        })
    }
}
