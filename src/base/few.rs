//! A map for places that mostly hold one entry or none, of which there are very many: one entry takes no memory beside
//! the map itself. Knows nothing of what it holds.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Sorted, like the `BTreeMap` that it becomes with a second entry.
#[derive(Debug)]
pub struct Few<K, V>(Held<K, V>);

#[derive(Debug)]
enum Held<K, V> {
    None,
    One(K, V),
    Many(BTreeMap<K, V>),
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Held::None)
    }
}

impl<K: Ord, V> Few<K, V> {
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::None => 0,
            Held::One(..) => 1,
            Held::Many(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match &self.0 {
            Held::One(held, value) if held.borrow() == key => Some(value),
            Held::None | Held::One(..) => None,
            Held::Many(map) => map.get(key),
        }
    }

    /// What stood there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Held::Many(map) = &mut self.0 {
            return map.insert(key, value);
        }
        match std::mem::replace(&mut self.0, Held::None) {
            Held::One(held, old) if held != key => {
                self.0 = Held::Many(BTreeMap::from([(held, old), (key, value)]));
                None
            }
            Held::One(held, old) => {
                self.0 = Held::One(held, value);
                Some(old)
            }
            Held::None | Held::Many(_) => {
                self.0 = Held::One(key, value);
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Held::Many(map) = &mut self.0 {
            let removed = map.remove(key);
            if map.len() == 1
                && let Some((key, value)) = map.pop_first()
            {
                self.0 = Held::One(key, value);
            }
            return removed;
        }
        self.get(key)?;
        match std::mem::replace(&mut self.0, Held::None) {
            Held::One(_, value) => Some(value),
            Held::None | Held::Many(_) => None,
        }
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (one, many) = match &self.0 {
            Held::None => (None, None),
            Held::One(key, value) => (Some((key, value)), None),
            Held::Many(map) => (None, Some(map.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

impl<K, V> IntoIterator for Few<K, V> {
    type Item = (K, V);
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<(K, V)>, std::collections::btree_map::IntoIter<K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self.0 {
            Held::None => (None, BTreeMap::new()),
            Held::One(key, value) => (Some((key, value)), BTreeMap::new()),
            Held::Many(map) => (None, map),
        };
        one.into_iter().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Few;

    #[test]
    fn it_does_what_a_map_does() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut few, mut map) = (Few::default(), BTreeMap::new());
        for step in 0..2000 {
            let key = random.u8(..4);
            if random.bool() {
                assert_eq!(few.insert(key, step), map.insert(key, step));
            } else {
                assert_eq!(few.remove(&key), map.remove(&key));
            }
            assert_eq!((few.len(), few.is_empty()), (map.len(), map.is_empty()));
            assert!(few.iter().eq(&map), "{few:?} is not {map:?}");
            assert!(few.keys().eq(map.keys()));
            assert!((0..4).all(|key| few.get(&key) == map.get(&key)));
        }
        assert!(few.into_iter().eq(map));
    }
}
