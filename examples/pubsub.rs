//! Publish and subscribe beside queries, on one socket: messages of the application's own, with channels whose names may have
//! wildcards.
//!
//! A client says `{"type": "subscribe", "channel": "orders.*"}` and from then on gets every `{"type": "message", …}` that anybody
//! publishes there, between the batches of its queries. In a channel's name `*` stands for one segment and `**` for any number.
//! A subscriber that does not read loses the oldest messages, and never a row.
//!
//! ```text
//! cargo run --example pubsub
//! ```
#![allow(clippy::print_stdout)] // an example shows what it does

use std::collections::HashMap;
use std::error::Error;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};

use rowstream::server::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow};
use rowstream::{MemoryEngine, Script, Server};
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Subscriptions of one connection: more are refused.
const PATTERNS_MAX: usize = 100;

/// What clients say beside the protocol.
#[derive(Deserialize)]
struct Request {
    channel: String,
    #[serde(default)]
    data: Value,
}

/// Who wants to hear what.
#[derive(Default)]
struct Broker {
    patterns: Mutex<HashMap<ConnectionSender, Vec<String>>>,
}

impl Broker {
    fn patterns(&self) -> std::sync::MutexGuard<'_, HashMap<ConnectionSender, Vec<String>>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to everybody who has subscribed; returns how many that are.
    fn publish(&self, channel: &str, data: &Value) -> usize {
        let text = json!({"type": "message", "channel": channel, "data": data}).to_string();
        // Sending never blocks, but it is somebody else's code: not under the lock.
        let receivers: Vec<ConnectionSender> = self
            .patterns()
            .iter()
            .filter(|(_, patterns)| patterns.iter().any(|pattern| matches(pattern, channel)))
            .map(|(connection, _)| connection.clone())
            .collect();
        for receiver in &receivers {
            receiver.send(text.as_str(), Overflow::DropOldest);
        }
        receivers.len()
    }

    fn answer(&self, kind: &str, request: &Request, connection: &ConnectionSender) -> Value {
        let channel = &request.channel;
        match kind {
            "subscribe" => {
                let mut all = self.patterns();
                let patterns = all.entry(connection.clone()).or_default();
                if patterns.len() == PATTERNS_MAX {
                    return json!({"type": "refused", "reason": format!("at most {PATTERNS_MAX} subscriptions")});
                }
                if !patterns.contains(channel) {
                    patterns.push(channel.clone());
                }
                json!({"type": "subscribed", "channel": channel})
            }
            "unsubscribe" => {
                if let Some(patterns) = self.patterns().get_mut(connection) {
                    patterns.retain(|pattern| pattern != channel);
                }
                json!({"type": "unsubscribed", "channel": channel})
            }
            _ => json!({"type": "published", "channel": channel, "receivers": self.publish(channel, &request.data)}),
        }
    }
}

impl MessageHandler for Broker {
    fn message(&self, message: ApplicationMessage<'_>, connection: &ConnectionSender) -> Handled {
        if !["subscribe", "unsubscribe", "publish"].contains(&message.kind) {
            return Handled::No;
        }
        let answer = match serde_json::from_str::<Request>(message.text) {
            Ok(request) => self.answer(message.kind, &request, connection),
            Err(error) => json!({"type": "refused", "reason": error.to_string()}),
        };
        connection.send(answer.to_string(), Overflow::Disconnect);
        Handled::Yes
    }

    fn disconnected(&self, connection: &ConnectionSender) {
        self.patterns().remove(connection);
    }
}

