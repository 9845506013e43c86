//! Whose pages may connect, by which names the server may be called, and where it may listen without asking who comes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rowstream::Server;
use rowstream::server::StartError;

use crate::auth::{ALICE, Few, builder, check_status, engine};
use crate::support::{DEADLINE, eventually};

#[test]
fn pages_of_others_are_refused_before_the_upgrade() {
    let server = builder().allowed_origins(["https://app.example"]).start().unwrap();
    let address = server.local_addr().unwrap();
    for origin in [
        "null",
        "",
        "*",
        "file://",
        "http://evil.example",
        "https://evil.example",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "https://app.example:8443",
        "https://app.example/",
        "http://app.example",
        "https://app.example, https://evil.example",
        "http://localhost",
        "http://localhost:1",
        "http://localhost.evil.example",
        &format!("http://localhost:{}0", address.port()),
        &format!("http://127.0.0.1:{}", address.port()),
    ] {
        let headers = format!(
            "Host: localhost:{}\r\nOrigin: {origin}\r\nAuthorization: Bearer {ALICE}\r\n",
            address.port()
        );
        check_status(&server, &headers, "403");
    }
    check_status(
        &server,
        "Origin: https://app.example\r\nOrigin: https://app.example\r\n",
        "403",
    );
    check_status(&server, "Origin: https://app.example\r\n", "101");
    check_status(&server, "Origin: http://localhost\r\n", "101");
    let own = format!("Host: {address}\r\nOrigin: http://{address}\r\n");
    check_status(&server, &own, "101");
    check_status(&server, "", "101");
    eventually("connections", &0, || server.connections());
}

#[test]
fn a_server_on_loopback_answers_to_no_name_that_it_was_not_given() {
    let server = builder().start().unwrap();
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1.evil.example:8080",
        "localhost:80@evil.example",
        "[::1].evil.example",
        "localhost, evil.example",
        "LOCALHOST.",
        "",
    ] {
        check_status(&server, &format!("Host: {host}\r\nOrigin: http://{host}\r\n"), "421");
        for path in ["/", "/healthz"] {
            let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
                .unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 421 "), "{host}{path}: {answer}");
        }
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]", "192.0.2.1"] {
        check_status(&server, &format!("Host: {host}\r\n"), "101");
    }
    let named = builder().allowed_hosts(["db.example"]).start().unwrap();
    check_status(
        &named,
        "Host: db.example:8080\r\nOrigin: http://db.example:8080\r\n",
        "101",
    );
    check_status(&named, "Host: evil.example\r\n", "421");
    // Nobody is asked: then a name that a page has made up must not do.
    let open = Server::builder()
        .engine("first", engine())
        .listen("0.0.0.0:0")
        .insecure(true)
        .start()
        .unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", open.local_addr().unwrap().port())).unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

/// What is answered to a request that calls the server so.
fn status_of(mut socket: impl Read + Write, host: &str) -> String {
    write!(socket, "GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer[9..12].to_owned()
}

#[cfg(unix)]
#[test]
fn no_page_comes_by_a_unix_socket_so_that_any_name_will_do_unless_some_are_listed() {
    use std::os::unix::net::UnixStream;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    let builder = || Server::builder().engine("first", engine()).listen_unix(&path);
    let status = |host| {
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        status_of(socket, host)
    };
    let alone = builder().start().unwrap();
    assert_eq!(["whatever.example", "localhost"].map(status), ["200", "200"]);
    drop(alone);
    let listed = builder().allowed_hosts(["db.example"]).start().unwrap();
    assert_eq!(["whatever.example", "db.example"].map(status), ["421", "200"]);
    drop(listed);
    // Pages come by the other address, and the names are one list for both.
    let beside_tcp = builder().listen("127.0.0.1:0").start().unwrap();
    assert_eq!(["whatever.example", "localhost"].map(status), ["421", "200"]);
    drop(beside_tcp);
}

#[test]
fn the_operators_address_answers_to_names_that_it_was_given_and_to_no_others() {
    let status = |server: &rowstream::ServerHandle, host: &str| {
        let socket = TcpStream::connect(server.admin_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        status_of(socket, host)
    };
    let on_loopback = || builder().admin_listen("127.0.0.1:0");
    // Any name will do where clients come, who are asked for a token: operators are not.
    let exposed = || {
        let server = Server::builder().engine("first", engine()).authenticator(Few);
        server.insecure(true).listen("0.0.0.0:0").admin_listen("0.0.0.0:0")
    };
    for builder in [on_loopback(), exposed()] {
        let server = builder.start().unwrap();
        for (host, expected) in [
            ("evil.example", "421"),
            ("localhost:1", "200"),
            ("10.0.0.1:9090", "200"),
        ] {
            assert_eq!(status(&server, host), expected, "{host}");
        }
    }
    for builder in [on_loopback(), exposed()] {
        let server = builder.allowed_hosts(["metrics.example"]).start().unwrap();
        for (host, expected) in [("evil.example", "421"), ("metrics.example:9090", "200")] {
            assert_eq!(status(&server, host), expected, "{host}");
        }
    }
}

#[test]
fn a_server_that_others_can_reach_asks_who_they_are_or_says_that_it_does_not() {
    let builder = || Server::builder().engine("first", engine());
    for address in ["0.0.0.0:0", "[::]:0"] {
        let refused = builder().listen(address).start().unwrap_err();
        assert!(matches!(refused, StartError::Exposed(_)), "{refused:?}");
        assert!(refused.to_string().contains("authenticator"), "{refused}");
    }
    let clear = builder().listen("0.0.0.0:0").authenticator(Few).start().unwrap_err();
    assert!(matches!(clear, StartError::InClear(_)), "{clear:?}");
    assert!(clear.to_string().contains("certificate"), "{clear}");
    for builder in [
        builder().listen("0.0.0.0:0").authenticator(Few).insecure(true),
        builder().listen("0.0.0.0:0").insecure(true),
        builder().listen("127.0.0.1:0"),
        builder(),
    ] {
        drop(builder.start().unwrap());
    }
    for wrong in [
        builder().allowed_origins(["https://app.example/"]),
        builder().allowed_hosts(["http://db.example"]),
        builder().auth_deadline(Duration::ZERO),
        builder().echo().authenticator(Few),
    ] {
        assert!(matches!(wrong.start(), Err(StartError::Setting(_))));
    }
}
