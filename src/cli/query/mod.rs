//! `rowstream query`: one query to a server, its rows to standard output.
//!
//! Must not know the wire.

mod failure;
mod param;
mod progress;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::HumanCount;
use terminal_size::terminal_size;

use param::{NamedParam, Param, Span};
use progress::ProgressLine;

use super::format::{Format, RowWriter};
use super::signals::{SIGHUP, SIGINT, SIGTERM, on_signals};
use super::{Exit, complain, reach, say};
use crate::client::{
    Canceller, CellType, ClientError, CompletedMessage, Compression, Event, Outcome, QueryBuilder, QueryStream,
};
use crate::error::{CancelReason, ErrorCode};
use crate::rows::{ArrowMixed, ColumnType, Schema, TextErrors};

/// Bytes gathered for one write to standard output.
const OUT_BYTES: usize = 64 * 1024;

/// Time between two reports of progress; rows held back for a table wait no longer, either.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Largest query read from standard input.
const SQL_BYTES_MAX: u64 = 1024 * 1024;

/// What `query` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all rows, 1 the query failed or was stopped, 2 usage, 3 cannot connect, 4 connection lost, 130 cancelled.
Ctrl-C cancels the query and waits for the server to say so; a second one leaves at once.")]
pub(super) struct Arguments {
    #[command(flatten)]
    server: reach::Server,

    /// The query, one statement; - reads it from standard input.
    #[arg(value_name = "SQL", allow_hyphen_values = true)]
    sql: String,

    /// Next parameter: VALUE is bound by position, NAME=VALUE by name. A JSON scalar (null, true, 42, 1.5, "42", "a=b") is that value,
    /// anything else is text. Repeatable.
    #[arg(short, long, value_name = "[NAME=]VALUE", allow_hyphen_values = true)]
    param: Vec<Param>,

    /// Named parameter, whatever characters its name has; the value as for --param. Repeatable.
    #[arg(short, long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    named: Vec<NamedParam>,

    /// How rows are written [default: table on a terminal, ndjson otherwise].
    #[arg(short, long, value_enum)]
    format: Option<Format>,

    /// Write rows to this file, which is made or emptied, instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Have rows compressed on their way, by the first of these codecs that the server has: zstd, lz4, gzip, deflate-raw.
    #[arg(long, value_name = "CODEC,…", value_delimiter = ',', value_parser = codec)]
    compression: Vec<Compression>,

    /// Ask the server to deflate its messages (permessage-deflate), where its operator allows it; for slow networks.
    #[arg(long)]
    permessage_deflate: bool,

    /// What becomes of a text that is not valid UTF-8: the query fails, each invalid part is replaced by U+FFFD, or the cell is written as a
    /// blob.
    #[arg(long, value_name = "CHOICE", default_value = "fail", value_parser = text_errors())]
    text_errors: TextErrors,

    /// With --format arrow or parquet, what becomes of a column whose values have no type in common: the query fails, or all columns are
    /// text (binary where blobs are declared).
    #[arg(long, value_name = "CHOICE", default_value = "fail", value_parser = arrow_mixed())]
    arrow_mixed: ArrowMixed,

    /// Report on standard error each cell that is not what its column declares, such as a blob in a column of text.
    #[arg(long)]
    cell_types: bool,

    /// Rows per batch [default: the server's].
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,

    /// The server's engine to ask [default: the server's first].
    #[arg(short, long, value_name = "NAME")]
    engine: Option<String>,

    /// Stop after this many rows.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    max_rows: Option<u64>,

    /// Have the server stop the query after this time, waiting for this client included: 30 (seconds), 500ms, 5m [default: none].
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,

    /// Whether the query survives a lost connection, without losing or repeating a row.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    resumable: bool,

    /// How long to try for a new connection when one is lost: 30 (seconds), 500ms, 5m.
    #[arg(long, value_name = "TIME", default_value = "60")]
    reconnect: Span,

    /// Prove with checksums that every row is the one the server sent; the digest goes to standard error.
    #[arg(long)]
    checksum: bool,

    /// 0 to 7, the most urgent [default: the server's 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    priority: Option<u8>,

