//! Behind nginx and HAProxy, each with its configuration of `examples/proxies`, on loopback and with TLS.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rowstream::client::{Client, Compression, Event, QueryStream};
use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::server::ServerBuilder;
use rowstream::{ClientError, ErrorCode, Server, ServerHandle};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{HandshakeError, Message};

use crate::authority::Authority;
use crate::cli::{Served, signal};
use crate::process::exit_of;
use crate::support::{DEADLINE, eventually};
use crate::tls::{Foreign, next, stream_to};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Haproxy,
}

const KINDS: [Kind; 2] = [Kind::Nginx, Kind::Haproxy];

/// What the configurations say, and longer than any of these tests is silent.
const UNHURRIED: &str = "60s";

/// A proxy of its own, of whom nothing is left when it is dropped.
struct Proxy {
    kind: Kind,
    process: Child,
    address: SocketAddr,
    ca: String,
    /// What a connection may be silent for.
    timeout: &'static str,
    folder: TempDir,
    /// Bound and never listening: nobody else is given the port, and who asks for this one gets it.
    _port: Socket,
}

impl Proxy {
    fn start(kind: Kind, servers: &[String], timeout: &'static str) -> Self {
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_address(true).unwrap();
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = port.local_addr().unwrap().as_socket().unwrap();
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        let issued = authority.issue();
        fs::write(folder.path().join("chain.pem"), &issued.certificate).unwrap();
        fs::write(folder.path().join("key.pem"), &issued.key).unwrap();
        fs::write(folder.path().join("both.pem"), issued.certificate + &issued.key).unwrap();
        configure(kind, folder.path(), address, servers, timeout);
        let mut command = kind.command(folder.path());
        let log = File::create(folder.path().join("log")).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{kind:?}: {error}; tests/run installs it"));
        let mut proxy = Self {
            kind,
            process,
            address,
            ca: authority.pem(),
            timeout,
            folder,
            _port: port,
        };
        proxy.wait_until_it_accepts();
        proxy
    }

    fn wait_until_it_accepts(&mut self) {
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(self.address).is_err() {
            let is_running = self.process.try_wait().unwrap().is_none();
            assert!(is_running && Instant::now() < end, "{:?}: {}", self.kind, self.log());
            std::thread::yield_now();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The library's client, through the proxy.
    fn client(&self) -> Client {
        let builder = Client::builder().ca_pem(self.ca.as_bytes()).unwrap();
        let url = format!("wss://localhost:{}/ws", self.address.port());
        builder
            .connect(&url)
            .unwrap_or_else(|error| panic!("{:?}: {error}\n{}", self.kind, self.log()))
    }

    /// Somebody else's, which calls the server by this name; or the status of the refusal.
    fn foreign(&self, host: &str, origin: Option<&str>) -> Result<Foreign, u16> {
        let mut request = format!("wss://{host}/ws").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        let stream = stream_to(self.address, &self.ca, &rustls::version::TLS13);
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().as_u16()),
            Err(error) => panic!("{:?}: {error}\n{}", self.kind, self.log()),
        }
    }

    /// Which server answers.
    fn server_id(&self) -> String {
        id_of(&self.client())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx takes its workers along.
        signal(&self.process, "-TERM");
        self.process.wait().unwrap();
    }
}

impl Kind {
    fn command(self, folder: &Path) -> Command {
        let mut command = match self {
            Self::Nginx => {
                let mut command = Command::new("nginx");
                command.args(["-e", "stderr", "-g", "daemon off;", "-p"]).arg(folder);
                command.arg("-c").arg(folder.join("conf"));
                command
            }
            Self::Haproxy => {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(folder.join("conf"));
                command
            }
        };
        // Where Debian has them, which is not in everybody's path.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
        command
    }
}

/// The file as users are given it, with what differs here in the place of what is there.
fn changed(file: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(file.to_owned(), |file, (old, new)| {
        assert_eq!(file.matches(old).count(), 1, "{old:?} is in the file once");
        file.replace(old, new)
    })
}

