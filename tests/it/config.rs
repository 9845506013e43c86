//! The settings of the program: where they come from, what is wrong with them, and what comes of them in a server that runs.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::cli::{Served, rowstream};
use crate::support::eventually;

fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn file(folder: &TempDir, text: &str) -> String {
    let path = folder.path().join("rowstream.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A database with one row, and the flags that serve it at an address of its own.
pub(crate) fn database(folder: &TempDir) -> String {
    let path = folder.path().join("one.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("DROP TABLE IF EXISTS t; CREATE TABLE t(n); INSERT INTO t VALUES (7)")
        .unwrap();
    path.to_str().unwrap().to_owned()
}

fn serve(folder: &TempDir, flags: &[&str]) -> Command {
    let mut command = rowstream(&["serve", "--db", &database(folder)]);
    command.args(flags);
    command
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "batch_size = 10\nworkers = 20\nstall_limit = \"30s\"\n");
    let db = database(&folder);
    let flags = ["--config", &path, "--batch-size", "12", "--db", &db];
    let mut command = rowstream(&["check-config"]);
    command.args(flags);
    command.env("ROWSTREAM_BATCH_SIZE", "11").env("ROWSTREAM_WORKERS", "21");
    let (code, out, err) = ran(&mut command);
    assert_eq!(code, Some(0), "{err}");
    let said = |line: &str| assert!(out.lines().any(|found| found == line), "{line} is not in {out}");
    said("batch_size = 12  # --batch-size");
    said("workers = 21  # ROWSTREAM_WORKERS");
    said(&format!("stall_limit = \"30s\"  # {path}"));
    said("retention = \"1m\"  # default");
    said("# token_file: none  # default");
    // What it prints is a file that says the same.
    let again = file(&folder, &out);
    let (code, repeated, err) = ran(&mut rowstream(&["check-config", "--config", &again]));
    assert_eq!(code, Some(0), "{err}");
    let values = |text: &str| {
        text.lines()
            .map(|line| line.split("  # ").next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&repeated), values(&out));
}

#[test]
fn what_is_wrong_is_told_with_its_source_and_a_suggestion() {
    let folder = TempDir::new().unwrap();
    let check = |text: &str, flags: &[&str], says: &[&str]| {
        let path = file(&folder, text);
        for command in ["check-config", "serve"] {
            let (code, out, err) = ran(rowstream(&[command, "--config", &path]).args(flags));
            assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
            for says in says {
                assert!(err.contains(says), "{says} is not in {err}");
            }
        }
    };
    check(
        "wokers = 3",
        &[],
        &["rowstream.toml: there is no setting wokers; did you mean workers?"],
    );
    check("workers = ", &[], &["rowstream.toml", "line 1"]);
    check(
        "batch_size = \"many\"",
        &["--stall-limit=60"],
        &[
            "batch_size = many: expected a whole number",
            "--stall-limit: stall_limit = 60",
        ],
    );
    check("tls_key = \"k.pem\"", &[], &["belong together"]);
    let (code, _, err) = ran(&mut rowstream(&["serve", "--config", "/nowhere"]));
    assert!(code == Some(2) && err.contains("/nowhere"), "{err}");
}

#[test]
fn a_variable_that_nothing_reads_is_refused_and_the_likely_one_is_told() {
    let folder = TempDir::new().unwrap();
    let db = database(&folder);
    for command in ["check-config", "serve"] {
        let mut command = rowstream(&[command, "--db", &db]);
        command
            .env("ROWSTREAM_STAL_LIMIT", "3s")
            .env("ROWSTREAM_PORT", "tcp://10.0.0.7:8080");
        let (code, out, err) = ran(&mut command);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        let line = "ROWSTREAM_STAL_LIMIT: no setting has this name; did you mean ROWSTREAM_STALL_LIMIT?";
        assert!(err.contains(line) && !err.contains("ROWSTREAM_PORT"), "{err}");
    }
    // What other commands are told is nothing to them.
    let mut command = rowstream(&["token", "alice"]);
    assert_eq!(ran(command.env("ROWSTREAM_STAL_LIMIT", "3s")).0, Some(0));
}

#[test]
fn what_a_server_would_not_start_with_is_found_without_starting_one() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let db = database(&folder);
    let (_, line, _) = ran(&mut rowstream(&["token", "alice"]));
    std::fs::write(at("tokens"), &line).unwrap();
    let issued = crate::authority::Authority::new().issue();
    std::fs::write(at("chain.pem"), &issued.certificate).unwrap();
    std::fs::write(at("other.pem"), crate::authority::Authority::new().issue().key).unwrap();
    std::fs::write(at("junk"), "what is this").unwrap();
    for tokens in ["tokens", "junk"] {
        // There is nothing else to be said of them.
        std::fs::set_permissions(at(tokens), Permissions::from_mode(0o600)).unwrap();
    }
    let (tokens, chain, other, junk, nowhere) = (
        at("tokens"),
        at("chain.pem"),
        at("other.pem"),
        at("junk"),
        at("nowhere"),
    );
    let check = |flags: &[&str], code: i32, says: &str| {
        let of = |command: &str| ran(rowstream(&[command, "--drain-seconds", "7"]).args(flags));
        let (served, checked) = (of("serve"), of("check-config"));
        assert!(served.2.contains(says), "{flags:?}: {}", served.2);
        assert_eq!((served.0, checked.0), (Some(code), Some(code)), "{flags:?}");
        assert_eq!(served.2, checked.2, "{flags:?}: one is told what the other is");
        // Who has said what is wrong can be seen.
        assert!(
            checked.1.contains("drain_seconds = 7  # --drain-seconds\n"),
            "{}",
            checked.1
        );
    };
    check(&[], 2, "nothing to serve");
    let same = format!("a={db}");
    let with_db = |flags: &[&str], says: &str| check(&[&["--db", &db], flags].concat(), 1, says);
    with_db(&["--batch-size", "20000"], "batch_size 20000: 1 to batch_size_max");
    with_db(&["--message-bytes-max", "2MiB"], "message_bytes_max 2097152");
    with_db(&["--heartbeat-interval", "1h"], "heartbeat: the interval");
    with_db(&["--fragments-max", "0"], "fragments_max: at least 1");
    with_db(&["--held-bytes-max", "1000TiB"], "lower held_bytes_max");
    with_db(
        &["--listen", "0.0.0.0:0"],
        "everybody who can reach 0.0.0.0:0 could query",
    );
    with_db(
        &["--listen", "0.0.0.0:0", "--token-file", &tokens],
        "could read tokens and rows",
    );
    with_db(&["--listen", "0.0.0.0:0"], "see --token-file, --listen, --insecure");
    with_db(&["--admin-listen", "0.0.0.0:0"], "see what the server is busy with");
    with_db(&["--listen", "127.0.0.1"], "not an address to listen on");
    with_db(&["--admin-listen", "here"], "not an address to listen on");
    with_db(
        &["--allowed-origins", "app.example"],
        "allowed_origins: \"app.example\"",
    );
    with_db(&["--allowed-hosts", "http://db.example"], "allowed_hosts: ");
    with_db(&["--token-file", &nowhere], "nowhere");
    with_db(&["--token-file", &junk], "junk");
    with_db(&["--tls-certificate", &nowhere, "--tls-key", &other], "nowhere");
    with_db(&["--tls-certificate", &chain, "--tls-key", &other], "key");
    check(&["--db", &nowhere], 1, "nowhere: ");
    check(&["--db", &junk], 1, "junk: ");
    check(&["--db", &same, "--db", &same], 1, "two engines are called \"a\"");
}

#[test]
fn checking_settings_listens_nowhere_and_makes_no_data() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let socket = format!("unix:{}", folder.path().join("rowstream.sock").display());
    let mut command = rowstream(&[
        "check-config",
        "--demo",
        "100",
        "--listen",
        &address,
        "--listen",
        &socket,
    ]);
    let (code, out, err) = ran(command.env("TMPDIR", folder.path()));
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_that_others_can_reach_is_served_by_oversight() {
    let folder = TempDir::new().unwrap();
    let (code, _, err) = ran(&mut serve(&folder, &["--listen", "0.0.0.0:0"]));
    assert!(
        code == Some(1) && err.contains("everybody who can reach 0.0.0.0:0 could query"),
        "{err}"
    );
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, ran(&mut rowstream(&["token", "alice"])).1).unwrap();
    let tokens = tokens.to_str().unwrap();
    let (code, _, err) = ran(&mut serve(&folder, &["--listen", "0.0.0.0:0", "--token-file", tokens]));
    assert!(code == Some(1) && err.contains("could read tokens and rows"), "{err}");
    let command = serve(
        &folder,
        &["--listen", "0.0.0.0:0", "--token-file", tokens, "--insecure"],
    );
    let served = Served::start(command, TempDir::new().unwrap());
    assert!(served.url.starts_with("ws://0.0.0.0:"), "{}", served.url);
}