    /// No progress line on standard error (there is none anyway where that is no terminal).
    #[arg(long)]
    no_progress: bool,
}

/// Blocks until the query is over, or the second signal.
pub(super) fn run(mut arguments: Arguments) -> Exit {
    let sql = match read_sql(&arguments.sql) {
        Ok(sql) => sql,
        Err(text) => {
            complain(&text);
            return Exit::Usage;
        }
    };
    let params = std::mem::take(&mut arguments.param);
    let params = match param::params(params, std::mem::take(&mut arguments.named)) {
        Ok(params) => params,
        Err(text) => {
            complain(&text);
            return Exit::Usage;
        }
    };
    let asked = Asked {
        sql: &sql,
        hint: param::hint(&params),
    };
    let Span(reconnect_for) = arguments.reconnect;
    let builder = match arguments.server.client() {
        Ok(builder) => builder
            .reconnect_for(reconnect_for)
            .permessage_deflate(arguments.permessage_deflate),
        Err(exit) => return exit,
    };
    let client = match builder.connect(&arguments.server.url) {
        Ok(client) => client,
        Err(error) => return tell(&error, asked),
    };
    let (out, is_terminal): (Box<dyn Write>, bool) = match &arguments.output {
        Some(path) => match File::create(path) {
            Ok(file) => (Box::new(file), false),
            Err(error) => {
                complain(&format_args!("{}: {error}", path.display()));
                return Exit::Failed;
            }
        },
        None => {
            let stdout = io::stdout().lock();
            let is_terminal = stdout.is_terminal();
            (Box::new(stdout), is_terminal)
        }
    };
    let format = arguments
        .format
        .unwrap_or(if is_terminal { Format::Table } else { Format::Ndjson });
    if is_terminal && format.is_binary() {
        complain(&"a terminal cannot show this format; say where to write it with --output");
        return Exit::Usage;
    }
    let progress = ProgressLine::new(!arguments.no_progress);
    let held_back = is_terminal && format == Format::Table;
    let interval = if progress.is_shown() || held_back {
        PROGRESS_INTERVAL
    } else {
        Duration::ZERO
    };
    let mut query = describe(client.query(sql.as_str()).params(params), arguments).progress_interval(interval);
    if format.is_arrow() {
        query = query.arrow();
    }
    let stream = match query.submit() {
        Ok(stream) => stream,
        Err(error) => return tell(&error, asked),
    };
    let interrupted = match cancel_on_signal(stream.canceller()) {
        Ok(interrupted) => interrupted,
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    let width = if is_terminal {
        terminal_size().map(|(width, _)| width.0)
    } else {
        None
    };
    let printer = Printer {
        out: BufWriter::with_capacity(OUT_BYTES, out),
        is_terminal,
        writer: format.writer(width),
        progress,
    };
    let exit = printer.print(stream, asked, &interrupted);
    drop(client); // says goodbye
    exit
}

fn codec(name: &str) -> Result<Compression, String> {
    let codecs = [
        Compression::Zstd,
        Compression::Lz4,
        Compression::Gzip,
        Compression::DeflateRaw,
    ];
    let found = codecs.into_iter().find(|codec| codec.as_str() == name);
    found.ok_or_else(|| format!("there is {}", codecs.map(Compression::as_str).join(", ")))
}

fn text_errors() -> impl TypedValueParser<Value = TextErrors> {
    PossibleValuesParser::new(["fail", "replace", "blob"]).map(|choice| match choice.as_str() {
        "replace" => TextErrors::Replace,
        "blob" => TextErrors::Blob,
        _ => TextErrors::Fail,
    })
}

fn arrow_mixed() -> impl TypedValueParser<Value = ArrowMixed> {
    PossibleValuesParser::new(["fail", "text"]).map(|choice| match choice.as_str() {
        "text" => ArrowMixed::Text,
        _ => ArrowMixed::Fail,
    })
}

fn read_sql(argument: &str) -> Result<String, String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut sql = String::new();
    let mut stdin = io::stdin().lock().take(SQL_BYTES_MAX + 1);
    match stdin.read_to_string(&mut sql) {
        Ok(n) if n as u64 > SQL_BYTES_MAX => Err(format!("a query has at most {SQL_BYTES_MAX} bytes")),
        Ok(_) => Ok(sql),
        Err(error) => Err(format!("cannot read the query from standard input: {error}")),
    }
}