fn configure(kind: Kind, folder: &Path, address: SocketAddr, servers: &[String], timeout: &str) {
    let path = folder.to_str().unwrap();
    let mut lines = String::new();
    for (name, server) in ["a", "b"].iter().zip(servers) {
        match kind {
            Kind::Nginx => writeln!(lines, "    server {server};").unwrap(),
            Kind::Haproxy => writeln!(lines, "    server {name} {server}").unwrap(),
        }
    }
    let text = match kind {
        Kind::Nginx => {
            let site = changed(
                include_str!("../../examples/proxies/nginx.conf"),
                &[
                    ("    server 127.0.0.1:8080;\n", &lines),
                    ("listen 443 ssl;", &format!("listen {address} ssl;")),
                    ("/etc/ssl/db.example.pem", &format!("{path}/chain.pem")),
                    ("/etc/ssl/db.example.key", &format!("{path}/key.pem")),
                    ("proxy_read_timeout 60s;", &format!("proxy_read_timeout {timeout};")),
                    ("proxy_send_timeout 60s;", &format!("proxy_send_timeout {timeout};")),
                ],
            );
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|what| format!("{what}_temp_path {path}/{what};\n"))
                .collect();
            // Where it is started by root, its workers are to reach sockets in the tests' folders.
            format!(
                "user root;\npid {path}/pid;\nworker_processes 1;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
            )
        }
        Kind::Haproxy => {
            let site = changed(
                include_str!("../../examples/proxies/haproxy.cfg"),
                &[
                    ("    server a 127.0.0.1:8080\n    server b 127.0.0.1:8081\n", &lines),
                    ("bind :443 ssl", &format!("bind {address} ssl")),
                    ("/etc/haproxy/db.example.pem", &format!("{path}/both.pem")),
                    ("timeout tunnel 60s", &format!("timeout tunnel {timeout}")),
                    ("inter 2s", "inter 100ms"),
                ],
            );
            format!("global\n    stats socket {path}/stats\n    maxconn 200\n\n{site}")
        }
    };
    fs::write(folder.join("conf"), text).unwrap();
}

fn builder(engine: &MemoryEngine) -> ServerBuilder {
    Server::builder().engine("memory", engine.clone()).listen("127.0.0.1:0")
}

fn place(server: &ServerHandle) -> String {
    server.local_addr().unwrap().to_string()
}

fn id_of(client: &Client) -> String {
    client.welcome().unwrap().unwrap().server_id.to_string()
}

fn count(kind: Kind, events: QueryStream) -> usize {
    events
        .map(|batch| batch.unwrap_or_else(|error| panic!("{kind:?}: {error}")).len())
        .sum()
}

/// Plain JSON, compressed batches, and Arrow.
fn check_rows(proxy: &Proxy, sql: &str, n_rows: usize) {
    let mut socket = proxy.foreign("localhost", None).unwrap();
    let query = json!({"type": "stream_query", "query": sql, "batch_size": 100});
    socket.send(Message::text(query.to_string())).unwrap();
    let mut n_seen = 0;
    loop {
        let message = next(&mut socket);
        match message["type"].as_str().unwrap() {
            "query_batch" => n_seen += message["rows"].as_array().unwrap().len(),
            "query_completed" => break,
            "query_started" | "query_progress" => {}
            _ => panic!("{message}"),
        }
    }
    socket.close(None).unwrap();
    let client = proxy.client();
    let zipped = client.query(sql).compression([Compression::Gzip]).start().unwrap();
    let in_columns = client.query(sql).record_batches().unwrap();
    let n_in_columns: usize = in_columns.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(
        (n_seen, count(proxy.kind, zipped), n_in_columns),
        (n_rows, n_rows, n_rows),
        "{:?}",
        proxy.kind
    );
}

const COUNTING: &str =
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT i, i || ': text' AS text FROM n";

#[test]
fn rows_come_through_proxies_that_have_the_certificate() {
    let served = Served::new();
    for kind in KINDS {
        let proxy = Proxy::start(kind, &[served.address().to_string()], UNHURRIED);
        check_rows(&proxy, COUNTING, 5_000);
    }
}

