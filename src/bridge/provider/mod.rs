//! What a bridge says of itself in CONNECT, for a moment: names as they stand, or what the cloud has made of a key.
//! Time is an argument; remembers nothing, and shows no key. (ES256 takes its nonces from the system, as it must.)

mod text;

use std::sync::Arc;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::json;

use crate::auth::signer::{PrivateKey, SharedKey};
use crate::base::time::{Duration, Timestamp};
use crate::bridge::provider::text::{hex, percent_encoded};
use crate::config::model;
use crate::config::provider::Account;
use crate::config::secret::Secret;

/// The platform knows no other.
const ONENET_VERSION: &str = "2018-10-31";
/// Tencent's number for a device's own SDK.
const TENCENT_SDK: &str = "12010126";
const TENCENT_CONNECTION_CHARS: usize = 5;

/// Who the gateway is, and how it proves that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub client_id: Arc<str>,
    pub username: Option<Arc<str>>,
    pub password: Option<Secret>,
    /// How long it is good for, from now on. None: it does not run out.
    pub lifetime: Option<Duration>,
}

/// Why there is none now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCredential {
    /// It would say until when it is good, and nobody knows what time it is.
    ClockNotSet,
    /// The system has no randomness.
    NotSigned,
}

impl Credential {
    /// For a connection that is made at `wall`.
    pub fn new(bridge: &model::Bridge, wall: Timestamp) -> Result<Self, NoCredential> {
        let lifetime = bridge.account.lifetime();
        if lifetime.is_some() && wall.is_doubtful() {
            return Err(NoCredential::ClockNotSet);
        }
        let plain = Self {
            client_id: bridge.client_id.clone(),
            username: bridge.username.clone(),
            password: bridge.password.clone(),
            lifetime,
        };
        let from = wall.as_millis().div_euclid(1000);
        let until = from + lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(0));
        Ok(match &bridge.account {
            Account::Generic | Account::AwsIot | Account::AzureEventGrid => plain,
            Account::AzureIotHub { key: None, .. } => Self { password: None, ..plain },
            Account::AzureIotHub { hub, device, module, key: Some(key) } => {
                let module = module.as_ref().map_or_else(String::new, |module| format!("/modules/{module}"));
                let password = azure_token(key, &format!("{hub}/devices/{device}{module}"), until);
                Self { password: Some(Secret::new(&password)), ..plain }
            }
            Account::Google { project, key } => {
                let password = json_web_token(key, project, (from, until)).ok_or(NoCredential::NotSigned)?;
                Self { password: Some(Secret::new(&password)), ..plain }
            }
            Account::Aliyun { product, device, secret, tls } => {
                let own = &*bridge.client_id;
                let sign = hex(&secret.sign(aliyun_content(own, device, product, None).as_bytes()));
                let mode = if *tls { 2 } else { 3 };
                let client_id = format!("{own}|securemode={mode},signmethod=hmacsha256|").into();
                Self { client_id, password: Some(Secret::new(&sign)), ..plain }
            }
            Account::OneNet { product, device, key } => {
                let password = onenet_token(key, &format!("products/{product}/devices/{device}"), until);
                Self { password: Some(Secret::new(&password)), ..plain }
            }
            Account::Tencent { product, device, key } => {
                let connection = connection_name(from);
                let username = format!("{product}{device};{TENCENT_SDK};{connection};{until}");
                let password = format!("{};hmacsha256", hex(&key.sign(username.as_bytes())));
                Self { username: Some(username.into()), password: Some(Secret::new(&password)), ..plain }
            }
        })
    }
}

/// learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas.
fn azure_token(key: &SharedKey, resource: &str, until: i64) -> String {
    let resource = percent_encoded(resource);
    let signature = Base64::encode_string(&key.sign(format!("{resource}\n{until}").as_bytes()));
    format!("SharedAccessSignature sr={resource}&sig={}&se={until}", percent_encoded(&signature))
}

