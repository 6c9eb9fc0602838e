//! What users read is true: the README's sessions are run, its settings are loaded, and every reference names all that there is, and nothing
//! that there is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use octroi::admin::endpoint_table;
use octroi::clock::Clock;
use octroi::config;
use octroi::model::Code;
use octroi::store::Embedded;

use crate::support::client::eventually;
use crate::support::{Gateway, Upstream, gateway, skip};

const BINARY: &str = env!("CARGO_BIN_EXE_octroi");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = [root().join("README.md"), root().join("CHANGELOG.md")]
        .into_iter()
        .chain(docs.filter(|p| p.extension().is_some_and(|e| e == "md")));
    pages.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The fenced blocks of a page in one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split_once("\n```\n").expect("the end of a block").0).collect()
}

/// What stands in the first cell of a page's table rows, between backticks.
fn rows(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell)).collect()
}

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn links_between_files_lead_somewhere() {
    let mut count = 0;
    for (path, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if !target.contains("://") {
                let file = path.parent().unwrap().join(target.split('#').next().unwrap());
                assert!(file.exists(), "{}: {target}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn settings_files_in_the_pages_are_fine() {
    let mut count = 0;
    for (path, text) in pages() {
        for block in blocks(&text, "yaml").into_iter().filter(|block| block.contains("upstreams:")) {
            let settings = config::parse(block, &path, &|_| None).unwrap_or_else(|findings| panic!("{findings}"));
            assert!(settings.warnings.is_empty(), "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 0);
}

// --- the README's sessions ---------------------------------------------------------------------------------------------------

/// A line that is typed, and what the page says is then printed.
struct Typed<'a> {
    line: &'a str,
    printed: Vec<&'a str>,
}

fn session(page: &str) -> Vec<Typed<'_>> {
    let mut typed: Vec<Typed<'_>> = Vec::new();
    for line in blocks(page, "console").into_iter().flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(line) => typed.push(Typed { line, printed: Vec::new() }),
            None => typed.last_mut().expect("a command before its output").printed.push(line),
        }
    }
    typed
}

/// The words of a line, those left out that differ from run to run: ids, values, times, long numbers.
fn loose(line: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || "_-.:…".contains(c);
    let mut words: Vec<String> = Vec::new();
    for word in line.split(|c| !is_word(c)).filter(|word| !word.is_empty()) {
        let varies = word.contains("pk_")
            || (word.len() > 3 && word.contains(|c: char| c.is_ascii_digit()))
            || words.last().is_some_and(|w| w == "t");
        words.push(if varies { "#".to_owned() } else { word.to_owned() });
    }
    // A slow machine is no other story.
    if let Some(at) = words.windows(3).position(|w| w[1] == "s" && w[2] == "ago") {
        words.splice(at..at + 3, ["just".to_owned(), "now".to_owned()]);
    }
    words
}

fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().is_ok_and(|ran| ran.status.success())
}

#[test]
fn the_readmes_session_runs_as_written() {
    if !has_curl() {
        return skip("the_readmes_session_runs_as_written", "curl is missing (Debian package curl)");
    }
    let readme = read("README.md");
    let written = blocks(&readme, "yaml")[0];
    let upstream = Upstream::plain();
    let settings = written
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8090", "127.0.0.1:0")
        .replace("127.0.0.1:3000", &upstream.address.to_string());
    let gateway = Gateway::with(format!("{settings}\nlogs: {{access: access.log}}\n"), Clock::system());
    fs::write(gateway.dir().join("octroi.yaml"), written).unwrap();

    let typed = session(&readme);
    assert!(typed.len() > 10);
    let mut script = String::from("exec 2>&1\n");
    for Typed { line, .. } in &typed {
        let line =
            line.replace("127.0.0.1:8080", &gateway.address().to_string()).replace("127.0.0.1:8090", &gateway.admin_address().to_string());
        script += &format!("{line}\nprintf '\\n@@@\\n'\n");
    }
    let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("timeout");
    shell.args(["120", "sh", "-c", &script]).current_dir(gateway.dir()).env("PATH", path);
    let ran = shell.env_remove("OCTROI_SOCKET").env_remove("OCTROI_CONFIG").output().unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    let answers: Vec<&str> = printed.split("\n@@@\n").collect();
    assert_eq!(answers.len(), typed.len() + 1, "{printed}");
    for (Typed { line, printed }, answer) in typed.iter().zip(answers) {
        let mut lines = answer.lines().map(loose);
        for expected in printed.iter().map(|line| loose(line)).filter(|words| !words.is_empty()) {
            assert!(lines.any(|line| line == expected), "$ {line}\nlacks {expected:?} in\n{answer}");
        }
    }
}

/// What follows `octroi` in a command of a page, ready for a shell; `None` where the page leaves something out.
fn arguments(command: &str) -> Option<String> {
    let (command, _) = command.split_once(['>', '|']).unwrap_or((command, ""));
    let arguments = command.strip_prefix("octroi")?.replace("SHELL", "bash");
    (!arguments.contains('…') && !arguments.contains("COMMAND")).then_some(arguments)
}

#[test]
fn commands_in_the_pages_are_understood() {
    let mut count = 0;
    for (path, text) in pages() {
        let inline = text.split('`').filter(|code| code.starts_with("octroi ") && !code.contains('\n'));
        let shell = blocks(&text, "sh").into_iter().chain(blocks(&text, "console")).flat_map(str::lines);
        let shell = shell.map(|line| line.trim_start_matches("$ ").trim_start_matches("docker exec octroi "));
        for line in inline.chain(shell.filter(|line| line.starts_with("octroi "))) {
            let Some(arguments) = arguments(line) else { continue };
            let mut command = Command::new("sh");
            // With --help at the end everything before it is understood, and nothing is done.
            command.args(["-c", &format!("\"$OCTROI\"{arguments} --help")]);
            let ran = command.env("OCTROI", BINARY).output().unwrap();
            assert!(ran.status.success(), "{}: {line}: {}", path.display(), String::from_utf8_lossy(&ran.stderr));
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

// --- the references ------------------------------------------------------------------------------------------------------------

/// The fields that the reader knows at a place of the settings, as it tells whoever writes a wrong one there.
fn known_at(place: &[&str]) -> Vec<String> {
    let opened: String = place.iter().map(|name| format!("{{{name}: ")).collect();
    let text = format!("{opened}{{zzz: 1}}{}", "}".repeat(place.len()));
    let Err(findings) = config::parse(&text, Path::new("probe.yaml"), &|_| None) else { panic!("{text} is taken") };
    let wrong = [place, &["zzz"]].concat().join(".");
    let findings = findings.to_string();
    let finding = findings.lines().find(|line| line.contains(&format!(": {wrong}: unknown field")));
    let names = finding.and_then(|line| line.split_once("known: ")).map(|(_, names)| names.split(", ").map(str::to_owned).collect());
    names.unwrap_or_default()
}

/// Every setting by its place; names that an operator chooses are `NAME`.
fn settings_below(place: &[&str], into: &mut BTreeSet<String>) {
    assert!(place.len() < 8, "{place:?}");
    for field in known_at(place) {
        let field_place = [place, &[field.as_str()]].concat();
        into.insert(field_place.join("."));
        settings_below(&field_place, into);
    }
    let chosen = [place, &["NAME"]].concat();
    if !place.is_empty() && known_at(place).is_empty() && !known_at(&chosen).is_empty() {
        settings_below(&chosen, into);
    }
}

#[test]
fn the_settings_page_names_every_setting_and_no_other() {
    let mut known = BTreeSet::new();
    settings_below(&[], &mut known);
    assert!(known.contains("upstreams.NAME.timeouts.connect"), "{known:?}");
    let page = read("docs/settings.md");
    let named = set(rows(&page));
    assert_eq!(named.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_refusals_page_names_every_code_with_its_status() {
    let page = read("docs/refusals.md");
    assert_eq!(set(rows(&page)), set(Code::ALL.iter().map(|code| code.as_str())));
    for code in Code::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn the_admin_api_page_names_every_endpoint_with_its_right() {
    let page = read("docs/admin-api.md");
    let named = rows(&page).into_iter().filter(|row| row.contains(" /v1/"));
    let table: Vec<_> = endpoint_table().into_iter().map(|(method, path, right)| (format!("{method} {path}"), right)).collect();
    assert_eq!(set(named), table.iter().map(|(endpoint, _)| endpoint.clone()).collect());
    for (endpoint, right) in table {
        let right = right.map_or("any".to_owned(), |right| format!("`{right}`"));
        let row = format!("| `{endpoint}` | {right} | ");
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn the_commands_page_names_every_command_and_option() {
    let page = read("docs/commands.md");
    for entry in fs::read_dir(root().join("tests/golden/help")).unwrap() {
        let path = entry.unwrap().path();
        let help = fs::read_to_string(&path).unwrap();
        if help.contains("\nCommands:\n") {
            continue;
        }
        let command = path.file_stem().unwrap().to_string_lossy().replace('-', " ");
        // The names of the files do not tell a hyphen in a command from the space between two.
        assert!(page.replace('-', " ").contains(&format!("`{command}")), "{command}");
        let options =
            help.lines().filter_map(|line| line.trim_start().trim_start_matches("-h, ").strip_prefix("--")?.split([' ', ',']).next());
        for option in options {
            assert!(page.contains(&format!("--{option}")), "{command}: --{option}");
        }
    }
}

#[test]
fn the_pages_on_metrics_and_the_access_log_name_what_a_call_leaves_behind() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    gateway.get("/v1/sensors", &[]).refused(401, "key_missing");

    let line = gateway.log_lines(2).remove(0);
    let fields = line.as_object().unwrap().keys().map(String::as_str);
    assert_eq!(set(rows(&read("docs/access-log.md"))), set(fields));

    let metrics = gateway.metrics();
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    assert_eq!(set(rows(&read("docs/metrics.md"))), set(names));
}

// --- recovery ------------------------------------------------------------------------------------------------------------------

/// A store as a stopped gateway leaves it, in a folder of its own.
fn stopped_store() -> (Gateway, PathBuf) {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    (0..5).for_each(|n| drop(gateway.holder(&format!("machine {n}"))));
    gateway.stop();
    let store = gateway.dir().join("data");
    (gateway, store)
}

/// Opens a folder that this process has let go of. Other tests start processes: between its fork and its exec a child has every
/// descriptor of this one, the folder's lock among them.
fn opened(store: &Path) -> Result<Embedded, String> {
    eventually("the folder", || match Embedded::open(store).map_err(|error| error.to_string()) {
        Err(message) if message.contains(&format!("(pid {})", std::process::id())) => None,
        opened => Some(opened),
    })
}

/// What the store says when it is opened: its refusal, or what it found.
fn told(store: &Path) -> String {
    opened(store).map_or_else(|refusal| refusal, |store| store.notices().join("\n"))
}

/// Whether the page quotes the message; `…` stands for anything.
fn is_quoted(page: &str, message: &str) -> bool {
    let fits = |quoted: &str| {
        let mut rest = message;
        quoted.trim().split('…').all(|piece| match rest.split_once(piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    blocks(page, "text").into_iter().any(fits)
}

fn journal_of(store: &Path) -> PathBuf {
    store.join("journal/00000001.log")
}

#[test]
fn the_recovery_page_quotes_what_the_store_says() {
    let damages: [(&str, fn(&Path)); 8] = [
        ("held nothing", |store| {
            fs::remove_dir_all(store.join("sled")).unwrap();
            fs::create_dir(store.join("sled")).unwrap();
        }),
        ("rebuilt", |store| fs::remove_dir_all(store.join("sled")).unwrap()),
        ("moved aside", |store| {
            fs::remove_dir_all(store.join("sled")).unwrap();
            fs::write(store.join("sled"), "no folder").unwrap();
        }),
        ("cut", |store| {
            let journal = fs::read(journal_of(store)).unwrap();
            fs::write(journal_of(store), [&journal[..], b"half a line"].concat()).unwrap();
        }),
        ("is damaged", |store| {
            let mut journal = fs::read(journal_of(store)).unwrap();
            let middle = journal.len() / 2;
            journal[middle] ^= 1;
            fs::write(journal_of(store), journal).unwrap();
        }),
        ("is older", |store| {
            let journal = fs::read_to_string(journal_of(store)).unwrap();
            let shorter: Vec<&str> = journal.split_inclusive('\n').take(4).collect();
            fs::write(journal_of(store), shorter.concat()).unwrap();
        }),
        ("The mirror holds changes up to", |store| {
            let mut journal = fs::read(journal_of(store)).unwrap();
            journal.truncate(journal.len() - 5);
            fs::write(journal_of(store), journal).unwrap();
        }),
        ("comes from elsewhere", |store| {
            let (_other, elsewhere) = stopped_store();
            fs::copy(journal_of(&elsewhere), journal_of(store)).unwrap();
        }),
    ];
    let page = read("docs/recovery.md");
    for (part, damage) in damages {
        let (_gateway, store) = stopped_store();
        assert_eq!(told(&store), "", "nothing to say of a store that was left properly");
        damage(&store);
        let message = told(&store);
        assert!(message.contains(part) && is_quoted(&page, &message), "{part}: {message}");
    }
}

#[test]
fn the_recovery_page_quotes_the_other_refusals_to_start() {
    let page = read("docs/recovery.md");
    let (gateway, store) = stopped_store();
    let held = opened(&store).unwrap();
    let message = Embedded::open(&store).err().expect("a refusal").to_string();
    assert!(message.contains("another octroi") && is_quoted(&page, &message), "{message}");
    drop(held);

    // The machines hold the tier premium.
    let settings = gateway::settings("127.0.0.1:1".parse().unwrap()).replace("premium:", "other:");
    let settings = config::parse(&settings, &gateway.dir().join("octroi.yaml"), &|_| None).unwrap_or_else(|f| panic!("{f}"));
    let message = eventually("the folder", || {
        let refusal = octroi::app::Gateway::start(settings.clone(), Clock::system()).err().expect("a refusal to start").to_string();
        (!refusal.contains("another octroi")).then_some(refusal)
    });
    assert!(message.contains("premium") && is_quoted(&page, &message), "{message}");
}
