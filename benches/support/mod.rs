//! What the benchmarks share: a server process, and a client that costs next to nothing.
#![allow(dead_code, unreachable_pub)] // each benchmark uses a part of it

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A `rowstream serve` process.
pub struct Server {
    pub process: Child,
    pub address: String,
    /// What it said of its memory.
    pub memory_bound: String,
}

impl Server {
    pub fn start(database: &str, flags: &[&str]) -> Self {
        Self::start_in_shell(":", database, flags)
    }

    /// After a command of the shell that stays in force for it.
    pub fn start_in_shell(command: &str, database: &str, flags: &[&str]) -> Self {
        let mut process = Command::new("sh")
            .args([
                "-c",
                &format!("{command}; exec \"$0\" \"$@\""),
                env!("CARGO_BIN_EXE_rowstream"),
            ])
            .args(["serve", "--listen", "127.0.0.1:0", "--db", database])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        let address = line.strip_prefix("listening on ws://").unwrap();
        let address = address.strip_suffix("/ws").unwrap().to_owned();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let memory_bound = said
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("memory: ").map(str::to_owned))
            .unwrap();
        // What it says later is read and dropped.
        std::thread::spawn(move || said.for_each(drop));
        Self {
            process,
            address,
            memory_bound,
        }
    }

    /// CPU time of all its threads that are alive, in nanoseconds.
    pub fn cpu_ns(&self) -> f64 {
        cpu_ns_of(self.process.id())
    }

    pub fn memory_kib(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

pub fn cpu_ns_of(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .map(|line| line.split_whitespace().next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Just enough of a WebSocket client to cost next to nothing.
pub struct Client {
    pub socket: BufReader<TcpStream>,
    message: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut client = Self {
            socket: BufReader::with_capacity(256 * 1024, socket),
            message: Vec::new(),
        };
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.socket.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            client.socket.read_line(&mut line).unwrap();
        }
        client
    }

    /// Sends a text message, masked with the key 0.
    pub fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()).unwrap() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend(len.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.socket.get_mut().write_all(&frame).unwrap();
    }

    pub fn read_message(&mut self) -> &[u8] {
        let mut head = [0; 2];
        self.socket.read_exact(&mut head).unwrap();
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.socket.read_exact(&mut len).unwrap();
                usize::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.socket.read_exact(&mut len).unwrap();
                u64::from_be_bytes(len) as usize
            }
            len => usize::from(len),
        };
        self.message.resize(len, 0);
        self.socket.read_exact(&mut self.message).unwrap();
        assert!(
            !self.message.starts_with(b"{\"type\":\"error\""),
            "{}",
            String::from_utf8_lossy(&self.message)
        );
        &self.message
    }

    /// Reads until a message of this type, and returns it.
    pub fn until(&mut self, ty: &str) -> String {
        let wanted = format!("{{\"type\":\"{ty}\"");
        loop {
            let message = self.read_message();
            if message.starts_with(wanted.as_bytes()) {
                return String::from_utf8(message.to_vec()).unwrap();
            }
        }
    }

    /// Reads a message if one comes until `until`.
    pub fn try_drain(&mut self, until: Instant) {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_micros(1));
        self.socket.get_ref().set_read_timeout(Some(left)).unwrap();
        let has_some = self.socket.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        self.socket.get_ref().set_read_timeout(None).unwrap();
        if has_some {
            self.read_message();
        }
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn quantiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
    format!("median {:.2}, p99 {:.2}, worst {:.2}", at(0.5), at(0.99), at(1.0))
}