/// RFC 7519, with the claims of Cloud IoT Core.
fn json_web_token(key: &PrivateKey, audience: &str, (from, until): (i64, i64)) -> Option<String> {
    let part = |json: serde_json::Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
    let header = part(json!({ "alg": key.algorithm().name(), "typ": "JWT" }));
    let claims = part(json!({ "iat": from, "exp": until, "aud": audience }));
    let signed = format!("{header}.{claims}");
    let signature = Base64UrlUnpadded::encode_string(&key.sign(signed.as_bytes())?);
    Some(format!("{signed}.{signature}"))
}

/// alibabacloud.com/help/doc-detail/73742.htm: what is said, by the names in their order. Without a time, which is left
/// to the client to say, so that no clock is needed.
fn aliyun_content(client_id: &str, device: &str, product: &str, millis: Option<i64>) -> String {
    let time = millis.map_or_else(String::new, |millis| format!("timestamp{millis}"));
    format!("clientId{client_id}deviceName{device}productKey{product}{time}")
}

/// open.iot.10086.cn/doc/multiprotocol/book/manual/auth/token.html.
fn onenet_token(key: &SharedKey, resource: &str, until: i64) -> String {
    let content = onenet_content("sha256", resource, until);
    let sign = percent_encoded(&Base64::encode_string(&key.sign(content.as_bytes())));
    let resource = percent_encoded(resource);
    format!("version={ONENET_VERSION}&res={resource}&et={until}&method=sha256&sign={sign}")
}

fn onenet_content(method: &str, resource: &str, until: i64) -> String {
    format!("{until}\n{method}\n{resource}\n{ONENET_VERSION}")
}

/// Any five characters; the vendor finds a connection by them.
fn connection_name(seconds: i64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut rest = seconds.unsigned_abs();
    let mut name = String::new();
    for _ in 0..TENCENT_CONNECTION_CHARS {
        let digit = usize::try_from(rest % 36).unwrap_or(0);
        name.push(char::from(DIGITS[digit]));
        rest /= 36;
    }
    name
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Base64UrlUnpadded, Encoding};
    use ring::{hmac, signature};

    use super::text::{hex, percent_encoded};
    use super::{aliyun_content, azure_token, connection_name, json_web_token, onenet_content, onenet_token};
    use crate::auth::signer::{PrivateKey, SharedKey, SignerError};

    /// Made for this test.
    const RSA_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC2CSY54CcCgWEe
