//! `octroi store …`. `verify` and `backup` ask a running gateway; on a stopped one, and always for `rebuild` and `restore`, they open the
//! folder that the settings name.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::SettingsFile;
use super::failure::{Failure, Outcome};
use super::output::{self, Format, card};
use super::private;
use super::request::{Reason, Shared};
use super::stopped::{ask_or_open, failed, load};
use crate::admin::wire::StoreVerified;
use crate::app::care;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look journal, chain and mirror through, of a running or a stopped gateway, and name the first thing that is bad
    Verify(Verify),
    /// Throw the mirror of a stopped gateway away and make it anew from the journal
    Rebuild(SettingsFile),
    /// Write all that the gateway keeps to one file, also while it runs. It holds the hashes of keys: keep it like a secret
    Backup(Backup),
    /// Put a backup in the place of a stopped gateway's store
    Restore(Restore),
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The file to make; one that is there is not overwritten
    #[arg(value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// A file that octroi store backup made. Without it, the journal in place is gone on with although it lost changes
    #[arg(value_name = "FILE")]
    source: Option<PathBuf>,
    /// Restore although the store in place knows of changes that would be lost, so that revoked keys may be valid again
    #[arg(long, required_unless_present = "source")]
    accept_rollback: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    settings: SettingsFile,
    /// How to show the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Command {
    pub fn run(self) -> Outcome {
        match self {
            Command::Verify(verify) => verify.run(),
            Command::Rebuild(settings) => rebuild(&settings),
            Command::Backup(backup) => backup.run(),
            Command::Restore(restore) => restore.run(),
        }
    }
}

impl Verify {
    fn run(self) -> Outcome {
        let online = || self.shared.client()?.patient().read("/v1/store/verify");
        let found: StoreVerified = ask_or_open(&self.shared, online, |settings| care::verify(settings).map_err(failed))?;
        if self.shared.wants_json() {
            output::print_json(&found)?;
        } else if found.intact {
            output::print(&shown(&found))?;
        }
        match found.finding {
            Some(finding) => Err(Failure::Refused(output::tame(&finding))),
            None => Ok(()),
        }
    }
}

fn shown(found: &StoreVerified) -> String {
    let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
    let mut lines = vec![
        ("intact", "yes".to_owned()),
        ("head", found.head.clone().unwrap_or_default()),
        ("first change", number(found.first)),
        ("files", number(found.files)),
        ("records", number(found.records)),
    ];
    lines.extend(found.notes.iter().map(|note| ("note", note.clone())));
    card(&lines)
}

fn rebuild(settings: &SettingsFile) -> Outcome {
    let records = care::rebuild(&load(&settings.config)?).map_err(failed)?;
    output::print(&format!("The mirror was made anew from the journal: {records} records.\n"))
}

impl Backup {
    fn run(self) -> Outcome {
        if self.to.exists() {
            return Err(Failure::Refused(format!("{} is there already; name another file", self.to.display())));
        }
        let mut part = self.to.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let written = self.write(&part);
        if written.is_err() {
            // What is left of it helps nobody; that it stays is no further harm.
            let _ = fs::remove_file(&part);
        }
        let manifest = written?;
        if self.shared.wants_json() {
            return output::print_json(&json!({"file": self.to.display().to_string(), "head": manifest.head.to_string(),
                "first": manifest.first, "created_at": manifest.created_at.to_string()}));
        }
        output::print(&format!(
            "Backed up to {}: changes {} to {}.\nIt holds the hashes of keys: keep it like a secret.\n",
            self.to.display(),
            manifest.first,
            manifest.head.seq
        ))
    }

    fn write(&self, part: &Path) -> Result<care::Manifest, Failure> {
        let on_disk = |error: io::Error| Failure::Refused(format!("{} cannot be written: {error}", self.to.display()));
        let create = || private::create(part).map_err(on_disk);
        let online = || {
            let mut file = create()?;
            self.shared.client()?.download("POST", "/v1/store/backup", &mut file)?;
            Ok(file)
        };
        let file = ask_or_open(&self.shared, online, |settings| {
            let mut file = create()?;
            let mut backup = care::backup(settings).map_err(failed)?;
            io::copy(&mut backup, &mut file).map_err(on_disk)?;
            Ok(file)
        })?;
        file.sync_all().map_err(on_disk)?;
        // Read back: what cannot be restored is no backup.
        let manifest = care::check_backup(part).map_err(failed)?;
        take_name(part, &self.to).map_err(on_disk)?;
        Ok(manifest)
    }
}

/// Never over a file that somebody else made meanwhile.
fn take_name(part: &Path, name: &Path) -> io::Result<()> {
    fs::hard_link(part, name)?;
    fs::remove_file(part)?;
    let folder = name.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all().or_else(|error| if error.kind() == ErrorKind::InvalidInput { Ok(()) } else { Err(error) })
}

impl Restore {
    fn run(self) -> Outcome {
        let settings = load(&self.settings.config)?;
        let restored = care::restore(&settings, self.source.as_deref(), self.accept_rollback, self.reason.reason).map_err(failed)?;
        let replaced = restored.replaced.as_ref().map(|path| path.display().to_string());
        if self.output == Format::Json {
            return output::print_json(&json!({"head": restored.head.to_string(), "lost": restored.lost, "replaced": replaced}));
        }
        output::print(&format!("Restored up to change {}.\n", restored.head.seq))?;
        if let Some(lost) = restored.lost {
            output::print(&format!("A loss was accepted, and the journal says so: {}.\n", output::tame(&lost)))?;
        }
        replaced.map_or(Ok(()), |path| output::print(&format!("What was there before is in {path}.\n")))
    }
}
