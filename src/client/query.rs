//! A query before it is sent: its text, its parameters, and what the server shall do differently.
//!
//! Must not know how the result comes back.

use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::stream::Consumption;
use super::{ClientError, QueryStream};
use crate::clock::millis;
use crate::protocol::{Compression, DataFormat, StreamQuery, TraceParent, WindowRequest};
use crate::rows::{ArrowMixed, Int64Encoding, Params, RowFormat, TextErrors, Value};

/// Describes a query; [`start`](Self::start) sends it. What is not set is left to the server.
#[derive(Debug)]
#[must_use]
pub struct QueryBuilder<'c> {
    link: &'c Arc<Link>,
    query: StreamQuery,
    misuse: Option<&'static str>,
}

impl<'c> QueryBuilder<'c> {
    pub(super) fn new(link: &'c Arc<Link>, sql: String) -> Self {
        let query = StreamQuery {
            row_format: RowFormat::Array,
            window: Some(WindowRequest {
                batches: Some(WINDOW_BATCHES),
                bytes: Some(WINDOW_BYTES),
            }),
            ..StreamQuery::new(sql)
        };
        Self {
            link,
            query,
            misuse: None,
        }
    }

    /// Adds the next positional parameter. Bytes, and reals that are no finite numbers, travel with their type.
    pub fn param(mut self, value: impl Into<Value>) -> Self {
        match &mut self.query.params {
            Params::Positional(values) => values.push(value.into()),
            params @ Params::None => *params = Params::Positional(vec![value.into()]),
            Params::Named(_) => self.misuse = Some(MIXED),
        }
        self
    }