fn describe(mut query: QueryBuilder<'_>, arguments: Arguments) -> QueryBuilder<'_> {
    let Arguments {
        server: _,
        sql: _,
        param: _,
        named: _,
        format: _,
        output: _,
        compression,
        permessage_deflate: _,
        text_errors,
        arrow_mixed,
        cell_types,
        batch_size,
        engine,
        max_rows,
        timeout,
        resumable,
        reconnect: _,
        checksum,
        priority,
        no_progress: _,
    } = arguments;
    query = query.resumable(resumable).checksum(checksum).compression(compression);
    query = query
        .text_errors(text_errors)
        .arrow_mixed(arrow_mixed)
        .cell_types(cell_types);
    if let Some(priority) = priority {
        query = query.priority(priority);
    }
    if let Some(n_rows) = batch_size {
        query = query.batch_size(n_rows);
    }
    if let Some(engine) = engine {
        query = query.engine(engine);
    }
    if let Some(n_rows) = max_rows {
        query = query.max_rows(n_rows);
    }
    if let Some(Span(timeout)) = timeout {
        query = query.timeout(timeout);
    }
    query
}

/// The first signal cancels the query, the second ends the process. True once there was one.
fn cancel_on_signal(canceller: Canceller) -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    on_signals(&[SIGINT, SIGTERM, SIGHUP], move |_signal| {
        if seen.swap(true, Ordering::AcqRel) {
            process::exit(Exit::Cancelled as i32);
        }
        say("rowstream: cancelling; once more to leave at once");
        canceller.cancel();
    })?;
    Ok(interrupted)
}

type Out = BufWriter<Box<dyn Write>>;

/// Where rows go.
struct Printer {
    out: Out,
    is_terminal: bool,
    writer: Box<dyn RowWriter>,
    progress: ProgressLine,
}

/// Why printing ended.
enum End {
    Stream(Result<(), ClientError>),
    /// Standard output takes no more.
    Output(io::Error),
}

impl Printer {
    fn print(mut self, mut stream: QueryStream, asked: Asked<'_>, interrupted: &AtomicBool) -> Exit {
        let end = match self.print_rows(&mut stream) {
            Ok(end) => End::Stream(end),
            Err(error) => End::Output(error),
        };
        let elapsed = self.progress.finish();
        match end {
            End::Output(error) => {
                // Dropping the stream cancels the query. Nobody is there to read what is still in the buffer, and dropping it would try once more to write it.
                let (_out, _unwritten) = self.out.into_parts();
                if error.kind() == io::ErrorKind::BrokenPipe {
                    return Exit::Ok;
                }
                complain(&format_args!("cannot write the rows: {error}"));
                Exit::Failed
            }
            End::Stream(Err(error)) => tell(&error, asked),
            End::Stream(Ok(())) => match stream.outcome() {
                Some(Outcome::Completed(completed)) => {
                    if let Some(digest) = &completed.digest {
                        say(&format!("sha256 {digest}"));
                    }
                    if io::stderr().is_terminal() {
                        say(&summary(completed, elapsed));
                    }
                    Exit::Ok
                }
                Some(Outcome::Cancelled(cancelled)) => {
                    let rows = HumanCount(cancelled.rows_sent);
                    if cancelled.reason == CancelReason::Client && interrupted.load(Ordering::Acquire) {
                        complain(&format_args!("cancelled after {rows} rows"));
                        return Exit::Cancelled;
                    }
                    let reason = cancelled.reason.as_str();
                    let message = cancelled.message.as_deref().unwrap_or(reason);
                    complain(&format_args!("stopped by the server after {rows} rows: {message}"));
                    if let Some(blocked_by) = cancelled.blocked_by {
                        say(&format!("blocked by: {}", blocked_by.as_str()));
                    }
                    Exit::Failed
                }
                None => tell(&ClientError::Lost { source: None }, asked),
            },
        }
    }