#[test]
fn rows_come_from_a_unix_socket_through_proxies() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let script = Script::new(["n"]).generate(5_000, |n| vec![(n as i64).into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = Server::builder().engine("memory", engine).listen_unix(&path);
    let server = server.start().unwrap();
    for kind in KINDS {
        let place = match kind {
            Kind::Nginx => format!("unix:{}", path.display()),
            Kind::Haproxy => format!("unix@{}", path.display()),
        };
        check_rows(&Proxy::start(kind, &[place], UNHURRIED), "q", 5_000);
    }
    server.shutdown();
}

/// A query that says nothing between its first row and the second.
fn silent() -> (MemoryEngine, Gate) {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    (MemoryEngine::builder().query("silent", script).build(), gate)
}

/// The pings are the clock: there are 400 ms between two at the least, so that twelve are more than the proxy's 3 s.
fn check_silence(kind: Kind) {
    let (engine, gate) = silent();
    let heartbeat = Duration::from_millis(400);
    let server = builder(&engine).heartbeat(heartbeat, DEADLINE).start().unwrap();
    let proxy = Proxy::start(kind, &[place(&server)], "3s");
    let mut socket = proxy.foreign("localhost", None).unwrap();
    let query = json!({"type": "stream_query", "query": "silent", "progress_interval_ms": 0});
    socket.send(Message::text(query.to_string())).unwrap();
    assert_eq!(next(&mut socket)["type"], "query_started");
    assert_eq!(next(&mut socket)["type"], "query_batch");
    let started_at = Instant::now();
    let mut n_pings = 0;
    while n_pings < 12 {
        match socket.read() {
            Ok(Message::Ping(_)) => n_pings += 1,
            other => panic!("{kind:?} after {n_pings} pings: {other:?}\n{}", proxy.log()),
        }
    }
    assert!(started_at.elapsed() > Duration::from_secs(3), "longer than the proxy's");
    gate.open();
    assert_eq!(next(&mut socket)["type"], "query_batch");
    assert_eq!(next(&mut socket)["type"], "query_completed");
}

#[test]
fn pings_keep_a_long_silent_query_through_nginx() {
    check_silence(Kind::Nginx);
}

#[test]
fn pings_keep_a_long_silent_query_through_haproxy() {
    check_silence(Kind::Haproxy);
}

/// What the heartbeat is for: its 15 s are longer than this proxy's one. Who comes back comes to the server that has the stream.
#[test]
fn a_proxy_that_waits_for_less_than_the_heartbeat_cuts_and_the_client_resumes() {
    for kind in KINDS {
        let (engine, gate) = silent();
        let servers = [0, 1].map(|_| builder(&engine).start().unwrap());
        let proxy = Proxy::start(kind, &servers.each_ref().map(place), "1s");
        let client = proxy.client();
        let query = client.query("silent").resumable(true).progress_interval(Duration::ZERO);
        let mut stream = query.start().unwrap();
        let (mut rows, mut is_cut, mut is_resumed) = (Vec::new(), false, false);
        while let Some(event) = stream.next_event().unwrap() {
            match event {
                Event::Batch(batch) => rows.extend(batch.rows().map(|row| row.get::<i64>("n").unwrap())),
                Event::Reconnecting => is_cut = true,
                Event::Resumed => {
                    is_resumed = true;
                    gate.open();
                }
                _ => {}
            }
        }
        assert_eq!((rows, is_cut, is_resumed), (vec![1, 2], true, true), "{kind:?}");
        client.close();
        eventually("cursors", &0, || engine.probe().cursors_open);
    }
}

#[test]
fn a_server_answers_to_the_name_that_it_was_given_and_to_its_own_pages() {
    let engine = MemoryEngine::builder().build();
    let nameless = builder(&engine).start().unwrap();
    let named = builder(&engine).allowed_hosts(["db.example"]).start().unwrap();
    for kind in KINDS {
        let status = |server: &ServerHandle, host: &str, origin: Option<&str>| {
            let proxy = Proxy::start(kind, &[place(server)], UNHURRIED);
            proxy.foreign(host, origin).map_or_else(|status| status, |_| 101)
        };
        assert_eq!(status(&nameless, "db.example", None), 421, "{kind:?}");
        assert_eq!(status(&named, "db.example", None), 101, "{kind:?}");
        assert_eq!(
            status(&named, "db.example", Some("https://db.example")),
            101,
            "{kind:?}"
        );
        assert_eq!(
            status(&named, "db.example", Some("https://elsewhere.example")),
            403,
            "{kind:?}"
        );
    }
}

#[test]
fn who_comes_through_a_proxy_of_this_machine_is_not_counted_by_address() {
    let engine = MemoryEngine::builder().build();
    let server = builder(&engine).start().unwrap();
    for kind in KINDS {
        let proxy = Proxy::start(kind, &[place(&server)], UNHURRIED);
        let all: Vec<Foreign> = (0..40).map(|_| proxy.foreign("localhost", None).unwrap()).collect();
        // HAProxy's own looks at the server come and go beside them.
        assert!(server.connections() >= all.len(), "{kind:?}");
        drop(all);
        eventually("connections", &0, || server.connections());
    }
}

/// Two servers, and a stream on one of them, whose number is given: it stands still until it is read.
fn two(kind: Kind) -> (Proxy, [Served; 2], [String; 2], Client, usize) {
    let served = [Served::new(), Served::new()];
    let ids = [0, 1].map(|n| id_of(&Client::connect(&served[n].url).unwrap()));
    let places = [0, 1].map(|n| served[n].address().to_string());
    let proxy = Proxy::start(kind, &places, UNHURRIED);
    let client = proxy.client();
    let id = id_of(&client);
    let drained = ids.iter().position(|of| *of == id).unwrap();
    (proxy, served, ids, client, drained)
}

/// The stream has all rows, and the server that drains ends as it should.
fn check_drained(kind: Kind, stream: QueryStream, served: &mut Served) {
    assert_eq!(count(kind, stream), 5_000, "{kind:?}");
    assert_eq!(exit_of(&mut served.process).code(), Some(0), "{kind:?}");
}

fn start(client: &Client) -> QueryStream {
    let query = client.query(COUNTING).batch_size(10).window(1, 1 << 20);
    until_started(query.start().unwrap())
}

fn until_started(mut stream: QueryStream) -> QueryStream {
    while !matches!(stream.next_event().unwrap().unwrap(), Event::Columns | Event::Started) {}
    stream
}

/// Waits until HAProxy gives a server no new connections.
fn wait_until_taken_out(proxy: &Proxy, drained: usize) {
    let row = format!("rowstream,{},", ["a", "b"][drained]);
    eventually("is taken out", &true, || {
        let mut socket = UnixStream::connect(proxy.folder.path().join("stats")).unwrap();
        socket.write_all(b"show stat\n").unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).unwrap();
        table
            .lines()
            .any(|line| line.starts_with(&row) && line.contains(",DOWN,"))
    });
}

