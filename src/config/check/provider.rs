//! A bridge to a cloud that has rules of its own: who the gateway is there, the key, and which topics it has.

use std::sync::Arc;

use crate::auth::signer::{PrivateKey, SharedKey, SignerError};
use crate::config::error::Problem;
use crate::config::provider::topics::Way;
use crate::config::provider::{Account, Provider};
use crate::config::provider_problem::ProviderProblem;
use crate::config::raw::{Field, Section};
use crate::config::secret::Secret;
use crate::config::uplink::BridgeUrl;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Of the IoT Hub's way to speak MQTT.
const AZURE_API_VERSION: &str = "2021-04-12";
/// The form of a product's name at Tencent.
const TENCENT_PRODUCT_CHARS: usize = 10;
/// docs.aws.amazon.com/iot/latest/developerguide/protocols.html: MQTT with a client certificate on port 443.
const AWS_ALPN: &str = "x-amzn-mqtt-ca";
const HTTPS_PORT: u16 = 443;

/// What the keys of the section have said so far.
pub(super) struct Written<'a> {
    /// With TLS or without all of them. Empty: a fault was reported.
    pub urls: &'a [BridgeUrl],
    pub client_id: Arc<str>,
    pub username: Option<Arc<str>>,
    pub password: Option<Secret>,
    pub has_certificate: bool,
}

/// Who the gateway is at its cloud, under which user name. None: a fault was reported.
pub(super) fn check(
    section: &Section<'_>,
    provider: Provider,
    written: &Written<'_>,
) -> Option<(Account, Option<Arc<str>>)> {
    let reader = Reader { section, provider, written };
    let bytes_max = provider.terms().client_id_bytes_max;
    if written.client_id.len() > bytes_max {
        reader.fault("client_id", Problem::TextTooLong { bytes_max });
        return None;
    }
    let given = written.username.clone();
    match provider {
        Provider::Generic => Some((Account::Generic, given)),
        Provider::AwsIot => {
            // With a user name an authorizer of the customer's own decides.
            let known = given.is_some() || reader.require_certificate();
            (reader.require_tls() & known).then_some((Account::AwsIot, given))
        }
        Provider::AzureIotHub => reader.iot_hub(),
        Provider::AzureEventGrid => {
            let name = given.unwrap_or_else(|| written.client_id.clone());
            let known = reader.require_tls() & reader.require_certificate();
            known.then_some((Account::AzureEventGrid, Some(name)))
        }
        Provider::Google => reader.google(),
        Provider::Aliyun => reader.aliyun(),
        Provider::OneNet => reader.onenet(),
        Provider::Tencent => reader.tencent(),
    }
}

/// What TLS is to say of what is spoken within, where nobody wrote it.
pub(super) fn alpn_of(provider: Provider, urls: &[BridgeUrl]) -> Vec<Arc<str>> {
    // A WebSocket speaks HTTP first.
    let on_https = urls.iter().any(|url| url.tls && url.port == HTTPS_PORT && url.path.is_none());
    if provider == Provider::AwsIot && on_https { vec![AWS_ALPN.into()] } else { Vec::new() }
}

/// Whether the cloud takes a message on this topic.
pub(super) fn check_target(account: &Account, target: &TopicName) -> Result<(), Problem> {
    let provider = account.provider();
    let (name, terms) = (provider.name(), provider.terms());
    let problem = if !account.takes(target) {
        let known = words(&account.topics(Way::ToCloud));
        ProviderProblem::ToCloud { provider: name, topic: target.as_str().into(), known }
    } else if !terms.takes_depth(target) {
        ProviderProblem::TooDeep { provider: name, slashes_max: terms.topic_slashes_max }
    } else if target.as_str().len() > terms.topic_bytes_max {
        ProviderProblem::TooLong { provider: name, bytes_max: terms.topic_bytes_max }
    } else {
        return Ok(());
    };
    Err(Problem::Provider(problem))
}

/// Whether the cloud has something on these topics.
pub(super) fn check_filter(account: &Account, filter: &TopicFilter) -> Result<(), Problem> {
    if account.gives(filter) {
        return Ok(());
    }
    let (provider, known) = (account.provider().name(), words(&account.topics(Way::FromCloud)));
    Err(Problem::Provider(ProviderProblem::FromCloud { provider, known }))
}

/// `devices/plant-7/messages/events/#, …`
fn words(filters: &[TopicFilter]) -> Box<str> {
    filters.iter().map(TopicFilter::as_str).collect::<Vec<_>>().join(", ").into()
}

struct Reader<'a> {
    section: &'a Section<'a>,
    provider: Provider,
    written: &'a Written<'a>,
}

type Found = Option<(Account, Option<Arc<str>>)>;

