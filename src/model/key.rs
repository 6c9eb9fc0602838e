//! A key: its status machine and what it narrows of its machine's rights.
//!
//! ```text
//! active ⇄ inactive   deactivate / reactivate: same value, permissions, history
//! active | inactive → revoked   final
//! expired             computed from `expires_at`, never stored
//! ```

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use super::ids::{KeyId, MachineId};
use super::permission::{Organizations, PermissionSet};
use super::secret::SecretHash;
use super::tier::TierName;
use super::time::Timestamp;

/// Where a key is used: 2 to 12 of `a-z 0-9`, `prod` by default. Part of the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Environment(Box<str>);

impl Environment {
    pub fn parse(text: &str) -> Option<Environment> {
        Environment::is_valid(text.as_bytes()).then(|| Environment(text.into()))
    }

    pub fn is_valid(text: &[u8]) -> bool {
        (2..=12).contains(&text.len()) && text.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Environment {
    fn default() -> Self {
        Environment("prod".into())
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an operator decided about a key. Expiry is not among it: it is a date, judged when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Inactive,
    Revoked,
}

/// What a key is at one moment, in the order in which it is shown and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    Revoked,
    Inactive,
    Expired,
    Active,
}

impl KeyStatus {
    pub fn of(state: KeyState, expires_at: Option<Timestamp>, now: Timestamp) -> KeyStatus {
        match state {
            KeyState::Revoked => KeyStatus::Revoked,
            KeyState::Inactive => KeyStatus::Inactive,
            KeyState::Active if expires_at.is_some_and(|at| at <= now) => KeyStatus::Expired,
            KeyState::Active => KeyStatus::Active,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            KeyStatus::Revoked => "revoked",
            KeyStatus::Inactive => "inactive",
            KeyStatus::Expired => "expired",
            KeyStatus::Active => "active",
        }
    }
}

/// A value that a regeneration replaced. It is remembered so that who still uses it is told so, and counts
/// as the key itself until its grace is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldValue {
    pub hash: SecretHash,
    pub hint: String,
    pub replaced_at: Timestamp,
    /// Equal to `replaced_at` when it died at once.
    pub counts_until: Timestamp,
}

impl OldValue {
    /// How long it must not have been used to be safe to end: a day, or half of its grace where that is shorter.
    pub fn quiet_time(&self) -> Duration {
        const DAY: Duration = Duration::from_secs(86_400);
        let grace = u64::try_from(self.counts_until.0.saturating_sub(self.replaced_at.0)).unwrap_or_default();
        DAY.min(Duration::from_millis(grace / 2))
    }

    /// Whether ending its grace would stop nobody, as far as can be told at `now`: the value that replaced it is in use, and this one was
    /// not used for its [quiet time](OldValue::quiet_time).
    pub fn is_safe_to_end(&self, last_used: Option<Timestamp>, successor_used: Option<Timestamp>, now: Timestamp) -> bool {
        let quiet_since = self.replaced_at.max(last_used.unwrap_or(self.replaced_at));
        successor_used.is_some() && quiet_since.plus(self.quiet_time()) <= now
    }
}

/// How many replaced values a key remembers; what is older is unknown to the gateway.
pub const OLD_VALUES: usize = 8;

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub id: KeyId,
    pub machine: MachineId,
    pub label: String,
    pub description: String,
    pub environment: Environment,
    /// `None` = the machine's; otherwise what is in both.
    pub permissions: Option<PermissionSet>,
    pub organizations: Option<Organizations>,
    /// `None` = counted in the machine's bucket together with its other keys; set = a bucket of its own.
    pub tier: Option<TierName>,
    /// `None` = from anywhere.
    pub allowed_ips: Option<Vec<IpNet>>,
    pub expires_at: Option<Timestamp>,
    pub state: KeyState,
    pub created_at: Timestamp,
    /// The actor who made it, as the journal names them.
    pub created_by: String,
    pub hash: SecretHash,
    /// The beginning and the last four characters of the value.
    pub hint: String,
    /// Newest first, at most [`OLD_VALUES`].
    pub old_values: Vec<OldValue>,
    /// When somebody last reactivated, regenerated or, once expired, revived it: idleness counts from there.
    pub renewed_at: Option<Timestamp>,
}

/// A revoked key stays revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedForGood;