#[test]
fn haproxy_takes_a_server_out_that_drains_and_its_streams_end() {
    let (proxy, mut served, ids, client, drained) = two(Kind::Haproxy);
    let stream = start(&client);
    signal(&served[drained].process, "-TERM");
    wait_until_taken_out(&proxy, drained);
    for _ in 0..4 {
        assert_eq!(proxy.server_id(), ids[1 - drained]);
    }
    check_drained(Kind::Haproxy, stream, &mut served[drained]);
    check_rows(&proxy, COUNTING, 5_000);
}

#[test]
fn nginx_takes_a_server_out_when_it_is_told_and_its_streams_end() {
    let (proxy, mut served, ids, client, drained) = two(Kind::Nginx);
    let stream = start(&client);
    let mut places = [0, 1].map(|n| served[n].address().to_string());
    places[drained].push_str(" down");
    configure(Kind::Nginx, proxy.folder.path(), proxy.address, &places, proxy.timeout);
    signal(&proxy.process, "-HUP");
    eventually("is taken out", &true, || {
        (0..4).all(|_| proxy.server_id() == ids[1 - drained])
    });
    signal(&served[drained].process, "-TERM");
    check_drained(Kind::Nginx, stream, &mut served[drained]);
    check_rows(&proxy, COUNTING, 5_000);
}

#[test]
fn nginx_passes_over_a_server_that_is_gone() {
    let (proxy, mut served, ids, client, drained) = two(Kind::Nginx);
    client.close();
    signal(&served[drained].process, "-TERM");
    assert_eq!(exit_of(&mut served[drained].process).code(), Some(0));
    for _ in 0..4 {
        assert_eq!(proxy.server_id(), ids[1 - drained]);
    }
}

fn say(socket: &mut Foreign, message: &Value) {
    socket.send(Message::text(message.to_string())).unwrap();
}

/// Numbers from 0 in batches of one, two of which may wait for their acknowledgement; the token to go on with.
fn start_numbers(socket: &mut Foreign) -> Value {
    let query = json!({
        "type": "stream_query", "query": COUNTING, "row_format": "array", "batch_size": 1, "window": {"batches": 2},
        "resumable": true, "progress_interval_ms": 0,
    });
    say(socket, &query);
    let token = next(socket)["resume_token"].clone();
    assert!(token.is_string(), "{token}");
    for n in 0..2 {
        assert_eq!(next(socket)["rows"][0][0], n);
    }
    token
}

