//! `threats.md` and `SECURITY.md` hold what they promise: each threat has its tests, each promise its settings, and each of these is
//! there.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fs;
use std::path::{Path, PathBuf};

/// How many there are.
const THREATS: u32 = 45;

/// Those that nothing holds off yet.
const OPEN: &[u32] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What is wrong with the last cell of a row: names of tests, or a check by hand with its result, `<br>` between them.
fn violations(number: u32, cell: &str, source_of: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if OPEN.contains(&number) {
        return (cell != "open")
            .then(|| format!("T{number}: is held off, and among the open ones"))
            .into_iter()
            .collect();
    }
    let mut found = Vec::new();
    for item in cell.split("<br>") {
        let Some(name) = item.strip_prefix('`').and_then(|item| item.strip_suffix('`')) else {
            let result = item.strip_prefix("manual: ");
            if result.is_none_or(str::is_empty) {
                found.push(format!("T{number}: {item:?} is neither a test nor `manual: …`"));
            }
            continue;
        };
        let is_there = name.split_once("::").is_some_and(|(file, test)| {
            let is_ours = (file.starts_with("src/") || file.starts_with("tests/")) && file.ends_with(".rs");
            is_ours && source_of(file).is_some_and(|source| has_test(&source, test))
        });
        if !is_there {
            found.push(format!("T{number}: there is no test {name}"));
        }
    }
    found
}

/// Whether there is a function of this name with `#[test]` among the attributes in front of it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let opening = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        line.starts_with(&opening) && attributes.into_iter().any(|line| *line == "#[test]")
    })
}

/// The number of each row and its last cell.
fn rows(table: &str) -> Vec<(u32, String)> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| T"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [number, _threat, _held, tests] = cells.as_slice() else {
            panic!("{} cells: {row}", cells.len())
        };
        (number.parse().unwrap(), (*tests).to_owned())
    })
    .collect()
}

#[test]
fn each_threat_has_tests_and_they_are_there() {
    let rows = rows(&fs::read_to_string(root().join("tests/threats.md")).unwrap());
    let numbers: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=THREATS).collect::<Vec<_>>());
    let source_of = |file: &str| fs::read_to_string(root().join(Path::new(file))).ok();
    let found: Vec<String> = rows
        .iter()
        .flat_map(|(number, cell)| violations(*number, cell, &source_of))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn what_is_missing_is_found() {
    let source = "#[test]\n#[cfg(unix)]\nfn held() {}\n\nfn helper() {}\n";
    let source_of = |file: &str| (file == "src/a.rs").then(|| source.to_owned());
    let n_violations = |cell: &str| violations(1, cell, &source_of).len();
    assert_eq!(n_violations("`src/a.rs::held`"), 0);
    assert_eq!(n_violations("`src/a.rs::held`<br>manual: looked at; nothing found"), 0);
    for cell in [
        "",
        "open",
        "manual: ",
        "src/a.rs::held",
        "`src/a.rs::helper`",
        "`src/a.rs::hel`",
        "`src/b.rs::held`",
        "`src/a.rs`",
        "`src/a.rs::held`<br>`src/a.rs::other`",
    ] {
        assert_eq!(n_violations(cell), 1, "{cell}");
    }
}

/// All Rust of the crate.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn promises_name_settings_and_sections_that_there_are() {
    let promises = fs::read_to_string(root().join(".github/SECURITY.md")).unwrap();
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    let settings: Vec<&str> = promises
        .split('`')
        .filter_map(|word| word.split_once("::"))
        .map(|(_, name)| name)
        .collect();
    assert!(settings.len() > 10, "{settings:?}");
    for name in settings {
        let is_there = [
            format!("pub fn {name}("),
            format!("pub fn {name}<"),
            format!("pub {name}: "),
        ]
        .iter()
        .any(|item| code.contains(item));
        assert!(is_there, "there is no setting {name}");
    }
    let specification = fs::read_to_string(root().join("src/protocol/spec.md")).unwrap();
    let anchors: Vec<String> = specification
        .lines()
        .filter_map(|line| line.strip_prefix("## ").or(line.strip_prefix("### ")))
        .map(|title| title.to_lowercase().replace(' ', "-").replace(['.', ',', '`'], ""))
        .collect();
    for link in promises.split("spec.md#").skip(1) {
        let (anchor, _) = link.split_once(')').unwrap();
        assert!(
            anchors.iter().any(|known| known == anchor),
            "there is no section {anchor}: {anchors:?}"
        );
    }
}

/// What catches a panic of an engine, and ends one stream, needs it to unwind.
#[test]
fn a_panic_unwinds_in_every_build() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, release) = manifest.split_once("\n[profile.release]\n").unwrap();
    let (release, _) = release.split_once("\n[").unwrap();
    assert!(release.lines().any(|line| line == "panic = \"unwind\""), "{release}");
    let others = manifest.lines().filter(|line| line.starts_with("panic"));
    assert_eq!(others.collect::<Vec<_>>(), ["panic = \"unwind\""]);
    // Where it could be set besides: the only table of the one file is that of variables for builds.
    assert!(!root().join(".cargo/config").exists());
    let config = fs::read_to_string(root().join(".cargo/config.toml")).unwrap();
    let tables: Vec<_> = config.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(tables, ["[env]"]);
    assert!(!config.contains("panic"), "{config}");
}
