//! `octroi journal archive`: the older files leave the machine.

use std::path::PathBuf;

use clap::Args;

use super::super::client::understand;
use super::super::failure::{Failure, Outcome};
use super::super::output;
use super::super::request::{Body, Reason, Shared};
use super::super::stopped::{ask_or_open, failed};
use crate::admin::wire::ArchivedView;
use crate::app::care;

#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The folder, on the machine that the gateway runs on; made if need be. With --admin an absolute path
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

impl ArchiveArgs {
    pub fn run(self) -> Outcome {
        let to = std::path::absolute(&self.to).map_err(|error| Failure::Usage(format!("{}: {error}", self.to.display())))?;
        let body = Body::default().with("to", Some(to.display().to_string())).because(&self.reason);
        let online = || -> Result<ArchivedView, Failure> {
            let client = self.shared.client()?.patient();
            if client.is_remote() && self.to.is_relative() {
                let text =
                    format!("--to: {} is relative; name the folder of the gateway's machine by its absolute path", self.to.display());
                return Err(Failure::Usage(text));
            }
            understand(client.ask("POST", "/v1/journal/archive", Some(&body))?)
        };
        let archived =
            ask_or_open(&self.shared, online, |settings| care::archive(settings, &to, self.reason.reason.clone()).map_err(failed))?;
        if self.shared.wants_json() {
            return output::print_json(&archived);
        }
        output::print(&told(&archived))
    }
}

fn told(archived: &ArchivedView) -> String {
    match (archived.files.as_slice(), archived.first) {
        ([], _) => "There is nothing to archive: no change is older than the last archiving.\n".to_owned(),
        (files, first) => format!(
            "Moved to {}: {}.\nThe journal now begins with change {}, and a snapshot of {} records.\n",
            output::tame(&archived.to),
            files.join(", "),
            first.unwrap_or_default(),
            archived.records
        ),
    }
}