#[test]
fn the_defaults_scripts_and_pages_are_of_the_same_settings() {
    let (code, defaults, _) = ran(&mut rowstream(&["serve", "--print-default-config"]));
    assert_eq!(code, Some(0));
    assert!(
        defaults.contains("\n#listen = [\"127.0.0.1:8080\"]\n") && defaults.contains("# ---- Limits"),
        "{defaults}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = ran(&mut rowstream(&["completions", shell]));
        assert!(
            code == Some(0) && script.contains("drain-seconds") && script.contains("check-config"),
            "{shell}"
        );
    }
    let (code, page, _) = ran(&mut rowstream(&["man"]));
    assert!(
        code == Some(0) && page.contains(".TH rowstream") && page.contains("serve"),
        "{page}"
    );
    let (code, page, _) = ran(&mut rowstream(&["man", "serve"]));
    assert!(code == Some(0) && page.contains("stall\\-limit"), "{page}");
    assert_eq!(ran(&mut rowstream(&["man", "nothing"])).0, Some(2));
}

#[test]
fn a_server_is_what_its_settings_say() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("rowstream.sock");
    let unix = format!("unix:{}", socket.display());
    let path = file(
        &folder,
        &format!("listen = [\"127.0.0.1:0\", \"{unix}\"]\nquery_rate = \"off\"\nsqlite_profile = \"trusted\"\n"),
    );
    let mut served = Served::start(serve(&folder, &["--config", &path]), TempDir::new().unwrap());
    let mut second = String::new();
    served.out.read_line(&mut second).unwrap();
    assert_eq!(second.trim(), format!("listening on {unix}"));
    for url in [&served.url, &unix] {
        let (code, rows, err) = ran(&mut rowstream(&["query", url, "SELECT n FROM t", "--format", "csv"]));
        assert_eq!((code, rows.as_str()), (Some(0), "n\n7\n"), "{err}");
    }
    // Only a trusted query may make as much.
    let (code, _, err) = ran(&mut rowstream(&[
        "query",
        &served.url,
        "SELECT length(zeroblob(200000))",
    ]));
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn tokens_and_certificates_are_read_again_on_a_hang_up() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let authority = crate::authority::Authority::new();
    std::fs::write(at("ca.pem"), authority.pem()).unwrap();
    let issue = || {
        let issued = authority.issue();
        std::fs::write(at("chain.pem"), &issued.certificate).unwrap();
        std::fs::write(at("key.pem"), &issued.key).unwrap();
    };
    issue();
    let token = |name: &str| {
        let (_, line, token) = ran(&mut rowstream(&["token", name]));
        (line, token.trim().to_owned())
    };
    let (alices, alice) = token("alice");
    let (bobs, bob) = token("bob");
    std::fs::write(at("tokens"), &alices).unwrap();
    let (chain, key, tokens) = (at("chain.pem"), at("key.pem"), at("tokens"));
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--tls-certificate",
        &chain,
        "--tls-key",
        &key,
        "--token-file",
        &tokens,
    ];
    let mut command = serve(&folder, &flags);
    command
        .env("RUST_LOG", "info")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line
        .trim()
        .strip_prefix("listening on wss://127.0.0.1:")
        .unwrap()
        .to_owned();
    let url = format!("wss://localhost:{url}");
    let query = |token: &str| {
        let mut command = rowstream(&[
            "query",
            &url,
            "SELECT n FROM t",
            "--format",
            "csv",
            "--ca",
            &at("ca.pem"),
        ]);
        ran(command.env("ROWSTREAM_TOKEN", token))
    };
    assert_eq!(query(&alice), (Some(0), "n\n7\n".to_owned(), String::new()));
    assert_eq!(query(&bob).0, Some(3));
    std::fs::write(at("tokens"), &bobs).unwrap();
    issue();
    hang_up(process.id());
    eventually("bob's token", &Some(0), || query(&bob).0);
    assert_eq!(query(&alice).0, Some(3), "hers is not there any more");
    // What cannot be read changes nothing.
    std::fs::write(at("tokens"), "what is this").unwrap();
    std::fs::write(at("key.pem"), "and this").unwrap();
    hang_up(process.id());
    assert_eq!(query(&bob).0, Some(0));
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(Path::new(&at("tokens")).exists());
}