    /// Prints all rows. The outer error is that of the output.
    fn print_rows(&mut self, stream: &mut QueryStream) -> io::Result<Result<(), ClientError>> {
        let mut columns_known = false;
        loop {
            if !stream.has_event() {
                // Slow queries show their rows as they come.
                self.write(|_, out| out.flush())?;
            }
            let event = match stream.next_event() {
                Ok(Some(event)) => event,
                ended => {
                    let is_whole = matches!(stream.outcome(), Some(Outcome::Completed(_)));
                    self.write(|writer, out| {
                        writer.end(is_whole, out)?;
                        out.flush()
                    })?;
                    return Ok(ended.map(|_none| ()));
                }
            };
            match event {
                Event::Queued(queued) => self.progress.queued(queued.position),
                Event::Started | Event::Columns => {
                    self.progress.started();
                    if let (false, Some(columns)) = (columns_known, stream.columns()) {
                        columns_known = true;
                        self.write(|writer, out| writer.columns(columns, out))?;
                    }
                }
                Event::Batch(batch) => {
                    self.write(|writer, out| writer.batch(&batch, out))?;
                    self.report_cell_types(batch.row_offset(), batch.cell_types(), stream.columns());
                }
                Event::ArrowBatch(batch) => {
                    self.write(|writer, out| writer.arrow_batch(&batch, out))?;
                    self.report_cell_types(batch.row_offset, &batch.cell_types, stream.columns());
                }
                Event::Reconnecting => self.progress.reconnecting(),
                Event::Resumed => self.progress.resumed(),
                Event::Progress(progress) => {
                    self.progress.update(&progress);
                    if self.is_terminal {
                        self.write(|writer, out| writer.catch_up(out))?;
                    }
                }
            }
        }
    }

    /// A line for each cell that is not what its column declares, rows and columns counted from 1.
    fn report_cell_types(&self, row_offset: u64, cell_types: &[CellType], columns: Option<&Schema>) {
        if cell_types.is_empty() {
            return;
        }
        self.progress.aside(|| {
            for cell in cell_types {
                let row = row_offset + u64::from(cell.row) + 1;
                let column = columns.and_then(|columns| columns.columns().get(cell.column as usize));
                let label = column.map_or("", |column| column.label.as_str());
                let kind = kind_of(cell.ty);
                let position = u64::from(cell.column) + 1;
                say(&format!("row {row}, column {position} ({label:?}) is {kind}"));
            }
        });
    }

    /// Writes, with the progress line out of the way where both are on one terminal.
    fn write(&mut self, write: impl FnOnce(&mut dyn RowWriter, &mut Out) -> io::Result<()>) -> io::Result<()> {
        let Self {
            out,
            is_terminal,
            writer,
            progress,
        } = self;
        if *is_terminal {
            progress.aside(|| write(writer.as_mut(), out))
        } else {
            write(writer.as_mut(), out)
        }
    }
}

/// What a marked cell is, with its article.
fn kind_of(ty: ColumnType) -> &'static str {
    match ty {
        ColumnType::Int64 => "an integer",
        ColumnType::Float64 => "a real",
        ColumnType::Boolean => "a boolean",
        ColumnType::Blob => "a blob",
        ColumnType::Text
        | ColumnType::Decimal
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz
        | ColumnType::Json
        | ColumnType::Uuid
        | ColumnType::Any => "text",
    }
}

fn summary(completed: &CompletedMessage, elapsed: Duration) -> String {
    let rows = HumanCount(completed.total_rows);
    let noun = if completed.total_rows == 1 { "row" } else { "rows" };
    let more = if completed.truncated {
        ", and there are more"
    } else {
        ""
    };
    format!("{rows} {noun} in {:.2} s{more}", elapsed.as_secs_f64())
}

/// What is said of a query that fails.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    sql: &'a str,
    /// How parameters are given.
    hint: &'static str,
}

/// Says what went wrong, with its place in the query, and how the program ends with it.
fn tell(error: &ClientError, Asked { sql, hint }: Asked<'_>) -> Exit {
    if let ClientError::Query(message) = error {
        complain(&failure::describe(message, sql));
        if message.code == ErrorCode::ParameterError {
            say(&format!("hint: {hint}"));
        }
        return Exit::Failed;
    }
    super::tell(error)
}
