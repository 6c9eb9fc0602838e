//! What a machine or a key may do, and for whom: sets of permissions and of organizations.

use std::fmt;
use std::sync::Arc;

/// The name of a permission, `sensors:read`: 1 to 64 of `a-z 0-9 : _ . -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermissionName(Arc<str>);

/// The built-in permission that stands for all others.
pub const ADMIN: &str = "admin";

impl PermissionName {
    pub fn parse(text: &str) -> Option<PermissionName> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":_.-".contains(&b);
        ((1..=64).contains(&text.len()) && text.bytes().all(good)).then(|| PermissionName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PermissionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of permissions: the sorted names in one string, separated by spaces as in an OAuth scope (RFC 6749
/// section 3.3). One allocation, which matters when a million keys are in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionSet(Box<str>);

impl PermissionSet {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|name| !name.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set grants `name`: it holds it, or it holds `admin`.
    pub fn grants(&self, name: &PermissionName) -> bool {
        self.names().any(|held| held == name.as_str() || held == ADMIN)
    }

    /// What is left of `all` (every permission the settings name) in both sets, `admin` expanded first.
    pub fn intersect<'a>(&self, other: Option<&PermissionSet>, all: impl Iterator<Item = &'a PermissionName>) -> PermissionSet {
        all.filter(|name| self.grants(name) && other.is_none_or(|o| o.grants(name))).cloned().collect()
    }
}

impl FromIterator<PermissionName> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = PermissionName>>(names: I) -> Self {
        let mut names: Vec<PermissionName> = names.into_iter().collect();
        names.sort();
        names.dedup();
        let joined = names.iter().map(PermissionName::as_str).collect::<Vec<_>>().join(" ");
        PermissionSet(joined.into())
    }
}

/// The organizations somebody is restricted to. Ids are compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organizations(Box<[Box<str>]>);

impl Organizations {
    pub fn contains(&self, id: &[u8]) -> bool {
        self.0.iter().any(|held| held.as_bytes() == id)
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|id| &**id)
    }
}

impl FromIterator<String> for Organizations {
    fn from_iter<I: IntoIterator<Item = String>>(ids: I) -> Self {
        let mut ids: Vec<Box<str>> = ids.into_iter().map(String::into_boxed_str).collect();
        ids.sort();
        ids.dedup();
        Organizations(ids.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> PermissionSet {
        names.iter().map(|n| PermissionName::parse(n).unwrap()).collect()
    }

    #[test]
    fn admin_expands_before_anything_is_intersected() {
        let all = ["a:read", "b:write", "c"].map(|n| PermissionName::parse(n).unwrap());
        let cases: [(&[&str], Option<&[&str]>, &[&str]); 6] = [
            (&["a:read"], None, &["a:read"]),
            (&["admin"], None, &["a:read", "b:write", "c"]),
            (&["admin"], Some(&["c"]), &["c"]),
            (&["a:read", "c"], Some(&["admin"]), &["a:read", "c"]),
            (&["a:read"], Some(&["b:write"]), &[]),
            (&["a:read"], Some(&[]), &[]),
        ];
        for (machine, key, effective) in cases {
            let key = key.map(set);
            assert_eq!(set(machine).intersect(key.as_ref(), all.iter()), set(effective), "{machine:?} ∩ {key:?}");
        }
    }

    #[test]
    fn a_name_is_never_matched_by_its_beginning() {
        let read = PermissionName::parse("a:read").unwrap();
        assert!(!set(&["a:read2", "a"]).grants(&read));
        assert!(PermissionName::parse("a b").is_none() && PermissionName::parse("").is_none());
    }
}