#[test]
fn a_file_that_is_never_read_holds_up_no_signal() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let become_pipe = |name: &str| {
        std::fs::remove_file(at(name)).unwrap();
        assert!(Command::new("mkfifo").arg(at(name)).status().unwrap().success());
    };
    let issued = crate::authority::Authority::new().issue();
    let (_, line, _) = ran(&mut rowstream(&["token", "alice"]));
    for (name, text) in [
        ("tokens", &line),
        ("chain.pem", &issued.certificate),
        ("key.pem", &issued.key),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    let (tokens, chain, key) = (at("tokens"), at("chain.pem"), at("key.pem"));
    let by_token = ["--listen", "127.0.0.1:0", "--token-file", &tokens];
    let mut command = serve(&folder, &by_token);
    command
        .args(["--tls-certificate", &chain, "--tls-key", &key])
        .env("RUST_LOG", "info")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut told = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut wait_for = |text: &str| {
        let found = told.find(|line| line.as_ref().unwrap().contains(text));
        assert!(found.is_some(), "{text} is not told");
    };
    wait_for("Ctrl-C stops the server");
    become_pipe("tokens");
    signal("-HUP", process.id());
    wait_for("name=tokens");
    // Reading this one takes for ever, if it has been begun by then.
    become_pipe("chain.pem");
    signal("-HUP", process.id());
    signal("-HUP", process.id());
    signal("-TERM", process.id());
    wait_for("draining");
    assert_eq!(process.wait().unwrap().code(), Some(0));
    // Nor is it waited for at the start.
    let (code, _, err) = ran(&mut serve(&folder, &by_token));
    assert!(code == Some(1) && err.contains("no regular file"), "{err}");
}

fn hang_up(process: u32) {
    signal("-HUP", process);
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}