impl Reader<'_> {
    fn fault(&self, key: &str, problem: Problem) {
        match self.section.find(key) {
            Some(field) => field.fault(problem),
            None => self.section.fault_at(key, problem),
        }
    }

    fn refuse(&self, key: &str, problem: ProviderProblem) {
        self.fault(key, Problem::Provider(problem));
    }

    fn bad_name(&self, key: &str, form: &'static str) {
        self.refuse(key, ProviderProblem::Name { provider: self.provider.name(), form });
    }

    fn require_tls(&self) -> bool {
        let with_tls = self.written.urls.iter().all(|url| url.tls);
        if !with_tls {
            self.refuse("url", ProviderProblem::NeedsTls { provider: self.provider.name() });
        }
        with_tls
    }

    fn require_certificate(&self) -> bool {
        if !self.written.has_certificate {
            self.refuse("tls", ProviderProblem::NeedsCertificate { provider: self.provider.name() });
        }
        self.written.has_certificate
    }

    /// The key that stands under `password`. None: a fault was reported.
    fn key<T>(&self, what: &'static str, read: impl FnOnce(&str) -> Result<T, SignerError>) -> Option<T> {
        let Some(secret) = &self.written.password else {
            self.refuse("password", ProviderProblem::NoKey { what });
            return None;
        };
        read(secret.reveal()).map_err(|error| self.refuse("password", ProviderProblem::Key(error))).ok()
    }

    fn iot_hub(&self) -> Found {
        let tls = self.require_tls();
        let client_id = &*self.written.client_id;
        let (device, module) = match client_id.split_once('/') {
            Some((device, module)) => (device, Some(module)),
            None => (client_id, None),
        };
        let key = if self.written.password.is_none() && self.written.has_certificate {
            None
        } else {
            let what = "the device's shared access key: ${file:secrets/plant-7.key}; or tls.certificate";
            Some(self.key(what, SharedKey::from_base64)?)
        };
        let host = self.written.urls.first().map(|url| url.host.clone());
        let username = match &self.written.username {
            Some(username) => username.clone(),
            None => format!("{}/{client_id}/?api-version={AZURE_API_VERSION}", host?).into(),
        };
        let own = format!("/{client_id}/");
        let Some((hub, _)) = username.split_once(&own).filter(|(hub, _)| !hub.is_empty()) else {
            self.bad_name(
                "username",
                "HUB.azure-devices.net/CLIENT_ID/?api-version=2021-04-12, or leave it out",
            );
            return None;
        };
        if device.is_empty() || module.is_some_and(|module| module.is_empty() || module.contains('/')) {
            self.bad_name("client_id", "the device's id, or DEVICE/MODULE");
            return None;
        }
        let account = Account::AzureIotHub {
            hub: hub.into(),
            device: device.into(),
            module: module.map(Into::into),
            key,
        };
        tls.then_some((account, Some(username)))
    }

    fn google(&self) -> Found {
        let tls = self.require_tls();
        let levels: Vec<_> = self.written.client_id.split('/').collect();
        let project = match levels[..] {
            ["projects", project, "locations", _, "registries", _, "devices", _] => Some(project),
            _ => None,
        };
        let Some(project) = project.filter(|_| levels.iter().all(|level| !level.is_empty())) else {
            self.bad_name(
                "client_id",
                "projects/PROJECT/locations/REGION/registries/REGISTRY/devices/DEVICE",
            );
            return None;
        };
        let key = self.key("the device's private key: ${file:secrets/device.pem}", PrivateKey::from_pem)?;
        // It is not looked at, but 3.1.1 has no password without one.
        let username = self.written.username.clone().unwrap_or_else(|| "unused".into());
        tls.then_some((Account::Google { project: project.into(), key }, Some(username)))
    }

    fn aliyun(&self) -> Found {
        let names = self.written.username.as_deref().and_then(|name| name.split_once('&'));
        let Some((device, product)) = names.filter(|(device, product)| is_plain(device) && is_plain(product))
        else {
            self.bad_name("username", "DEVICE&PRODUCT_KEY");
            return None;
        };
        if self.written.client_id.contains(['|', ',']) {
            self.bad_name("client_id", "any name without `|` and `,`: what stands behind is added");
            return None;
        }
        let secret = self.key("the device secret: ${file:secrets/plant-7.secret}", |text| {
            Ok(SharedKey::from_text(text))
        })?;
        let tls = self.written.urls.first().is_some_and(|url| url.tls);
        let account = Account::Aliyun { product: product.into(), device: device.into(), secret, tls };
        Some((account, self.written.username.clone()))
    }

    fn onenet(&self) -> Found {
        let Some(product) = self.written.username.clone().filter(|product| is_plain(product)) else {
            self.bad_name("username", "the product's id");
            return None;
        };
        if !is_plain(&self.written.client_id) {
            self.bad_name("client_id", "the device's name");
            return None;
        }
        let key = self.key("the device's access key: ${file:secrets/plant-7.key}", SharedKey::from_base64)?;
        let device = self.written.client_id.clone();
        Some((Account::OneNet { product: product.clone(), device, key }, Some(product)))
    }

    fn tencent(&self) -> Found {
        if self.written.username.is_some() {
            let why = "its user name is made anew for each connection";
            self.refuse("username", ProviderProblem::Unused { provider: self.provider.name(), why });
            return None;
        }
        let split = self.written.client_id.split_at_checked(TENCENT_PRODUCT_CHARS);
        let Some((product, device)) = split.filter(|(product, device)| is_plain(product) && is_plain(device))
        else {
            self.bad_name(
                "client_id",
                "the product's id, which has 10 characters, and the device's name: 1A17RZR3XXplant-7",
            );
            return None;
        };
        let key = self.key("the device's key: ${file:secrets/plant-7.key}", SharedKey::from_base64)?;
        Some((Account::Tencent { product: product.into(), device: device.into(), key }, None))
    }
}

/// Whether it can be a level of a topic.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '+', '#', '&', ';', '\0'])
}

/// It is another than the cloud speaks.
pub(super) fn refuse_version(field: &Field<'_>, provider: Provider) {
    field.fault(Problem::Provider(ProviderProblem::Version { provider: provider.name() }));
}