impl Key {
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        KeyStatus::of(self.state, self.expires_at, now)
    }

    pub fn deactivate(&mut self) -> Result<(), RevokedForGood> {
        self.unless_revoked()?.state = KeyState::Inactive;
        Ok(())
    }

    pub fn reactivate(&mut self, now: Timestamp) -> Result<(), RevokedForGood> {
        let key = self.unless_revoked()?;
        if key.state == KeyState::Inactive {
            key.state = KeyState::Active;
            key.renewed_at = Some(now);
        }
        Ok(())
    }

    pub fn revoke(&mut self) {
        self.state = KeyState::Revoked;
    }

    /// Gives the key a new value. The one it had counts for `grace` more; one that was still in grace ends now.
    pub fn regenerate(&mut self, hash: SecretHash, hint: String, grace: Duration, now: Timestamp) -> Result<(), RevokedForGood> {
        let key = self.unless_revoked()?;
        for old in &mut key.old_values {
            old.counts_until = old.counts_until.min(now);
        }
        let old = OldValue {
            hash: std::mem::replace(&mut key.hash, hash),
            hint: std::mem::replace(&mut key.hint, hint),
            replaced_at: now,
            counts_until: now.plus(grace),
        };
        key.old_values.insert(0, old);
        key.old_values.truncate(OLD_VALUES);
        key.renewed_at = Some(now);
        Ok(())
    }

    /// Moves the date at which it expires. That can revive it.
    pub fn set_expiry(&mut self, expires_at: Option<Timestamp>, now: Timestamp) {
        let is_over = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if is_over(self.expires_at) && !is_over(expires_at) {
            self.renewed_at = Some(now);
        }
        self.expires_at = expires_at;
    }

    /// Ends the grace of a replaced value: from now on it is as one that died at once. A clock that is set back does not revive it.
    pub fn end_grace(&mut self) -> Result<(), RevokedForGood> {
        for old in &mut self.unless_revoked()?.old_values {
            old.counts_until = old.counts_until.min(old.replaced_at);
        }
        Ok(())
    }

    /// Since when nobody has used it or cared for it: the latest of created, last admitted call, reactivated, regenerated, revived.
    pub fn idle_since(&self, last_used: Option<Timestamp>) -> Timestamp {
        self.created_at.max(self.renewed_at.unwrap_or(self.created_at)).max(last_used.unwrap_or(self.created_at))
    }

    /// Whether it is one that idleness is about, and has been idle for `limit` at `now`. What is refused anyway is not idle.
    pub fn is_idle(&self, last_used: Option<Timestamp>, limit: Duration, now: Timestamp) -> bool {
        self.status(now) == KeyStatus::Active && self.idle_since(last_used).plus(limit) <= now
    }

    /// The hashes of its current value and the one in grace: those that can be let in.
    pub fn values(&self) -> impl Iterator<Item = &SecretHash> {
        std::iter::once(&self.hash).chain(self.in_grace().map(|old| &old.hash))
    }

    /// The replaced value that may still count, as long as the clock says: the newest, if it was given any grace. All others are over
    /// for good, whatever a clock that is set back says.
    pub fn in_grace(&self) -> Option<&OldValue> {
        self.old_values.first().filter(|old| old.counts_until > old.replaced_at)
    }

    /// Every edit but that of label and description passes through here.
    pub fn unless_revoked(&mut self) -> Result<&mut Key, RevokedForGood> {
        match self.state {
            KeyState::Revoked => Err(RevokedForGood),
            KeyState::Active | KeyState::Inactive => Ok(self),
        }
    }
}