4JEmEuxlSAXLEZnbts7I5+EZR3KU9cHJJvM3jVUT/WNiH9XJZWQQXjKyXlZDacyG
E0Gk8LVNBrfVBhHL/tRjqhFex9L2lwQwPuiiawNS6wqgseAFPL6t0pZgg3e4NHfg
xhQVNyNHA6OSJT3nAmda+e3k10EyOANjP+M5KrPNehpZ9zNuyh6gTOI0vdf7Ssdb
/uu9hcsiuQRWTZgswlQsZQTR+T+ArQ4C/jGZGYncIJvnvlQ12HC//QdyH83osnUI
0jO1B+xLn3kHd9fXHZADRFJ1TITS8jvlrc0g++EKDLeEfMIbFxgDyzbZwWI3vKyX
rp98418pAgMBAAECggEABY7X9PJsHn52yauPovr27sy5KI8cBIJbY/T4gX4V+Ihc
Z1jiGjMdguO8shVIwMJwwLMvlxScS6iiTwGtgmy7DGQFHuL1jiX0tCpQJ3WwckkA
Hrz8+2CLFHAKvgdQULifFc2VO9Mnx58KffluSYuKbzOkPeUXM8N2BmgVJGSSIAda
fzqh0jc6dynSNy4m69u81q7sQj2AGJOqmcxmKsWsCaLmbOOsCO5iNFNS3XwCuktx
xhBEefu/OcOYKFYVIzoNJwUIjtpqP4HAt86hM2m9BFg/8OUv90fog/3oh2bQOdKU
IuI2B1YHCH1Gs105zjqNyYKCEzUDawohke5EPmvgUQKBgQD2MoodjXh0KloVZZCk
cylMS9kzRtkY0smcGAEPKDWJDiQFvh6kmkR/hwcnuWbOStoXMJc8pMS/kuhupAZv
mNxfhqrNYtHOtcjn12UqsPvLEF7TLobjHdn5R1gNbWOxgn8lQEW9VlhpDajvgD57
rQp1qoZ8yemgvkfJVK2Wn9HMBQKBgQC9SJ4Y+fyexYDRhjNfAW3QW2QVIRlJEDok
TC34Us6u6h1+jrQkfpufVXeN7Zn2m8Re5ZZaHqZCOYGfQ7AHPost31u/gvZZBRxw
+bqw/YfJ9+yOrCWu8EroPfrJqTFpr4fygk69165LyCb8xbEj1Dlo5bRXE2noGray
YduG66NT1QKBgGwU5eNxbvb4fNG149j+IZw4FCNZsAcgypd3RkfELDR9+7x1qXgz
rWya974tu39HBxV1JH/gCevcb6Pa6GRnpB9fvG4sOtVXotp9ChHC3tdX2Xk2jMr6
GO5Brts+Ma0FEBJnc/ZaCLgd4hM6prOe1N+xPBdegO0re9JcFVTx1qWNAoGBAKYP
R2RyLQa+Dz3Clt8KyeS5yRwgZaaL7fZaPxpUy675Bdc6KyC5Up5+xNxnT2PjVGxM
z5NQwFvpR6cKIyy32jLsefmSU73VlhYngXo1cyPltkuVC5pmhdEqTxMMtKUbshE3
8QzsY6Voe4vXhIkCbztwCr858PgIN7BX2diMckXhAoGAJRBFyZWwKwAP6rhJSGeg
b4l9okRZwzuRpVUAVqcBxhT98T7UhuWyridzSv7HtYLVWtzguz/cTWNUJAZ7VFga
QfF9kuvc7hb2QrSG30L3zMabMLgH7LBHp5WB93GSrBSCxKsPAoIsiPWexwaP2LDQ
21XhcUIbYQxNeeCgVE2MptI=
-----END PRIVATE KEY-----
";

    /// Azure's own SDK for Java has this in `SignatureIT`; it encodes the resource before.
    #[test]
    fn azure_signs_as_its_own_sdk_does() {
        let key = SharedKey::from_base64("q+DKVojmMz014RjAwpNGZbAkdOocSVWMKPOccLfUmLE=").expect("a key");
        let signed = key.sign(b"sdktesthub.private.azure-devices-int.net/devices/test8\n1462333672");
        let expected = "ZrTYgp6uRmbDl4lzzewxFD9FoaNKIK7G2bdivDbtc9A%3D";
        assert_eq!(percent_encoded(&Base64::encode_string(&signed)), expected);
        // Computed with Python's hmac as the manual's example does (generate_sas_token).
        let token = azure_token(&key, "plant.azure-devices.net/devices/plant-7", 1_795_258_800);
        assert_eq!(
            token,
            "SharedAccessSignature sr=plant.azure-devices.net%2Fdevices%2Fplant-7\
             &sig=FEo%2BSAoTQzeN26HkjGIz4IKCp8APUkeToUGjx3Diuhg%3D&se=1795258800"
        );
    }

    /// The example of doc-detail/73742: client 12345, device `device`, product `pk`, time 789, secret `secret`. It is
    /// signed with SHA-1, which the gateway does not use.
    #[test]
    fn aliyun_signs_what_its_manual_says() {
        let content = aliyun_content("12345", "device", "pk", Some(789));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"secret");
        let signed = hex(hmac::sign(&key, content.as_bytes()).as_ref());
        assert_eq!(signed, "fafd82a3d602b37fb0fa8b7892f24a477f851a14");
        // Computed with Python's hmac.
        let content = aliyun_content("plant-7", "device", "pk", None);
        let signed = hex(&SharedKey::from_text("secret").sign(content.as_bytes()));
        assert_eq!(signed, "772bd3d2e8c9670ed63218762a3110f6fa8e4688275cfdc95a2c9b106214f356");
    }

    /// The parameters of the manual's example; its sign stands in no manual, but in a client's tests, with SHA-1.
    #[test]
    fn onenet_signs_what_its_manual_says() {
        let text = "KuF3NT/jUBJ62LNBB/A8XZA9CqS3Cu79B/ABmfA1UCw=";
        let bytes = Base64::decode_vec(text).expect("Base64");
        let content = onenet_content("sha1", "products/123123", 1_537_255_523);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes);
        let signed = hmac::sign(&key, content.as_bytes());
        assert_eq!(Base64::encode_string(signed.as_ref()), "lsaPSiiGvEFFjXu5WU7a6IkScqE=");
        // Computed with Python's hmac.
        let key = SharedKey::from_base64(text).expect("a key");
        assert_eq!(
            onenet_token(&key, "products/123123/devices/mydev", 1_537_255_523),
            "version=2018-10-31&res=products%2F123123%2Fdevices%2Fmydev&et=1537255523&method=sha256\
             &sign=dL9mxHdJXyd2TZcmTna60TMUei2dYU5W6iOow7fH%2F7w%3D"
        );
    }

    /// No manual of Tencent's shows a result. Computed with Python's hmac, as its example does.
    #[test]
    fn tencent_signs_the_user_name() {
        let key = SharedKey::from_base64("KuF3NT/jUBJ62LNBB/A8XZA9CqS3Cu79B/ABmfA1UCw=").expect("a key");
        let signed = hex(&key.sign(b"1A17RZR3XXplant-7;12010126;ABCDE;1795258800"));
        assert_eq!(signed, "6096f7a0e90ba46648a91ee48c57e54bde0470413e264dd90a16e6be7ba172b8");
        let names = [1_795_255_200, 1_795_255_201].map(connection_name);
        assert!(names.iter().all(|name| name.len() == 5) && names[0] != names[1], "{names:?}");
    }

    /// Signed by `openssl dgst -sha256 -sign`: RS256 has one right signature.
    #[test]
    fn google_gets_a_token_as_openssl_would_sign_it() {
        let key = PrivateKey::from_pem(RSA_KEY).expect("a key");
        assert_eq!(format!("{key:?}"), "RS256 ***");
        let token = json_web_token(&key, "my-project", (1_795_255_200, 1_795_298_400)).expect("signed");
        assert_eq!(
            token,
            "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJteS1wcm9qZWN0IiwiZXhwIjoxNzk1Mjk4NDAwLCJpYXQiOjE3OTUyNTUyMDB9.\
             eoUQSeFoqTOHleBolovMstgqVeSSf2MoReUwh7JVv-CWWSzUg4UathTp3KAqnLpepYtvPtvQBcXAAJZUD1xeTiGeutm3onqugKYT3XQcgIGqu_2fZsrpSY0tnoGbEw9GWIJ56wLx9kxtyfbjE8MlX_sq4z2DP9INepvHG_PL0GTPRqJOrbFh8VkeB_LaV4Xa2hLzzMyhR8pyGk1E_cmksG6j0iJO3Y7vQ61UsqQjobEByHqz0tUmxWqeKZie2obeu0e7tCw8ca-g2sb-vJ2l8Yfiz5KLuPaV00pxg5Q2ejOa3VWyOd9kWrtlIt8pTgsoqhBF_0qjPNhIugWqj_swug"
        );
    }

    #[test]
    fn an_ec_key_signs_what_its_public_half_verifies() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let key = PrivateKey::from_pem(&pair.serialize_pem()).expect("a key");
        assert_eq!(format!("{key:?}"), "ES256 ***");
        let token = json_web_token(&key, "p", (1, 2)).expect("signed");
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let signature = Base64UrlUnpadded::decode_vec(signature).expect("Base64");
        let public =
            signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
        assert!(public.verify(signed.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn what_cannot_sign_says_why() {
        let cases = [
            ("secret", SignerError::NotPem),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----",
                SignerError::EcWithoutWrapping,
            ),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMHc=\n-----END ENCRYPTED PRIVATE KEY-----",
                SignerError::Encrypted,
            ),
            ("-----BEGIN PRIVATE KEY-----\nMHc=\n-----END PRIVATE KEY-----", SignerError::OtherKind),
        ];
        for (text, expected) in cases {
            assert_eq!(PrivateKey::from_pem(text), Err(expected), "{text}");
        }
        for text in ["", "not base64", "abc"] {
            assert_eq!(SharedKey::from_base64(text), Err(SignerError::NotBase64), "{text}");
        }
    }
}
