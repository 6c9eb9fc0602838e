//! The command line as a whole: its shape, and its help as golden files (`UPDATE_GOLDEN=1` writes them anew).

use std::fs;
use std::path::PathBuf;

use super::*;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help")
}

/// Every command's name, from the top down, with its help text.
fn helps(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
    let text = command.clone().bin_name(path.replace('-', " ")).term_width(100).render_long_help().to_string();
    found.push((path.to_owned(), text));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        helps(sub, &format!("{path}-{}", sub.get_name()), found);
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts_are_as_published() {
    let mut found = Vec::new();
    let mut command = Cli::command();
    command.build();
    helps(&command, "octroi", &mut found);
    let mut names: Vec<String> = found.iter().map(|(name, _)| format!("{name}.txt")).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = fs::remove_dir_all(golden());
        fs::create_dir_all(golden()).unwrap();
        for (name, text) in &found {
            fs::write(golden().join(format!("{name}.txt")), text).unwrap();
        }
    }
    for (name, text) in &found {
        let kept = fs::read_to_string(golden().join(format!("{name}.txt"))).unwrap_or_default();
        assert_eq!(*text, kept, "the help of {name} changed; UPDATE_GOLDEN=1 accepts it");
    }
    let mut kept: Vec<String> = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    kept.sort();
    assert_eq!(names, kept, "a golden file without a command, or the other way round");
}

#[test]
fn wrong_usage_is_told_before_anything_is_done() {
    let wrong: [&[&str]; 17] = [
        &[],
        &["nothing"],
        &["serve"],
        &["key", "create", "--label", "a"],
        &["key", "create", "--machine", "m", "--label", "a", "--quiet", "--output", "json"],
        &["key", "list", "--status", "dead"],
        &["key", "list", "--socket", "a", "--config", "b"],
        &["health", "--url", "http://127.0.0.1", "--socket", "a"],
        &["journal", "list", "--limit", "0"],
        &["operator", "create", "console"],
        &["operator", "create", "console", "--right", "root"],
        &["operator", "regenerate", "console", "--quiet", "--output", "json"],
        &["demo", "--admin", "0.0.0.0:8090"],
        &["key", "list", "--socket", "a", "--admin", "https://b"],
        &["key", "list", "--config", "a", "--admin-ca", "b"],
        &["key", "list", "--token", "a"],
        &["manpage"],
    ];
    for args in wrong {
        let parsed = Cli::try_parse_from([&["octroi"], args].concat());
        assert_eq!(parsed.unwrap_err().exit_code(), 2, "{args:?}");
    }
}

#[test]
fn the_published_examples_are_understood() {
    let lines = [
        r#"machine create "Service de facturation" --tier standard --permission sensors:read"#,
        r#"key create --machine "Service de facturation" --label "Production - Facturation" --env prod --expires 90d"#,
        "key regenerate key_1 --grace 24h --quiet --reason leaked",
        "key revoke key_1 --yes --output json --socket data/admin.sock",
        "machine edit mac_1 --clear permissions,tier --third-party false",
        "key edit key_1 --clear allow-ip --clear organization,permissions",
        r#"operator create "Jeanne Martin" --right machines:write --right platform:configure --expires 90d"#,
        "operator regenerate console --quiet --reason lost",
        "operator delete op_1 --yes",
        "health --config config/octroi.yaml",
        "demo --public 127.0.0.1:0",
        "completion bash",
        "manpage man",
        "key list --admin https://admin.example.org:8090 --admin-ca ca.pem --unused-since 30d --expiring-before 14d --limit 5",
    ];
    for line in lines {
        let mut args = vec!["octroi".to_owned()];
        // Every second part of the line stood in quotes.
        for (index, part) in line.split('"').enumerate() {
            if index % 2 == 1 { args.push(part.to_owned()) } else { args.extend(part.split_whitespace().map(str::to_owned)) }
        }
        assert!(Cli::try_parse_from(&args).is_ok(), "{line}");
    }
}
