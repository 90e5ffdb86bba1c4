//! Who may look: one user with a password, over HTTP Basic (RFC 7617). Passwords are hashed on a thread aside, one at
//! a time; failures are answered late. Keeps no password.

use std::sync::{Arc, Mutex};

use axum::http::HeaderValue;
use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::auth::cache::Cache;
use crate::auth::password::{HashNotMade, PasswordHash};
use crate::auth::slowdown::{Slowdown, source_of};
use crate::base::address::Address;
use crate::base::lock::lock;
use crate::base::time::Clock;

/// Logins that are checked or wait for their answer; beyond it one is told to come again.
const LOGINS_MAX: usize = 64;
/// A hash takes a core and 19 MiB, which others need more.
const HASHES_AT_ONCE_MAX: usize = 1;
/// Of the header: a user and a password of any sane length.
const CREDENTIALS_BYTES_MAX: usize = 1024;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No user or password, or wrong ones.
    Unknown,
    /// Too many wait to be checked.
    Busy,
}

pub struct Login {
    user: Arc<str>,
    hash: PasswordHash,
    clock: Clock,
    cache: Mutex<Cache>,
    slowdown: Mutex<Slowdown>,
    places: Arc<Semaphore>,
    hashing: Semaphore,
}

impl Login {
    pub fn new(user: Arc<str>, hash: PasswordHash, clock: Clock) -> Result<Arc<Self>, HashNotMade> {
        Ok(Arc::new(Self {
            user,
            hash,
            clock,
            cache: Mutex::new(Cache::new()?),
            slowdown: Mutex::default(),
            places: Arc::new(Semaphore::new(LOGINS_MAX)),
            hashing: Semaphore::new(HASHES_AT_ONCE_MAX),
        }))
    }

    /// `header` is `Authorization`. Returns at once for who was right a moment ago.
    pub async fn check(self: &Arc<Self>, header: Option<&HeaderValue>, from: Address) -> Result<(), Denied> {
        let (user, password) = header.and_then(credentials_of).ok_or(Denied::Unknown)?;
        if lock(&self.cache).knows(&user, &password, self.clock.now().instant) {
            return Ok(());
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Denied::Busy)?;
        let login = self.clone();
        // A task of its own: who hangs up must not escape the wait that a failure costs.
        let checked = tokio::spawn(async move {
            let _place = place;
            login.check_slowly(user, password, from).await
        });
        checked.await.unwrap_or(Err(Denied::Busy))
    }

    async fn check_slowly(
        self: Arc<Self>,
        user: String,
        password: Vec<u8>,
        from: Address,
    ) -> Result<(), Denied> {
        let source = source_of(from.0);
        if !lock(&self.slowdown).begin(source, self.clock.now().instant) {
            return Err(Denied::Busy);
        }
        let is_right = self.verify(&user, password.clone()).await;
        lock(&self.slowdown).end(source);
        let now = self.clock.now().instant;
        if is_right {
            lock(&self.cache).remember(&user, &password, now);
            return Ok(());
        }
        tracing::warn!(address = %from, "a login to the dashboard failed");
        let delay = lock(&self.slowdown).handle_failure(source, now);
        tokio::time::sleep(delay).await;
        lock(&self.slowdown).release(source);
        Err(Denied::Unknown)
    }

    /// Takes as long for an unknown user as for a known one.
    async fn verify(self: &Arc<Self>, user: &str, password: Vec<u8>) -> bool {
        let is_user = bool::from(user.as_bytes().ct_eq(self.user.as_bytes()));
        let Ok(_turn) = self.hashing.acquire().await else { return false };
        let login = self.clone();
        let is_password = spawn_blocking(move || login.hash.verify(&password)).await.unwrap_or(false);
        is_user & is_password
    }
}

/// User and password: `Basic `, and base64 of both with a colon between.
fn credentials_of(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let mut user = Base64::decode_vec(encoded.trim()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((String::from_utf8(user).ok()?, password))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use base64ct::{Base64, Encoding};

    use super::{CREDENTIALS_BYTES_MAX, credentials_of};

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them() {
        let basic = |scheme: &str, pair: &[u8]| format!("{scheme} {}", Base64::encode_string(pair));
        let cases = [
            (basic("Basic", b"admin:s3cret"), Some(("admin", &b"s3cret"[..]))),
            (basic("basic", b"admin:a:b"), Some(("admin", b"a:b"))),
            (basic("Basic", b":"), Some(("", b""))),
            (basic("Basic", b"admin"), None),
            (basic("Bearer", b"admin:s3cret"), None),
            (basic("Basic", b"\xff:x"), None),
            ("Basic !".to_owned(), None),
            ("Basic".to_owned(), None),
            (basic("Basic", &[b':'; CREDENTIALS_BYTES_MAX]), None),
        ];
        for (text, expected) in cases {
            let read = credentials_of(&HeaderValue::from_str(&text).expect("a header"));
            let read = read.as_ref().map(|(user, password)| (user.as_str(), password.as_slice()));
            assert_eq!(read, expected, "{text}");
        }
    }
}
