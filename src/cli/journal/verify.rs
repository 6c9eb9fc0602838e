//! `octroi journal verify`: is the journal still what was written?

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::failure::{Failure, Outcome};
use super::super::output;
use super::super::request::{Shared, query};
use crate::admin::wire::JournalVerified;
use crate::app::journal::{VerifyError, head, verify_export, verify_folder};
use crate::config;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Verify this export instead of a gateway's journal
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["socket", "config"])]
    file: Option<PathBuf>,
    /// Also verify that the journal holds this head, noted earlier; repeat it for several
    #[arg(long = "head", value_name = "SEQ:CHAIN", value_parser = head)]
    heads: Vec<String>,
    #[command(flatten)]
    shared: Shared,
}

impl VerifyArgs {
    pub fn run(self) -> Outcome {
        let verified = match &self.file {
            Some(file) => verify_export(file, &self.heads).map_err(failed)?,
            None => self.journal()?,
        };
        if self.shared.wants_json() {
            output::print_json(&verified)?;
        } else if verified.valid {
            output::print(&told(&verified))?;
        }
        if verified.valid { Ok(()) } else { Err(Failure::Refused(wrong(&verified))) }
    }

    fn journal(&self) -> Result<JournalVerified, Failure> {
        match (self.online(), self.shared.settings()) {
            (Err(Failure::Unreachable(_)), Some(settings)) => self.stopped(settings),
            (verified, _) => verified,
        }
    }

    fn online(&self) -> Result<JournalVerified, Failure> {
        let heads = self.heads.join(",");
        let heads = (!heads.is_empty()).then_some(heads.as_str());
        self.shared.client()?.read(&format!("/v1/journal/verify{}", query(&[("head", heads)])))
    }

    fn stopped(&self, settings: &Path) -> Result<JournalVerified, Failure> {
        let settings = config::load(settings).map_err(|findings| Failure::Usage(findings.to_string()))?;
        let (verified, silent) = verify_folder(&settings.store, &self.heads).map_err(failed)?;
        if let Some(why) = silent {
            output::note(&format!("warning: whether the end is cut cannot be told by the mirror: {why}; --head can tell"));
        }
        Ok(verified)
    }
}

fn failed(error: VerifyError) -> Failure {
    match error {
        VerifyError::Head(error) => Failure::Usage(format!("--head: {error}")),
        VerifyError::Store(error) => Failure::Refused(error.to_string()),
    }
}

fn told(verified: &JournalVerified) -> String {
    let heads = match verified.heads.len() {
        0 => String::new(),
        1 => "; it holds the head that was noted".to_owned(),
        count => format!("; it holds the {count} heads that were noted"),
    };
    format!("{} are as they were written{heads}\nhead {}\n", counted(verified), verified.head)
}

fn wrong(verified: &JournalVerified) -> String {
    let mut text = String::new();
    if let Some(bad) = &verified.first_bad {
        let seq = bad.seq.map(|seq| format!(", change {seq}")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} line {}{seq}: {}", bad.file, bad.line, bad.message);
    }
    for judged in verified.heads.iter().filter(|judged| !judged.kept) {
        let _ = writeln!(text, "head {}: {}", judged.head, judged.message.as_deref().unwrap_or("is not there"));
    }
    let _ = write!(text, "{} up to {} are as they were written", counted(verified), verified.head);
    text
}

fn counted(verified: &JournalVerified) -> String {
    let plural = |count: u64, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    format!("{} in {}", plural(verified.entries, "change"), plural(verified.files, "file"))
}
