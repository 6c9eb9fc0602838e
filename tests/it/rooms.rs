//! The rooms of the code and what each may use: kept here as a table, and held against every file in `src/`.
//!
//! Paths are read from the text, tests left out, so each use of another room is written `crate::room::…`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use of the others, as the map in `src/lib.rs` says it. `room::Item` means that item alone.
const ROOMS: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("clock", &["model"]),
    ("config", &["model", "clock"]),
    ("store", &["model", "clock"]),
    ("telemetry", &["model", "clock"]),
    // An entry carries the bucket its calls are charged to.
    ("registry", &["model", "clock", "store", "telemetry", "limits::Bucket"]),
    ("limits", &["model", "clock", "telemetry"]),
    ("usage", &["model", "clock", "telemetry"]),
    ("gate", &["model", "clock", "config", "registry", "limits"]),
    ("server", &["model", "clock"]),
    // What was charged is told in the answer's RateLimit fields.
    ("proxy", &["model", "clock", "config", "gate", "registry", "usage", "telemetry", "server", "limits::Charged"]),
    ("admin", &["model", "clock", "config", "gate", "registry", "limits", "usage", "telemetry", "store"]),
    ("cli", &["model", "clock", "config", "admin::wire", "app"]),
    ("app", &["*"]),
];

/// Crates that only some places may name. A place is a room or a file below `src/`.
const CRATES: [(&str, &[&str]); 12] = [
    ("sled", &["store/mirror.rs"]),
    ("prometheus", &["telemetry"]),
    // The registry waits for its writer; the gate waits for nothing and opens no socket.
    ("tokio", &["server", "proxy", "admin", "cli", "app", "registry"]),
    ("hyper", &["server", "proxy", "admin", "cli", "app"]),
    ("hyper_util", &["server", "proxy", "admin", "cli", "app"]),
    ("http_body_util", &["server", "proxy", "admin", "cli", "app"]),
    ("http_body", &["server", "proxy", "admin", "cli", "app"]),
    ("axum", &["admin"]),
    ("rustls", &["admin/tls.rs", "cli/client/tls.rs"]),
    ("tokio_rustls", &["admin/tls.rs", "admin/listen.rs", "cli/client/tls.rs"]),
    ("governor", &["limits"]),
    ("clap", &["cli"]),
];

/// The model is values and rules: these crates and no others.
const MODEL_CRATES: [&str; 7] = ["http", "jiff", "ipnet", "crc32fast", "zeroize", "sha2", "thiserror"];

/// Where a clock is looked at.
const CLOCK: &str = "clock.rs";

#[test]
fn every_room_uses_only_what_the_table_allows() {
    let wrong = violations(|source| {
        let Some((room, allowed)) = ROOMS.iter().find(|(room, _)| *room == source.room) else {
            return vec![format!("the room \"{}\" is not in the table", source.room)];
        };
        source.rooms_used().into_iter().filter(|used| !allows(room, allowed, used)).map(|used| format!("uses crate::{used}")).collect()
    });
    assert_eq!(wrong, "");
}

/// Every path to another room begins with `crate::` and stands alone: what the table is held against leaves nothing out.
#[test]
fn no_path_to_another_room_is_hidden() {
    let wrong = violations(|source| {
        let hidden = ["crate::{", "crate::*", "use crate as"].into_iter().filter(|way| source.code.contains(way)).map(String::from);
        let to_the_root = "super::".repeat(source.depth());
        let above = source.code.contains(&to_the_root).then(|| format!("{to_the_root} leads out of the room"));
        hidden.chain(above).collect()
    });
    assert_eq!(wrong, "");
}

#[test]
fn crates_are_named_only_where_they_belong() {
    let wrong = violations(|source| {
        let used = source.crates_used();
        let misplaced = CRATES.iter().filter(|(name, places)| used.contains(*name) && !source.is_in(places));
        misplaced.map(|(name, places)| format!("names {name}, which belongs to {}", places.join(", "))).collect()
    });
    assert_eq!(wrong, "");
}

#[test]
fn the_model_knows_no_runtime_no_store_and_no_format() {
    let wrong = violations(|source| {
        let used = if source.room == "model" { source.crates_used() } else { BTreeSet::new() };
        used.into_iter().filter(|name| !MODEL_CRATES.contains(&name.as_str())).map(|name| format!("names {name}")).collect()
    });
    assert_eq!(wrong, "");
}

#[test]
fn only_the_clock_looks_at_a_clock() {
    let looks = ["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now", "UNIX_EPOCH.elapsed"];
    let wrong = violations(|source| {
        let here = looks.iter().filter(|look| source.file != CLOCK && source.code.contains(*look));
        here.map(|look| format!("asks {look}")).collect()
    });
    assert_eq!(wrong, "");
}

/// A table that allows what nobody can use would be read as a fact.
#[test]
fn the_table_names_what_exists() {
    let sources = sources();
    let rooms: BTreeSet<&str> = sources.iter().map(|source| source.room.as_str()).collect();
    let named: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms, named);
    let dependencies = dependencies();
    for name in CRATES.iter().map(|(name, _)| *name).chain(MODEL_CRATES) {
        assert!(dependencies.contains(name), "{name} is no dependency");
    }
    for (name, places) in CRATES {
        let used = |place: &str| sources.iter().any(|source| source.is_in(&[place]) && source.crates_used().contains(name));
        assert!(places.iter().any(|place| used(place)), "{name} is used nowhere");
    }
}