/// Whether a label says too little to tell this key from the next one. A good one names environment, system
/// and version.
pub fn is_vague(label: &str) -> bool {
    /// Articles and the like, what every key is, where it may be used, and what is typed to get past a field: in French and English.
    #[rustfmt::skip]
    const EMPTY_WORDS: &[&str] = &[
        "a", "an", "the", "my", "our", "new", "old", "one", "first", "second", "for", "of", "other", "another", "some", "temporary",
        "d", "de", "du", "des", "l", "la", "le", "les", "ma", "mon", "mes", "notre", "nos", "nouveau", "nouvelle", "une", "un", "pour",
        "autre", "premiere", "première", "temporaire",
        "api", "cle", "clé", "cles", "clés", "clef", "clefs", "key", "keys", "token", "jeton", "secret", "valeur", "value", "app",
        "prod", "production", "dev", "test", "tests", "essai", "essais", "staging", "recette", "demo", "démo",
        "default", "defaut", "défaut", "par", "temp", "tmp", "foo", "bar", "baz", "xxx", "asdf", "abc", "qwerty", "azerty", "toto",
        "titi", "tata", "bla", "blah", "dummy", "sample", "example", "exemple", "testing", "tester",
        "main", "primary", "principal", "principale", "secondary", "secondaire", "seconde", "deuxieme", "deuxième", "third", "n", "nr", "no",
        "last", "derniere", "dernière", "dernier", "final", "finale", "ancien", "ancienne", "vieux", "vieille", "general", "général",
        "générale", "generic", "générique", "generique", "copy", "copie", "backup", "provisoire", "provisional", "this", "cette",
        "truc", "trucs", "machin", "bidule", "chose", "thing", "things", "stuff", "misc", "miscellaneous", "various", "whatever",
        "divers", "diverse", "diverses", "autres", "others",
        "à", "supprimer", "effacer", "jeter", "to", "be", "delete", "deleted", "remove", "removed", "todo",
        "sans", "nom", "titre", "name", "unnamed", "untitled", "noname", "nameless", "inconnu", "inconnue", "unknown", "none",
    ];
    /// Of a word with a number at its end, this much must be left without it: `tmp2` is a `tmp`, `d365` is a product.
    const STEM: usize = 3;
    let number = |word: &str| word.strip_prefix('v').unwrap_or(word).chars().all(|c| c.is_ascii_digit());
    let lower = label.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    let numbered = |word: &str| {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        stem.len() >= STEM && EMPTY_WORDS.contains(&stem)
    };
    words.all(|word| EMPTY_WORDS.contains(&word) || number(word) || numbered(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            id: KeyId::from_u128(1),
            machine: MachineId::from_u128(2),
            label: "Production - Facturation v2".into(),
            description: String::new(),
            environment: Environment::default(),
            permissions: None,
            organizations: None,
            tier: None,
            allowed_ips: None,
            expires_at: None,
            state: KeyState::Active,
            created_at: Timestamp(0),
            created_by: "socket:root".into(),
            hash: SecretHash([1; 32]),
            hint: "pk_prod_…aaaa".into(),
            old_values: Vec::new(),
            renewed_at: None,
        }
    }

    #[test]
    fn status_is_judged_in_the_published_order() {
        use KeyState::*;
        let (past, future) = (Some(Timestamp(5)), Some(Timestamp(15)));
        let cases = [
            (Active, None, KeyStatus::Active),
            (Active, future, KeyStatus::Active),
            (Active, Some(Timestamp(10)), KeyStatus::Expired),
            (Active, past, KeyStatus::Expired),
            (Inactive, past, KeyStatus::Inactive),
            (Revoked, past, KeyStatus::Revoked),
            (Revoked, None, KeyStatus::Revoked),
        ];
        for (state, expires_at, expected) in cases {
            assert_eq!(KeyStatus::of(state, expires_at, Timestamp(10)), expected, "{state:?} {expires_at:?}");
        }
    }

    #[test]
    fn revoked_is_final_and_changes_are_idempotent() {
        let mut k = key();
        k.deactivate().unwrap();
        k.deactivate().unwrap();
        assert_eq!(k.state, KeyState::Inactive);
        k.reactivate(Timestamp(7)).unwrap();
        k.reactivate(Timestamp(9)).unwrap();
        assert_eq!((k.state, k.renewed_at), (KeyState::Active, Some(Timestamp(7))));
        k.revoke();
        k.revoke();
        assert_eq!(k.reactivate(Timestamp(9)), Err(RevokedForGood));
        assert_eq!(k.deactivate(), Err(RevokedForGood));
        assert_eq!(k.regenerate(SecretHash([2; 32]), String::new(), Duration::ZERO, Timestamp(9)), Err(RevokedForGood));
        assert_eq!(k.hash, SecretHash([1; 32]));
    }

    #[test]
    fn regenerating_in_grace_ends_the_oldest_value() {
        let mut k = key();
        k.deactivate().unwrap();
        k.regenerate(SecretHash([2; 32]), "b".into(), Duration::from_secs(3600), Timestamp(1_000)).unwrap();
        assert_eq!(k.old_values[0].counts_until, Timestamp(3_601_000));
        assert_eq!(k.state, KeyState::Inactive, "regenerating keeps the status");
        k.regenerate(SecretHash([3; 32]), "c".into(), Duration::from_secs(60), Timestamp(2_000)).unwrap();
        assert_eq!(k.old_values[0].counts_until, Timestamp(62_000));
        assert_eq!((k.old_values[1].hash, k.old_values[1].counts_until), (SecretHash([1; 32]), Timestamp(2_000)));
        for n in 4..40 {
            k.regenerate(SecretHash([n; 32]), "x".into(), Duration::ZERO, Timestamp(3_000)).unwrap();
        }
        assert_eq!(k.old_values.len(), OLD_VALUES);
    }

    #[test]
    fn an_ended_grace_is_over_for_good() {
        let mut k = key();
        k.end_grace().unwrap();
        k.regenerate(SecretHash([2; 32]), "b".into(), Duration::from_secs(3600), Timestamp(1_000)).unwrap();
        assert!(k.in_grace().is_some());
        k.end_grace().unwrap();
        assert_eq!((k.in_grace(), k.old_values[0].counts_until), (None, Timestamp(1_000)));
        let once = k.clone();
        k.end_grace().unwrap();
        assert_eq!(k, once);
        k.revoke();
        assert_eq!(k.end_grace(), Err(RevokedForGood));
    }

    #[test]
    fn an_old_value_is_safe_to_end_when_it_was_quiet_and_the_new_one_is_in_use() {
        const HOUR: i64 = 3_600_000;
        let old = |grace: i64| OldValue {
            hash: SecretHash([1; 32]),
            hint: "a".into(),
            replaced_at: Timestamp(0),
            counts_until: Timestamp(grace),
        };
        let cases = [
            (168 * HOUR, None, Some(HOUR), 24 * HOUR, true),
            (168 * HOUR, None, Some(HOUR), 24 * HOUR - 1, false),
            (168 * HOUR, None, None, 100 * HOUR, false),
            (168 * HOUR, Some(30 * HOUR), Some(HOUR), 53 * HOUR, false),
            (168 * HOUR, Some(30 * HOUR), Some(HOUR), 54 * HOUR, true),
            (168 * HOUR, Some(-30 * HOUR), Some(HOUR), 24 * HOUR, true),
            (2 * HOUR, None, Some(1), HOUR, true),
            (2 * HOUR, Some(HOUR / 2), Some(1), HOUR, false),
        ];
        for (grace, used, successor, now, safe) in cases {
            let (used, successor) = (used.map(Timestamp), successor.map(Timestamp));
            assert_eq!(old(grace).is_safe_to_end(used, successor, Timestamp(now)), safe, "{grace} {used:?} {successor:?} {now}");
        }
    }

    #[test]
    fn idleness_counts_from_the_latest_sign_of_life() {
        let limit = Duration::from_millis(100);
        let at = |k: &Key, used: Option<i64>, now: i64| k.is_idle(used.map(Timestamp), limit, Timestamp(now));
        let mut k = key();
        assert!(!at(&k, None, 99) && at(&k, None, 100));
        assert!(!at(&k, Some(50), 149) && at(&k, Some(50), 150));
        k.deactivate().unwrap();
        assert!(!at(&k, None, 1_000), "it is refused already");
        k.reactivate(Timestamp(500)).unwrap();
        assert!(!at(&k, Some(50), 599) && at(&k, Some(50), 600), "reactivating gives a fresh period");
        k.regenerate(SecretHash([2; 32]), "b".into(), Duration::ZERO, Timestamp(700)).unwrap();
        assert_eq!(k.idle_since(Some(Timestamp(50))), Timestamp(700));
        k.set_expiry(Some(Timestamp(900)), Timestamp(800));
        assert!(!at(&k, None, 1_000), "it is refused already");
        k.set_expiry(Some(Timestamp(950)), Timestamp(1_000));
        assert_eq!(k.renewed_at, Some(Timestamp(700)), "another date that is over revives nothing");
        for date in [Some(Timestamp(9_000)), None] {
            let mut k = k.clone();
            k.set_expiry(date, Timestamp(1_000));
            assert!(!at(&k, None, 1_099) && at(&k, None, 1_100), "reviving gives a fresh period");
            k.set_expiry(Some(Timestamp(8_000)), Timestamp(1_050));
            assert_eq!(k.renewed_at, Some(Timestamp(1_000)), "moving a date ahead of time is no sign of life");
        }
    }

    #[test]
    fn vague_labels_are_recognised() {
        let vague = [
            "Clé 1",
            "Ma clé",
            "Test",
            "API",
            "my key",
            "key-2",
            "  ",
            "API key 3",
            "nouvelle clé",
            "PROD",
            "Cle API",
            "clef 2",
            "Jeton de test",
            "new token",
            "essai",
            "tmp",
            "v2",
            "Clé de production",
            "demo",
            "production key v3",
            "xxx",
            "clé d'API",
            "asdf",
            "tmp2",
            "temp2",
            "truc",
            "machin",
            "Machin 3",
            "divers",
            "provisoire",
            "backup",
            "Clé principale",
            "Main key",
            "key for testing",
            "à supprimer",
            "A SUPPRIMER",
            "to delete",
            "sans nom",
            "no name",
            "unnamed key",
            "test key 2",
            "nouvelle clé",
            "clé de test",
            "Clé n° 2",
            "key1",
            "test-key-3",
            "ancienne clé de prod",
            "second API token",
            "stuff",
            "toto",
        ];
        for vague in vague {
            assert!(is_vague(vague), "{vague}");
        }
        let good = [
            "Production - Facturation",
            "Production - Facturation v2",
            "prod billing",
            "prod billing v2",
            "staging ETL backup job",
            "Clé du portail fournisseurs",
            "staging/ETL",
            "計費 v2",
            "SAP",
            "Demo shop",
            "D365 prod",
            "S3 backup",
            "test bench 7",
            "Sauvegarde nocturne - prod",
            "Machine à café",
            "billing main",
            "Tmpl renderer",
            "prod - divers services comptables",
        ];
        for good in good {
            assert!(!is_vague(good), "{good}");
        }
    }
}