/// A client that comes to another server than the one that has its stream is told that it is none of this one's, and gets no row.
fn check_is_denied(proxy: &Proxy, token: &Value, server_id: &str) {
    let mut socket = proxy.foreign("localhost", None).unwrap();
    say(&mut socket, &json!({"type": "hello"}));
    assert_eq!(next(&mut socket)["server_id"], server_id, "{:?}", proxy.kind);
    let resume = json!({"type": "resume_query", "resume_token": token, "last_batch": 0, "request_id": "again"});
    say(&mut socket, &resume);
    let refusal = next(&mut socket);
    assert_eq!(
        json!([
            refusal["type"],
            refusal["code"],
            refusal["retryable"],
            refusal["request_id"]
        ]),
        json!(["error", "RESUME_DENIED", false, "again"]),
        "{refusal}"
    );
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .contains("no stream of this server"),
        "{refusal}"
    );
    say(&mut socket, &json!({"type": "ping", "timestamp": "nothing more"}));
    assert_eq!(next(&mut socket)["timestamp"], "nothing more");
}

/// The server ends by force, and the client library comes back through the proxy to the other one.
fn check_cut(kind: Kind, mut stream: QueryStream, served: &mut Served) {
    signal(&served.process, "-TERM");
    assert_eq!(exit_of(&mut served.process).code(), Some(143), "the second signal");
    let (mut rows, mut is_cut) = (Vec::new(), false);
    let error = loop {
        match stream.next_event() {
            Ok(Some(Event::Batch(batch))) => rows.extend(batch.rows().map(|row| row.get::<i64>("i").unwrap())),
            Ok(Some(Event::Reconnecting)) => is_cut = true,
            Ok(Some(_)) => {}
            Ok(None) => panic!("{kind:?}: all of {} rows", rows.len()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, ClientError::Query(refusal) if refusal.code == ErrorCode::ResumeDenied),
        "{kind:?}: {error:?}"
    );
    assert!(is_cut, "{kind:?}");
    assert!(rows.iter().copied().eq(0..rows.len() as i64), "{kind:?}: {rows:?}");
}

#[test]
fn who_comes_back_from_a_server_that_drains_is_refused_by_another_in_so_many_words() {
    let (proxy, mut served, ids, client, drained) = two(Kind::Haproxy);
    let query = client.query(COUNTING).batch_size(10).window(1, 1 << 20).resumable(true);
    let stream = until_started(query.start().unwrap());
    let mut socket = proxy.foreign("localhost", None).unwrap();
    let token = start_numbers(&mut socket);
    let mut idle = proxy.foreign("localhost", None).unwrap();
    say(&mut idle, &json!({"type": "hello"}));
    assert_eq!(next(&mut idle)["server_id"], ids[drained]);
    signal(&served[drained].process, "-TERM");
    for socket in [&mut idle, &mut socket] {
        let goaway = next(socket);
        assert_eq!(
            (&goaway["type"], &goaway["resumable"]),
            (&json!("goaway"), &json!(true)),
            "{goaway}"
        );
    }
    match idle.read().unwrap() {
        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1012, "{close}"),
        other => panic!("{other:?}"),
    }
    wait_until_taken_out(&proxy, drained);
    drop(socket);
    check_is_denied(&proxy, &token, &ids[1 - drained]);
    check_cut(Kind::Haproxy, stream, &mut served[drained]);
    check_rows(&proxy, COUNTING, 5_000);
}

#[test]
fn who_comes_back_from_a_server_that_is_gone_is_refused_by_another_in_so_many_words() {
    let (proxy, mut served, ids, client, drained) = two(Kind::Nginx);
    let query = client.query(COUNTING).batch_size(10).window(1, 1 << 20).resumable(true);
    let stream = until_started(query.start().unwrap());
    let mut socket = proxy.foreign("localhost", None).unwrap();
    let token = start_numbers(&mut socket);
    signal(&served[drained].process, "-TERM");
    assert_eq!(next(&mut socket)["type"], "goaway", "the first signal is heard");
    check_cut(Kind::Nginx, stream, &mut served[drained]);
    check_is_denied(&proxy, &token, &ids[1 - drained]);
    check_rows(&proxy, COUNTING, 5_000);
}
