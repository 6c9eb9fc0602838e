//! `octroi journal verify`: is the journal still what was written?

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use super::super::failure::{Failure, Outcome};
use super::super::output;
use super::super::request::{Shared, query};
use super::super::stopped::ask_or_open;
use crate::admin::wire::{BadEntry, JournalVerified};
use crate::app::care::{self, VerifyError};
use crate::config::Settings;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Verify this export instead of a gateway's journal
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["socket", "config"])]
    file: Option<PathBuf>,
    /// Also verify that the journal holds this head, noted earlier; repeat it for several
    #[arg(long = "head", value_name = "SEQ:CHAIN", value_parser = care::head)]
    heads: Vec<String>,
    #[command(flatten)]
    shared: Shared,
}

impl VerifyArgs {
    pub fn run(self) -> Outcome {
        let verified = match &self.file {
            Some(file) => care::verify_export(file, &self.heads).map_err(unverified)?,
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
        ask_or_open(&self.shared, || self.online(), |settings| self.stopped(settings))
    }

    fn online(&self) -> Result<JournalVerified, Failure> {
        let heads = self.heads.join(",");
        let heads = (!heads.is_empty()).then_some(heads.as_str());
        self.shared.client()?.patient().read(&format!("/v1/journal/verify{}", query(&[("head", heads)])))
    }

    fn stopped(&self, settings: &Settings) -> Result<JournalVerified, Failure> {
        let (verified, silent) = care::verify_journal(settings, &self.heads).map_err(unverified)?;
        if let Some(why) = silent {
            output::note(&format!("warning: whether the end is cut cannot be told by the mirror: {why}; --head can tell"));
        }
        if let Some(end) = &verified.unfinished {
            output::note(&format!("warning: the end of a change that was never acknowledged: {}", place(end)));
        }
        Ok(verified)
    }
}

fn unverified(error: VerifyError) -> Failure {
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
    format!("{}{heads}\nhead {}\n", counted(verified), verified.head)
}

fn wrong(verified: &JournalVerified) -> String {
    let mut text = String::new();
    if let Some(bad) = &verified.first_bad {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", place(bad));
    }
    for judged in verified.heads.iter().filter(|judged| !judged.kept) {
        let _ = writeln!(text, "head {}: {}", judged.head, judged.message.as_deref().unwrap_or("is not there"));
    }
    if verified.entries > 0 {
        let _ = write!(text, "up to {}: {}", verified.head, counted(verified));
    }
    text.trim_end().to_owned()
}

fn place(bad: &BadEntry) -> String {
    let seq = bad.seq.map(|seq| format!(", change {seq}")).unwrap_or_default();
    format!("{} line {}{seq}: {}", bad.file, bad.line, bad.message)
}

fn counted(verified: &JournalVerified) -> String {
    let plural = |count: u64, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    let JournalVerified { first, entries, files, .. } = verified;
    let which = match (first, entries) {
        (1, _) | (_, 0) => String::new(),
        (first, 1) => format!(" (change {first}; begins after change {})", first - 1),
        (first, count) => format!(" (changes {first} to {}; begins after change {})", first + count - 1, first - 1),
    };
    let written = if *entries == 1 { "is as it was written" } else { "are as they were written" };
    format!("{} in {}{which} {written}", plural(*entries, "change"), plural(*files, "file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_said_in_words() {
        let cases = [
            (1, 8, "8 changes in 1 file are as they were written"),
            (1, 1, "1 change in 1 file is as it was written"),
            (4, 5, "5 changes in 1 file (changes 4 to 8; begins after change 3) are as they were written"),
            (4, 1, "1 change in 1 file (change 4; begins after change 3) is as it was written"),
            (1, 0, "0 changes in 1 file are as they were written"),
        ];
        for (first, entries, words) in cases {
            let heads = Vec::new();
            let head = "8:ab".to_owned();
            let verified = JournalVerified { valid: true, files: 1, first, entries, head, first_bad: None, unfinished: None, heads };
            assert_eq!(counted(&verified), words);
        }
    }
}
