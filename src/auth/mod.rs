//! Who somebody is: password files, tokens, and what keeps guessing slow. Verifies what it is given, with the time
//! as an argument; never opens a socket, waits, or says what anybody may do.

pub mod cache;
pub mod key;
pub mod password;
pub mod passwords;
pub mod signer;
pub mod slowdown;
pub mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::auth::passwords::Passwords;
use crate::auth::token::Tokens;
use crate::base::time::Timestamp;

/// Who a client turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub proof: Proof,
    /// When it ends, by the wall clock. None: never.
    pub until: Option<Timestamp>,
}

/// How somebody proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Password,
    Token,
    Certificate,
}

/// Why a login failed. Clients are told no more than that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown user, wrong password, or a token that is not good.
    Wrong,
    /// Too many wait to be checked.
    Busy,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrong => "its user name, password or token is wrong",
            Self::Busy => "too many logins wait to be checked",
        })
    }
}

impl std::error::Error for Refusal {}

/// What logins are held against. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub passwords: Option<Arc<Passwords>>,
    pub tokens: Option<Arc<Tokens>>,
}

impl Credentials {
    /// Whether nobody can be known.
    pub fn is_empty(&self) -> bool {
        self.passwords.is_none() && self.tokens.is_none()
    }

    /// What these vouched for and the newer ones do not.
    pub fn revoked_by(&self, newer: &Credentials) -> Revoked {
        let users = self.passwords.as_ref().map(|old| old.lost_in(newer.passwords.as_deref()));
        let tokens = self.tokens.is_some() && self.tokens != newer.tokens;
        Revoked { users: users.unwrap_or_default(), tokens }
    }

    /// Whether this would be checked as a token.
    pub fn takes_as_token(&self, password: &[u8]) -> bool {
        self.tokens.is_some() && token::looks_like_one(password).is_some()
    }

    /// Checks one login. Takes as long as a password hash takes: not for a thread that others wait for. A token
    /// brings its own user; the name beside it says nothing.
    pub fn check(
        &self,
        username: Option<&str>,
        password: &[u8],
        now: Timestamp,
    ) -> Result<Identity, Refusal> {
        if let Some(tokens) = &self.tokens
            && let Some(parts) = token::looks_like_one(password)
        {
            return tokens.check(&parts, now).map_err(|error| {
                // What is wrong with it, never the token.
                tracing::debug!(%error, "a token was refused");
                Refusal::Wrong
            });
        }
        let (Some(passwords), Some(user)) = (&self.passwords, username) else { return Err(Refusal::Wrong) };
        if passwords.check(user, password) {
            Ok(Identity { user: user.into(), proof: Proof::Password, until: None })
        } else {
            Err(Refusal::Wrong)
        }
    }
}

/// What counts no more since credentials were replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revoked {
    /// Users that are gone, and those with another password.
    users: BTreeSet<Arc<str>>,
    /// Every token: the key is another one.
    tokens: bool,
}

impl Revoked {
    pub fn covers(&self, user: &str, proof: Proof) -> bool {
        match proof {
            Proof::Password => self.users.contains(user),
            Proof::Token => self.tokens,
            Proof::Certificate => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Credentials, Identity, Proof, Refusal};
    use crate::auth::passwords::Passwords;
    use crate::base::time::Timestamp;

    #[test]
    fn nobody_gets_in_where_nobody_is_known() {
        let now = Timestamp::from_millis(0);
        assert!(Credentials::default().is_empty());
        assert_eq!(Credentials::default().check(Some("ann"), b"secret", now), Err(Refusal::Wrong));
        let file = "ann:$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
        let passwords = Passwords::parse(file).expect("a good file");
        let credentials = Credentials { passwords: Some(Arc::new(passwords)), tokens: None };
        let ann = Identity { user: "ann".into(), proof: Proof::Password, until: None };
        assert_eq!(credentials.check(Some("ann"), b"secret", now), Ok(ann));
        for (user, password) in
            [(Some("ann"), &b"Secret"[..]), (Some("bob"), b"secret"), (None, b"secret"), (Some(""), b"")]
        {
            assert_eq!(credentials.check(user, password, now), Err(Refusal::Wrong), "{user:?}");
        }
    }
}