#[test]
fn what_is_read_is_the_code_and_nothing_else() {
    let text = r##"//! About sled::Db.
use crate::model::{KeyId, Tick}; // not crate::store
const A: &str = "crate::admin // \" sled::open";
const B: &str = r#"crate::proxy " hyper::x"#;
const C: [char; 3] = ['"', '\'', '/'];
fn f<'a>(x: &'a str) -> crate::clock::Clock { /* crate::app */ my_sled::x(self.sled::y); ::hyper::z() }
#[cfg(test)]
fn aid() { if true { crate::server::x() } }
fn g() { crate::limits::Bucket::new() }
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests {
    use crate::usage::Usage;
}
"##;
    let source = Source::new("gate/permit.rs", text);
    let words = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(words(source.rooms_used()), "clock::Clock limits::Bucket model::KeyId model::Tick");
    assert_eq!(words(source.crates_used()), "hyper");
    assert_eq!((source.room.as_str(), source.depth()), ("gate", 2));
    assert!(source.is_in(&["gate"]) && source.is_in(&["gate/permit.rs"]) && !source.is_in(&["gate/route.rs"]));
}

fn allows(room: &str, allowed: &[&str], used: &str) -> bool {
    let of_room = used.split("::").next().unwrap_or(used);
    of_room == room || allowed.iter().any(|a| *a == "*" || *a == of_room || used == *a || used.starts_with(&format!("{a}::")))
}

/// What `judge` finds in each file, one line for each finding.
fn violations(judge: impl Fn(&Source) -> Vec<String>) -> String {
    let found = |source: &Source| judge(source).into_iter().map(|what| format!("src/{} {what}\n", source.file)).collect::<String>();
    sources().iter().map(found).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code of every room. `lib.rs` and `main.rs` are in none.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let read = |path: &PathBuf| Source::new(path.strip_prefix(&src).unwrap().to_str().unwrap(), &fs::read_to_string(path).unwrap());
    let sources: Vec<Source> = files.iter().map(read).filter(|source| !matches!(source.file.as_str(), "lib.rs" | "main.rs")).collect();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

/// All files but tests: what a test uses, the room need not know.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    section.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().replace('-', "_")).collect()
}

/// One file, without comments, texts and tests.
struct Source {
    /// Below `src/`.
    file: String,
    room: String,
    code: String,
}

impl Source {
    fn new(file: &str, text: &str) -> Source {
        let room = file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        Source { file: file.to_owned(), room, code: without_tests(&without_texts(text)) }
    }

    /// How many `super` lead from this file's module to the crate's root.
    fn depth(&self) -> usize {
        self.file.split('/').count()
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| *place == self.room || *place == self.file)
    }

    /// What follows each `crate::`: the room, and the item where one alone is named.
    fn rooms_used(&self) -> BTreeSet<String> {
        let path = |rest: &str| {
            let end = rest.find(|c: char| !is_word(c) && c != ':').unwrap_or(rest.len());
            let (path, group) = (&rest[..end], rest[end..].starts_with('{'));
            let items: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
            if group { grouped(&items, &rest[end + 1..]) } else { vec![items[..items.len().min(2)].join("::")] }
        };
        self.code.split("crate::").skip(1).filter(|rest| rest.starts_with(is_word)).flat_map(path).collect()
    }

    /// The dependencies whose names begin a path.
    fn crates_used(&self) -> BTreeSet<String> {
        let starts = |name: &str| {
            self.code.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = &self.code[..at];
                let absolute = before.ends_with("::") && !before.trim_end_matches("::").ends_with(|c| is_word(c) || c == '>');
                absolute || !before.ends_with(|c| is_word(c) || c == ':' || c == '.')
            })
        };
        dependencies().into_iter().filter(|name| starts(name)).collect()
    }
}

/// `room::{A, B}` names `room::A` and `room::B`; `room::part::{…}` names `room::part`.
fn grouped(path: &[&str], rest: &str) -> Vec<String> {
    if path.len() > 1 {
        return vec![path[..2].join("::")];
    }
    let group = rest.split("};").next().unwrap_or(rest);
    let items = group.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
    items.map(|item| format!("{}::{item}", path[0])).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Comments and the insides of strings become nothing.
fn without_texts(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_end(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !code.ends_with(is_word)) {
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        rest = &rest[skipped..];
    }
    code
}

/// Where a string that begins here ends.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of the raw string that begins here, if one does.
fn raw_string(text: &str) -> Option<usize> {
    let marked = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let inside = marked.trim_start_matches('#').strip_prefix('"')?;
    let hashes = marked.len() - inside.len() - 1;
    let end = inside.find(&format!("\"{}", "#".repeat(hashes)))?;
    Some(text.len() - inside.len() + end + 1 + hashes)
}

/// The length of a character literal that begins here; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let length = if inside.starts_with('\\') { inside[2..].find('\'')? + 2 } else { inside.chars().next()?.len_utf8() };
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Drops what follows each `#[cfg(test)]`: a statement up to `;`, or an item up to the end of its block.
fn without_tests(code: &str) -> String {
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(&part[item_end(part)..]);
    }
    kept
}

fn item_end(code: &str) -> usize {
    let mut open = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return at + 1,
            '}' => open = open.saturating_sub(1),
            ';' | ',' if open == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}
