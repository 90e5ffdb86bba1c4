//! What is wrong with the disk at the moment, for whoever shows it or acts on it, and whether it is to be said
//! again. Never touches a file.

use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::base::time::Duration;
use crate::store::error::StoreError;

/// A disk that fails now and then is reported so often at most, for each kind of failure.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The disk does not take what it is given, or lives on its reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The last refusal.
    pub error: StoreError,
    /// When the first one came.
    pub since: Instant,
}

/// Shared by the writer's thread and whoever asks.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Trouble>>);

impl Health {
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fail(&self, error: &StoreError) {
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
        *trouble = Some(Trouble { error: error.clone(), since });
    }

    pub(super) fn recover(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What was reported and when; one a kind of error at most.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(Discriminant<StoreError>, Instant)>);

impl Told {
    /// Whether the error is to be reported now. Damage always is: it ends the gateway.
    pub(super) fn is_news(&mut self, error: &StoreError) -> bool {
        let (kind, now) = (discriminant(error), Instant::now());
        let known = self.0.iter_mut().find(|(told, _)| *told == kind);
        let Some((_, at)) = known else {
            self.0.push((kind, now));
            return true;
        };
        let is_news = *error == StoreError::Corrupt || now.duration_since(*at) >= TELL_INTERVAL;
        if is_news {
            *at = now;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, Told};
    use crate::store::error::StoreError;

    #[test]
    fn each_kind_is_told_once_and_damage_always() {
        let mut told = Told::default();
        let errors = [
            (StoreError::DiskFull, true),
            (StoreError::Io { code: 778 }, true),
            (StoreError::DiskFull, false),
            (StoreError::Io { code: 1034 }, false),
            (StoreError::Corrupt, true),
            (StoreError::Corrupt, true),
        ];
        for (error, is_news) in errors {
            assert_eq!(told.is_news(&error), is_news, "{error}");
        }
    }

    #[test]
    fn trouble_keeps_its_beginning_and_shows_its_last_refusal() {
        let health = Health::default();
        health.fail(&StoreError::Io { code: 778 });
        let first = health.trouble().map(|trouble| trouble.since);
        health.fail(&StoreError::ReadOnly);
        assert_eq!(health.trouble().map(|trouble| trouble.since), first);
        assert_eq!(health.trouble().map(|trouble| trouble.error), Some(StoreError::ReadOnly));
        health.recover();
        assert_eq!(health.trouble(), None);
    }
}