    /// Adds a named parameter, without the engine's sigil (`:`, `@`, `$`).
    pub fn named_param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        match &mut self.query.params {
            Params::Named(values) => values.push((name.into(), value.into())),
            params @ Params::None => *params = Params::Named(vec![(name.into(), value.into())]),
            Params::Positional(_) => self.misuse = Some(MIXED),
        }
        self
    }

    /// Sets all parameters at once.
    pub fn params(mut self, params: Params) -> Self {
        self.query.params = params;
        self
    }

    /// Rows per batch.
    pub fn batch_size(mut self, n_rows: u32) -> Self {
        self.query.batch_size = Some(n_rows);
        self
    }

    /// A batch closes with the row that reaches this many bytes.
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.query.max_batch_bytes = Some(bytes);
        self
    }

    /// The engine to ask, by its name in the server. Defaults to the server's first.
    pub fn engine(mut self, name: impl Into<String>) -> Self {
        self.query.engine = Some(name.into());
        self
    }

    /// Has rows come as Arrow: as [`Event::ArrowBatch`](super::Event::ArrowBatch)s, not from the iterator over batches.
    pub fn arrow(mut self) -> Self {
        self.query.format = DataFormat::Arrow;
        self
    }

    /// Codecs that batches may be compressed with on their way, the best first; the server takes the first that it has, or none.
    /// Defaults to none: on a fast network it costs more than it gains.
    pub fn compression(mut self, codecs: impl IntoIterator<Item = Compression>) -> Self {
        self.query.compression = codecs.into_iter().filter(|codec| *codec != Compression::None).collect();
        self
    }

    /// How a row travels. Defaults to [`RowFormat::Array`], which is smaller; it makes no difference to
    /// [`Row::get`](super::Row::get).
    pub fn row_format(mut self, row_format: RowFormat) -> Self {
        self.query.row_format = row_format;
        self
    }

    /// How integers travel. Defaults to exact digits as numbers; it makes no difference to [`Row::get`](super::Row::get).
    pub fn int64(mut self, int64: Int64Encoding) -> Self {
        self.query.int64 = int64;
        self
    }

    /// What becomes of a text that is not UTF-8. Defaults to [`TextErrors::Fail`]: the query ends with an error that names the cell. A text
    /// that comes as a [blob](TextErrors::Blob) is told from others by [`cell_types`](Self::cell_types).
    pub fn text_errors(mut self, text_errors: TextErrors) -> Self {
        self.query.text_errors = text_errors;
        self
    }

    /// What becomes of a column whose cells have no Arrow type in common. Defaults to [`ArrowMixed::Fail`]. With [`ArrowMixed::Text`] every
    /// column is text, or binary where blobs are declared, and every result can be had as [Arrow](Self::arrow).
    pub fn arrow_mixed(mut self, mixed: ArrowMixed) -> Self {
        self.query.arrow_mixed = mixed;
        self
    }

    /// Whether batches say which cells are not what their column says, such as a blob in a column of text:
    /// [`Row::cell_type`](super::Row::cell_type), [`Batch::cell_types`](super::Batch::cell_types). Defaults to false.
    pub fn cell_types(mut self, are_wanted: bool) -> Self {
        self.query.cell_types = are_wanted;
        self
    }

    /// Cuts the result off after this many rows.
    pub fn max_rows(mut self, n_rows: u64) -> Self {
        self.query.max_rows = Some(n_rows);
        self
    }

    /// Cuts the result off before the row that would pass this many bytes of rows.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.query.max_bytes = Some(bytes);
        self
    }

    /// The server stops the query when its stream takes longer: the engine's time, and all waiting, for a worker and for this client.
    /// Defaults to none; the server has limits of its own. In whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.query.timeout_ms = Some(millis(timeout));
        self
    }

    /// Time between two reports of progress; zero for none. In whole milliseconds.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.query.progress_interval_ms = Some(millis(interval));
        self
    }

    /// How many batches, and bytes of them, the server may send ahead of the program: what the client holds at the most. Defaults to
    /// 64 batches and 4 MiB.
    pub fn window(mut self, batches: u32, bytes: u64) -> Self {
        self.query.window = Some(WindowRequest {
            batches: Some(batches),
            bytes: Some(bytes),
        });
        self
    }

    /// Whether the query survives a lost connection: the server holds its stream for a while, the client makes a new connection
    /// and goes on where it was, and no row is lost or comes twice. A query whose start was not heard of is sent again. Defaults to
    /// false.
    pub fn resumable(mut self, is_resumable: bool) -> Self {
        self.query.resumable = is_resumable;
        self
    }

    /// Whether every batch and the whole result are proven to be what the server sent. A batch that is not comes again where the
    /// query is [resumable](Self::resumable). Defaults to false.
    pub fn checksum(mut self, is_wanted: bool) -> Self {
        self.query.checksum = is_wanted;
        self
    }

    /// Which trace the query belongs to, as W3C Trace Context has it: the server's log names it with the stream. What is no
    /// `traceparent` is ignored, as servers do. Defaults to none.
    pub fn traceparent(mut self, text: &str) -> Self {
        self.query.traceparent = TraceParent::parse(text);
        self
    }

    /// 0 to 7, the most urgent among the queries of this client. Defaults to the server's 3.
    pub fn priority(mut self, priority: u8) -> Self {
        self.query.priority = Some(priority);
        self
    }

    /// 1 to 256: the share among the queries of this client that have the same priority. Defaults to the server's 16.
    pub fn weight(mut self, weight: u16) -> Self {
        self.query.weight = Some(weight);
        self
    }

    /// Sends the query and waits until it has started.
    ///
    /// Blocks until the server has a worker free for it, and has prepared it; ends with the connection, at the latest.
    ///
    /// # Errors
    /// [`ClientError::Query`] where the server refuses the query; [`ClientError::Usage`] and [`ClientError::TooLong`] where it cannot be sent;
    /// [`ClientError::Cancelled`] where it is stopped before it has started; everything that ends a connection.
    pub fn start(self) -> Result<QueryStream, ClientError> {
        let mut stream = self.submit()?;
        stream.wait_until_started()?;
        Ok(stream)
    }

    /// Sends the query, and waits until its types are known; rows come as Arrow's record batches, which libraries for data frames and
    /// files read. With the feature `arrow`.
    ///
    /// Blocks until the first batch has come; ends with the connection, at the latest.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// ```
    /// # use rowstream::{Client, MemoryEngine, Script, Server};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = MemoryEngine::builder()
    /// #     .query("people", Script::new(["name", "age"]).rows([vec!["Ada".into(), 36_i64.into()]]))
    /// #     .build();
    /// # let server = Server::builder().engine("memory", engine).listen("127.0.0.1:0").start()?;
    /// # let client = Client::connect(&format!("ws://{}/ws", server.local_addr().ok_or("no listener")?))?;
    /// let mut n_rows = 0;
    /// for batch in client.query("people").record_batches()? {
    ///     n_rows += batch?.num_rows();
    /// }
    /// assert_eq!(n_rows, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "arrow")]
    pub fn record_batches(self) -> Result<super::ArrowReader, ClientError> {
        super::ArrowReader::new(self.arrow().start()?)
    }

    /// Sends the query and returns at once: everything about it comes as [`Event`](super::Event)s, and it can be cancelled
    /// before it has started.
    ///
    /// Blocks while the connection takes no bytes, and, for a long query, until the server has said how long it may be.
    ///
    /// # Errors
    /// [`ClientError::Usage`] and [`ClientError::TooLong`] where the query cannot be sent; everything that ends a connection.
    pub fn submit(self) -> Result<QueryStream, ClientError> {
        let Self { link, query, misuse } = self;
        if let Some(text) = misuse {
            return Err(ClientError::Usage(text.to_owned()));
        }
        let has_checksums = query.checksum;
        let window = query.window.unwrap_or_default();
        let (id, inbox) = link.submit(query)?;
        let consumption = Consumption::new(window);
        Ok(QueryStream::new(
            Arc::clone(link),
            id,
            inbox,
            consumption,
            has_checksums,
        ))
    }
}

/// The window where the program sets none.
const WINDOW_BATCHES: u32 = 64;
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

const MIXED: &str = "a query has positional parameters or named ones, not both";
