//! `${env:NAME}` and `${file:path}` inside values: how secrets stay out of the settings file.
//!
//! Every `${` is resolved or refused. A text that survived as it is written would be a secret that anybody can read in
//! the documentation.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::finding::{Report, child, item, quoted};
use super::yaml::{Kind, Node};

/// No secret is longer; a wrong path must not fill the memory.
const MAX_FILE: u64 = 64 * 1024;

/// Looks up an environment variable.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where references lead.
pub(super) struct Sources<'a> {
    pub env: Env<'a>,
    /// The folder that relative paths start at.
    pub folder: &'a Path,
}

/// Resolves the references in every value below `node`; what cannot be resolved is reported and becomes
/// [`Kind::Refused`].
pub(super) fn resolve(node: &mut Node, path: &str, sources: &Sources<'_>, report: &Report) {
    match &mut node.kind {
        Kind::Scalar(scalar) if scalar.text.contains("${") => match sources.expand(&scalar.text) {
            Ok(text) => {
                scalar.written = Some(std::mem::replace(&mut scalar.text, text));
            }
            Err(message) => {
                report.refuse(node.at, path, message);
                node.kind = Kind::Refused;
            }
        },
        Kind::Scalar(_) | Kind::Refused => {}
        Kind::Sequence(items) => {
            for (i, node) in items.iter_mut().enumerate() {
                resolve(node, &item(path, i), sources, report);
            }
        }
        Kind::Mapping(entries) => {
            for (name, node) in entries {
                let path = child(path, &name.text);
                if name.text.contains("${") {
                    report.refuse(name.at, &path, "names are written out; ${…} stands in values only");
                }
                resolve(node, &path, sources, report);
            }
        }
    }
}

impl Sources<'_> {
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, reference)) = rest.split_once("${") {
            let Some((reference, after)) = reference.split_once('}') else {
                return Err(format!("{} lacks the closing brace; write ${{env:NAME}} or ${{file:path}}", quoted(text)));
            };
            expanded.push_str(before);
            expanded.push_str(&self.look_up(reference)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn look_up(&self, reference: &str) -> Result<String, String> {
        let shown = quoted(&format!("${{{reference}}}"));
        let value = match reference.split_once(':') {
            Some(("env", name)) if is_variable(name) => {
                (self.env)(name).ok_or_else(|| format!("{shown}: the environment variable is not set"))?
            }
            Some(("env", _)) => return Err(format!("{shown}: the name of an environment variable is of A-Z, a-z, 0-9 and _")),
            Some(("file", path)) if !path.is_empty() => self.read(Path::new(path)).map_err(|e| format!("{shown}: {e}"))?,
            _ => return Err(format!("{shown} is not known; write ${{env:NAME}} or ${{file:path}}")),
        };
        if value.is_empty() {
            return Err(format!("{shown} is there, but empty"));
        }
        if value.contains("${") {
            return Err(format!("{shown} holds another ${{…}}, which is not resolved a second time"));
        }
        Ok(value)
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let path = self.folder.join(path);
        let shown = quoted(&path.display().to_string());
        // Opening a pipe would wait for its writer, for ever.
        let is_file = fs::metadata(&path).map_err(|e| format!("{shown} cannot be read: {e}"))?.is_file();
        if !is_file {
            return Err(format!("{shown} is not a regular file"));
        }
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(|e| format!("{shown} cannot be read: {e}"))?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| format!("{shown} cannot be read: {e}"))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("{shown} is larger than 64 KiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
        // Editors and `echo` end a file with a line break that is not part of the secret.
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "s3cret\r\n").unwrap();
        fs::write(folder.path().join("empty"), "\n").unwrap();
        fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
        fs::write(folder.path().join("big"), vec![b'x'; 70_000]).unwrap();
        let env = |name: &str| match name {
            "HOST" => Some("api".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${env:HOST}".to_owned()),
            _ => None,
        };
        let sources = Sources { env: &env, folder: folder.path() };
        let cases: [(&str, Result<&str, &str>); 15] = [
            ("http://${env:HOST}:1/${env:HOST}", Ok("http://api:1/api")),
            ("${file:secret}", Ok("s3cret")),
            ("costs $5 {a}", Ok("costs $5 {a}")),
            ("${env:NOPE}", Err("is not set")),
            ("${env:EMPTY}", Err("empty")),
            ("${env:NESTED}", Err("not resolved a second time")),
            ("${env:A B}", Err("the name of an environment variable")),
            ("${env:}", Err("the name of an environment variable")),
            ("${file:missing}", Err("cannot be read")),
            ("${file:.}", Err("not a regular file")),
            ("${file:empty}", Err("empty")),
            ("${file:binary}", Err("not UTF-8")),
            ("${file:big}", Err("64 KiB")),
            ("${HOST}", Err("is not known; write ${env:NAME}")),
            ("${env:HOST", Err("closing brace")),
        ];
        for (text, expected) in cases {
            let got = sources.expand(text);
            match expected {
                Ok(value) => assert_eq!(got.as_deref(), Ok(value), "{text}"),
                Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{text} gave {got:?}"),
            }
        }
    }
}