/// Whether a channel's name fits a pattern, segment by segment.
fn matches(pattern: &str, channel: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let channel: Vec<&str> = channel.split('.').collect();
    // Where the last `**` stands and how much it has swallowed: only that one ever has to swallow more.
    let (mut at, mut next, mut star) = (0, 0, None);
    while next < channel.len() {
        match pattern.get(at) {
            Some(&"**") => {
                star = Some((at, next));
                at += 1;
            }
            Some(segment) if *segment == "*" || *segment == channel[next] => {
                at += 1;
                next += 1;
            }
            _ => match star {
                Some((star_at, swallowed)) => {
                    star = Some((star_at, swallowed + 1));
                    (at, next) = (star_at + 1, swallowed + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|segment| *segment == "**")
}

/// A client that knows WebSocket and JSON.
struct Client(WebSocket<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        let (socket, _) =
            tungstenite::client(format!("ws://{address}/ws"), stream).map_err(|error| error.to_string())?;
        Ok(Self(socket))
    }

    fn say(&mut self, message: &Value) -> Result<(), Box<dyn Error>> {
        Ok(self.0.send(Message::text(message.to_string()))?)
    }

    fn hear(&mut self) -> Result<Value, Box<dyn Error>> {
        loop {
            if let Message::Text(text) = self.0.read()? {
                return Ok(serde_json::from_str(&text)?);
            }
        }
    }

    /// Hears until a message of this type, which it returns.
    fn hear_until(&mut self, kind: &str) -> Result<Value, Box<dyn Error>> {
        loop {
            let message = self.hear()?;
            if message["type"] == kind {
                return Ok(message);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    for (pattern, channel, expected) in [
        ("orders.new", "orders.new", true),
        ("orders.*", "orders.new", true),
        ("orders.*", "orders.new.eu", false),
        ("orders.**", "orders.new.eu", true),
        ("**.eu", "orders.new.eu", true),
        ("orders.**.eu", "orders.eu", true),
        ("*", "orders.new", false),
        ("**.a.**.b", "x.a.y.a.b", true),
    ] {
        assert_eq!(matches(pattern, channel), expected, "{pattern} and {channel}");
    }

    let endless = Script::new(["n"]).generate(1 << 40, |n| vec![(n as i64).into()]);
    let server = Server::builder()
        .engine("memory", MemoryEngine::builder().query("numbers", endless).build())
        .message_handler(Broker::default())
        .listen("127.0.0.1:0")
        .start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;

    // One connection with a query that goes on and on, and a subscription beside it.
    let mut listener = Client::connect(address)?;
    listener.say(&json!({"type": "stream_query", "query": "numbers", "window": {"batches": 4}}))?;
    let stream = listener.hear_until("query_started")?["stream_id"].clone();
    // Until the window is full: other messages may overtake rows that are still on their way.
    for _ in 0..4 {
        listener.hear_until("query_batch")?;
    }
    listener.say(&json!({"type": "subscribe", "channel": "orders.**"}))?;
    println!("subscribed to {}", listener.hear_until("subscribed")?["channel"]);

    let mut speaker = Client::connect(address)?;
    for channel in ["orders.new", "invoices.new", "orders.new.eu"] {
        speaker.say(&json!({"type": "publish", "channel": channel, "data": {"id": 7}}))?;
        let published = speaker.hear_until("published")?;
        println!("published on {channel}: {} receivers", published["receivers"]);
    }
    for _ in 0..2 {
        let message = listener.hear_until("message")?;
        println!("heard {} on {}", message["data"], message["channel"]);
    }
    // The rows are all there, too.
    listener.say(&json!({"type": "ack", "stream_id": stream, "batch_number": 3}))?;
    let batch = listener.hear_until("query_batch")?;
    println!("batch {} came beside them", batch["batch_number"]);

    listener.say(&json!({"type": "unsubscribe", "channel": "orders.**"}))?;
    listener.hear_until("unsubscribed")?;
    speaker.say(&json!({"type": "publish", "channel": "orders.new"}))?;
    println!(
        "after unsubscribing: {} receivers",
        speaker.hear_until("published")?["receivers"]
    );
    speaker.say(&json!({"type": "sing"}))?;
    println!("what nobody knows: {}", speaker.hear_until("error")?["code"]);
    server.shutdown();
    Ok(())
}
