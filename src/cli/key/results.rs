//! What became of the lines of a bulk creation: a JSON object a line, in a file that only its owner reads, or on standard output.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::failure::{Failure, Outcome};
use super::super::{output, private};
use crate::admin::wire::{BulkItem, FieldError, KeyChanged, Warning};

/// One line's outcome: `id` and `secret`, or `code` and `detail`. It may hold a value, so it can be neither printed nor cloned by accident.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Of the input, from 1.
    line: u64,
    label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl Row {
    pub fn of(line: u64, label: &str, item: BulkItem) -> Row {
        match (item.key, item.problem) {
            (Some(KeyChanged { key, secret, warnings }), _) => Row {
                line,
                label: key.label,
                id: Some(key.id),
                machine_id: Some(key.machine_id),
                environment: Some(key.environment),
                secret,
                warnings,
                ..Row::default()
            },
            (None, Some(problem)) => Row { errors: problem.errors, ..Row::refused(line, label, &problem.code, problem.detail) },
            (None, None) => Row::refused(line, label, "internal_error", "the gateway did not say what became of it".to_owned()),
        }
    }

    pub fn refused(line: u64, label: &str, code: &str, detail: String) -> Row {
        Row { line, label: label.to_owned(), code: Some(code.to_owned()), detail: Some(detail), ..Row::default() }
    }

    pub fn is_made(&self) -> bool {
        self.id.is_some()
    }

    fn tells(self) -> (u64, Earlier) {
        let told = match (&self.id, self.code.as_deref()) {
            (Some(_), _) => Earlier::Made(self.label),
            (None, Some(IN_DOUBT)) => Earlier::InDoubt,
            (None, _) => Earlier::Refused,
        };
        (self.line, told)
    }
}

/// The code of a line whose key is there without its value.
pub const IN_DOUBT: &str = "conflict";

/// What every result begins with.
const BEGINNING: &[u8] = b"{\"line\":";

/// Where outcomes are written, and what an earlier run wrote there.
pub struct Results {
    /// `None` = standard output.
    file: Option<(File, String)>,
    /// By line; `None` when this is the first run.
    earlier: Option<HashMap<u64, Earlier>>,
}

/// What an earlier run wrote of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Its key was made, with this label.
    Made(String),
    /// Its key may be there, but its value was lost.
    InDoubt,
    /// It was refused, and may be asked for again.
    Refused,
}

impl Results {
    /// Makes the file, or reads what an earlier run left in it. A last line that was torn is cut off.
    pub fn open(path: Option<&Path>) -> Result<Results, Failure> {
        let Some(path) = path else { return Ok(Results { file: None, earlier: None }) };
        let name = path.display().to_string();
        let failed = |error| Failure::Refused(format!("cannot use {name} for the results: {error}"));
        let existed = path.exists();
        let mut file = private::open(path).map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let torn = &text[whole..];
        if !torn.starts_with(BEGINNING) && !BEGINNING.starts_with(torn) {
            return Err(Failure::Usage(format!("{name} is no file of results; name another --output-file")));
        }
        let mut earlier = HashMap::new();
        for (place, line) in text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let row: Row = serde_json::from_slice(line).ok().filter(|row: &Row| row.line > 0).ok_or_else(|| {
                Failure::Usage(format!("{name}:{}: is no result of an earlier run; name another --output-file", place + 1))
            })?;
            let (line, told) = row.tells();
            if !matches!(earlier.get(&line), Some(Earlier::Made(_))) {
                earlier.insert(line, told);
            }
        }
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Results { file: Some((file, name)), earlier: existed.then_some(earlier) })
    }

    /// What an earlier run wrote of this line.
    pub fn earlier(&self, line: u64) -> Option<&Earlier> {
        self.earlier.as_ref()?.get(&line)
    }

    /// Whether there was an earlier run, which may have asked for lines that it wrote nothing of.
    pub fn go_on(&self) -> bool {
        self.earlier.is_some()
    }

    /// Writes outcomes, and waits until the disk has them: the values cannot be had again.
    pub fn write(&mut self, rows: &[Row]) -> Outcome {
        let mut text = String::new();
        for row in rows {
            let line = serde_json::to_string(row).map_err(|error| Failure::Refused(format!("cannot be written as JSON: {error}")))?;
            text.push_str(&line);
            text.push('\n');
        }
        match &mut self.file {
            None => output::print_once(&text),
            Some((file, name)) => file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(|error| {
                let lost = rows.iter().filter_map(|row| row.id.as_deref()).collect::<Vec<_>>().join(", ");
                Failure::Refused(format!("cannot write to {name}: {error}; regenerate the keys whose values were lost: {lost}"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn made(line: u64, label: &str) -> Row {
        Row { line, label: label.into(), id: Some("key_1".into()), secret: Some("pk_prod_x".into()), ..Row::default() }
    }

    #[test]
    fn what_an_earlier_run_wrote_is_found_and_a_torn_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.ndjson");
        let mut first = Results::open(Some(&path)).unwrap();
        assert!(!first.go_on(), "nobody asked before");
        first.write(&[made(1, "one"), Row::refused(2, "two", "invalid", "x".into())]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"line\":3,\"lab"].concat()).unwrap();
        let mut second = Results::open(Some(&path)).unwrap();
        let told = [second.earlier(1), second.earlier(2), second.earlier(3)];
        assert_eq!(told, [Some(&Earlier::Made("one".into())), Some(&Earlier::Refused), None]);
        assert!(second.go_on());
        second.write(&[made(3, "three"), Row::refused(2, "two", IN_DOUBT, "x".into())]).unwrap();
        let third = Results::open(Some(&path)).unwrap();
        assert_eq!((third.earlier(2), third.earlier(3)), (Some(&Earlier::InDoubt), Some(&Earlier::Made("three".into()))));
    }

    #[test]
    fn no_value_is_written_where_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.ndjson");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(Results::open(Some(&path)), Err(Failure::Refused(text)) if text.contains("chmod 600 ")));
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "my notes\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(Results::open(Some(&path)), Err(Failure::Usage(text)) if text.contains("notes.txt:1")));
        assert_eq!(std::fs::read(&path).unwrap(), b"my notes\n");
        std::fs::write(&path, "my notes").unwrap();
        assert!(Results::open(Some(&path)).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"my notes");
    }
}
