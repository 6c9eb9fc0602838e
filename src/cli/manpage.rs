//! `octroi manpage`: a page of section 1 for each command, from the same text as `--help`.

use std::fs;
use std::path::Path;

use super::failure::{Failure, Outcome};

/// Writes `octroi.1`, `octroi-key.1`, `octroi-key-create.1`, … into `folder`.
pub fn write(command: clap::Command, folder: &Path) -> Outcome {
    let failed = |error| Failure::Refused(format!("cannot write to {}: {error}", folder.display()));
    fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;

    /// Each command's name from the top down, with its options.
    fn tree(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        let options = command.get_arguments().filter_map(|option| option.get_long().map(str::to_owned)).collect();
        found.push((path.to_owned(), options));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            tree(sub, &format!("{path}-{}", sub.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_a_page_with_every_option_and_no_other_page_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("share/man1");
        write(Cli::command(), &folder).unwrap();
        let mut command = Cli::command();
        command.build();
        let mut commands = Vec::new();
        tree(&command, "octroi", &mut commands);
        for (name, options) in &commands {
            let page = fs::read_to_string(folder.join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"));
            let page = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
            assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
            for option in options {
                assert!(page.contains(&format!("--{option}")), "{name}: --{option}");
            }
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), commands.len());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(write(Cli::command(), &file), Err(Failure::Refused(text)) if text.contains("/file")));
    }
}
