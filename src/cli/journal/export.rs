//! `octroi journal export`: all changes as JSON lines.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::client::Client;
use super::super::failure::{Failure, Outcome};
use super::super::request::{Shared, query};
use super::super::{output, private};

/// The answer's field that names the last change.
const HEAD: &str = "octroi-head";

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to write it; without this it goes to standard output. A file that is there is not overwritten
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Begin with this change
    #[arg(long, value_name = "NO")]
    since_seq: Option<u64>,
    /// End with this change
    #[arg(long, value_name = "NO")]
    until_seq: Option<u64>,
    #[command(flatten)]
    shared: Shared,
}

impl ExportArgs {
    pub fn run(self) -> Outcome {
        let client = self.shared.client()?;
        let [since, until] = [self.since_seq, self.until_seq].map(|seq| seq.map(|seq| seq.to_string()));
        let query = query(&[("since_seq", since.as_deref()), ("until_seq", until.as_deref())]);
        let target = format!("/v1/journal/export{query}");
        let head = match &self.output_file {
            Some(file) => to_file(&client, &target, file)?,
            None => {
                let mut out = BufWriter::new(std::io::stdout().lock());
                let head = download(&client, &target, &mut out)?;
                out.flush().map_err(|error| Failure::Refused(format!("cannot write to standard output: {error}")))?;
                head
            }
        };
        // Not among the lines: it is what they are verified against.
        head.into_iter().for_each(|head| output::note(&format!("head {head}")));
        Ok(())
    }
}

/// Also says what the export ends with.
fn download(client: &Client, target: &str, out: &mut impl Write) -> Result<Option<String>, Failure> {
    let fields = client.download("GET", target, out)?;
    Ok(fields.get(HEAD).and_then(|head| head.to_str().ok()).map(str::to_owned))
}

/// A part is never left under the name of the whole. Names of machines and addresses of operators are nobody else's business.
fn to_file(client: &Client, target: &str, file: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| Failure::Refused(format!("{} cannot be written: {error}", file.display()));
    let name = file.file_name().ok_or_else(|| Failure::Usage(format!("{} is no name of a file", file.display())))?;
    if file.exists() {
        return Err(Failure::Refused(format!("{} is there already: an export overwrites no file", file.display())));
    }
    let part = file.with_file_name([name.to_string_lossy().as_ref(), ".part"].concat());
    let mut out = BufWriter::new(private::create(&part).map_err(failed)?);
    let written = download(client, target, &mut out);
    let ended = written.and_then(|head| {
        out.flush().and_then(|()| out.get_ref().sync_all()).and_then(|()| fs::rename(&part, file)).map_err(failed)?;
        Ok(head)
    });
    if ended.is_err() {
        // It may not even be there; the first failure is the one to tell.
        let _ = fs::remove_file(&part);
    }
    ended
}
