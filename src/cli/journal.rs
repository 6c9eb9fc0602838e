//! `octroi journal …`.

mod archive;
mod export;
mod list;
mod show;
mod verify;

use clap::Subcommand;

use super::failure::Outcome;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List changes, newest first
    List(list::ListArgs),
    /// Show one change: each field before and after
    Show(show::ShowArgs),
    /// Verify that nothing was changed, taken out or cut off
    ///
    /// Asks the running gateway. With --config, where no gateway answers, the files themselves are read; nothing in them is
    /// changed. With --file an export is verified.
    ///
    /// Prints the head of the journal. Keep it where nobody who can reach the journal can change it: --head tells later
    /// whether the journal still holds what it held then.
    Verify(verify::VerifyArgs),
    /// Write all changes out as JSON lines, oldest first, with what is needed to verify them
    Export(export::ExportArgs),
    /// Move the older files of the journal to a folder, so that they can leave the machine
    Archive(archive::ArchiveArgs),
}

impl Command {
    pub fn run(self) -> Outcome {
        match self {
            Command::List(args) => args.run(),
            Command::Show(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Archive(args) => args.run(),
        }
    }
}
