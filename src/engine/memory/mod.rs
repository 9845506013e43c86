//! An engine that does as it is told: scripted rows, gates that a test opens, failures and panics on demand.
//!
//! It is how rowstream tests what blocks and what wakes it, and how applications can: stop a query at a [`Gate`], look at what
//! the rest of the world does meanwhile, open the gate.
//!
//! ```
//! use std::time::Duration;
//!
//! use rowstream::engine::memory::{Gate, MemoryEngine, Script};
//! use rowstream::{Client, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gate = Gate::new();
//! let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
//! let engine = MemoryEngine::builder().query("two", script).build();
//! let server = Server::builder().engine("memory", engine).listen("127.0.0.1:0").start()?;
//! let address = server.local_addr().ok_or("no listener")?;
//!
//! let client = Client::connect(&format!("ws://{address}/ws"))?;
//! let mut stream = client.query("two").start()?;
//! gate.wait_reached(Duration::from_secs(10))?;
//! // The query stands at the gate, and the first row has left all the same.
//! assert_eq!(stream.next().ok_or("no batch")??.len(), 1);
//! gate.open();
//! assert_eq!(stream.next().ok_or("no batch")??.len(), 1);
//! # Ok(())
//! # }
//! ```

mod gate;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use gate::{Gate, GateTimeout};

use super::{
    CancelToken, Cursor, CursorProgress, Engine, EngineError, EngineErrorKind, Estimate, QuerySpec, Step, Total,
};
use crate::clock;
use crate::rows::{Column, ColumnType, RowWriter, Schema, Value};

/// Makes the row of a number.
type RowMaker = Arc<dyn Fn(u64) -> Vec<Value> + Send + Sync>;

/// One thing a script does.
#[derive(Clone)]
enum Act {
    Rows { n_rows: u64, make: RowMaker },
    Gate(Gate),
    Delay(Duration),
    Fail(EngineError),
    Panic(String),
}

/// What one query does, from its opening to its closing. Acts happen in the order in which they were added.
#[derive(Clone)]
#[must_use]
pub struct Script {
    columns: Schema,
    columns_late: bool,
    opening: Vec<Act>,
    acts: Vec<Act>,
    ignores_cancel: bool,
    close_panic: Option<String>,
    estimate: Estimate,
    estimate_gate: Option<Gate>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("columns", &self.columns)
            .field("n_acts", &self.acts.len())
            .finish_non_exhaustive()
    }
}

impl Script {
    /// A result with these columns and, so far, no rows.
    pub fn new<const N: usize>(columns: [&str; N]) -> Self {
        let columns = columns.map(|name| Column::new(name, ColumnType::Any));
        Self {
            columns: Schema::new(columns.into()),
            columns_late: false,
            opening: Vec::new(),
            acts: Vec::new(),
            ignores_cancel: false,
            close_panic: None,
            estimate: Estimate::default(),
            estimate_gate: None,
        }
    }

    fn act(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    /// One row.
    pub fn row(self, row: impl Into<Vec<Value>>) -> Self {
        let row = row.into();
        self.generate(1, move |_| row.clone())
    }

    /// These rows.
    pub fn rows(self, rows: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let rows: Vec<_> = rows.into_iter().collect();
        self.generate(rows.len() as u64, move |n| {
            usize::try_from(n)
                .ok()
                .and_then(|n| rows.get(n).cloned())
                .unwrap_or_default()
        })
    }

    /// `n_rows` rows, each made when it is wanted: a large result in little memory.
    pub fn generate(self, n_rows: u64, make: impl Fn(u64) -> Vec<Value> + Send + Sync + 'static) -> Self {
        self.act(Act::Rows {
            n_rows,
            make: Arc::new(make),
        })
    }

    /// Waits until `gate` is open. Woken by [`Gate::open`] and by the cancel; with rows in hand it first lets them go once they
    /// are due.
    pub fn gate(self, gate: &Gate) -> Self {
        self.act(Act::Gate(gate.clone()))
    }

    /// Waits that long. Woken by the cancel.
    pub fn delay(self, delay: Duration) -> Self {
        self.act(Act::Delay(delay))
    }

    /// Fails here.
    pub fn fail(self, error: EngineError) -> Self {
        self.act(Act::Fail(error))
    }

    /// Panics here.
    pub fn panic(self, message: &str) -> Self {
        self.act(Act::Panic(message.to_owned()))
    }

    /// Opening the query waits until `gate` is open.
    pub fn gate_on_open(mut self, gate: &Gate) -> Self {
        self.opening.push(Act::Gate(gate.clone()));
        self
    }

    /// Opening the query fails.
    pub fn fail_on_open(mut self, error: EngineError) -> Self {
        self.opening.push(Act::Fail(error));
        self
    }

    /// Opening the query panics.
    pub fn panic_on_open(mut self, message: &str) -> Self {
        self.opening.push(Act::Panic(message.to_owned()));
        self
    }

    /// Closing the query panics.
    pub fn panic_on_close(mut self, message: &str) -> Self {
        self.close_panic = Some(message.to_owned());
        self
    }

    /// Goes on although it is cancelled, and waits at gates until they open.
    pub fn ignore_cancel(mut self) -> Self {
        self.ignores_cancel = true;
        self
    }

    /// The columns are known only once rows come.
    pub fn columns_late(mut self) -> Self {
        self.columns_late = true;
        self
    }

    /// What the engine answers when it is asked for an estimate. Each row then counts as one unit of work.
    pub fn estimate(mut self, estimate: Estimate) -> Self {
        self.estimate = estimate;
        self
    }

    /// The number of rows, counted.
    pub fn total(self, rows: u64) -> Self {
        self.estimate(Estimate::rows(Total::Exact(rows)))
    }

    /// An estimate is given once `gate` is open, or not at all.
    pub fn gate_on_estimate(mut self, gate: &Gate) -> Self {
        self.estimate_gate = Some(gate.clone());
        self
    }
}

/// What has happened in an engine, for tests to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Probe {
    /// Cursors that exist now.
    pub cursors_open: usize,
    /// Cursors ever made.
    pub cursors_opened: usize,
    /// Calls of [`Cursor::fill`] under way now.
    pub fills_running: usize,
    /// The most calls of [`Cursor::fill`] that were ever under way at once.
    pub fills_running_max: usize,
    /// Calls of [`Cursor::fill`] ever made: turns of workers.
    pub fills: u64,
    /// Rows ever written.
    pub rows_written: u64,
    /// Estimates ever asked for.
    pub estimates: usize,
}

#[derive(Debug, Default)]
struct Counters {
    cursors_open: AtomicUsize,
    cursors_opened: AtomicUsize,
    fills_running: AtomicUsize,
    fills_running_max: AtomicUsize,
    fills: AtomicU64,
    rows_written: AtomicU64,
    estimates: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    scripts: HashMap<String, Script>,
    counters: Counters,
}

/// The scripted engine. Clones are the same engine, so that a test can keep one and look at its [`probe`](Self::probe).
#[derive(Debug, Clone)]
pub struct MemoryEngine {
    inner: Arc<Inner>,
}

/// Collects scripts for a [`MemoryEngine`].
#[derive(Debug, Default)]
#[must_use]
pub struct MemoryEngineBuilder {
    scripts: HashMap<String, Script>,
}

impl MemoryEngineBuilder {
    /// The query whose text is exactly `sql` does what `script` says.
    pub fn query(mut self, sql: &str, script: Script) -> Self {
        self.scripts.insert(sql.to_owned(), script);
        self
    }

    /// The engine.
    #[must_use]
    pub fn build(self) -> MemoryEngine {
        MemoryEngine {
            inner: Arc::new(Inner {
                scripts: self.scripts,
                counters: Counters::default(),
            }),
        }
    }
}

impl MemoryEngine {
    /// Starts an engine without queries: each is refused as a syntax error.
    pub fn builder() -> MemoryEngineBuilder {
        MemoryEngineBuilder::default()
    }

    /// What has happened so far. Never blocks.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let counters = &self.inner.counters;
        Probe {
            cursors_open: counters.cursors_open.load(Ordering::Acquire),
            cursors_opened: counters.cursors_opened.load(Ordering::Acquire),
            fills_running: counters.fills_running.load(Ordering::Acquire),
            fills_running_max: counters.fills_running_max.load(Ordering::Acquire),
            fills: counters.fills.load(Ordering::Acquire),
            rows_written: counters.rows_written.load(Ordering::Acquire),
            estimates: counters.estimates.load(Ordering::Acquire),
        }
    }
}

impl Engine for MemoryEngine {
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        let Some(script) = self.inner.scripts.get(&query.sql) else {
            let text = format!("there is no script for the query {:?}", query.sql);
            return Err(EngineError::new(EngineErrorKind::Syntax, text));
        };
        for act in &script.opening {
            match act {
                Act::Gate(gate) => {
                    gate.wait(cancel, script.ignores_cancel, None)?;
                }
                Act::Fail(error) => return Err(error.clone()),
                Act::Panic(message) => panic!("{message}"),
                Act::Rows { .. } | Act::Delay(_) => {}
            }
        }
        let counters = &self.inner.counters;
        counters.cursors_open.fetch_add(1, Ordering::AcqRel);
        counters.cursors_opened.fetch_add(1, Ordering::AcqRel);
        Ok(Box::new(MemoryCursor {
            columns_known: !script.columns_late,
            script: script.clone(),
            inner: Arc::clone(&self.inner),
            cancel: cancel.clone(),
            act: 0,
            row: 0,
            rows_written: 0,
            delay_until: None,
        }))
    }

    fn estimate(&self, query: &QuerySpec, _budget: Duration, cancel: &CancelToken) -> Estimate {
        self.inner.counters.estimates.fetch_add(1, Ordering::AcqRel);
        let Some(script) = self.inner.scripts.get(&query.sql) else {
            return Estimate::default();
        };
        match &script.estimate_gate {
            Some(gate) if gate.wait(cancel, false, None).is_err() => Estimate::default(),
            _ => script.estimate,
        }
    }
}

struct MemoryCursor {
    script: Script,
    inner: Arc<Inner>,
    cancel: CancelToken,
    columns_known: bool,
    /// The act under way, and how many of its rows are written.
    act: usize,
    row: u64,
    rows_written: u64,
    /// Where the delay under way ends.
    delay_until: Option<Instant>,
}

impl Cursor for MemoryCursor {
    fn columns(&self) -> Option<&Schema> {
        self.columns_known.then_some(&self.script.columns)
    }

    fn fill(&mut self, out: &mut RowWriter) -> Result<Step, EngineError> {
        let inner = Arc::clone(&self.inner);
        let _running = FillRunning::new(&inner.counters);
        if !self.columns_known {
            self.columns_known = true;
            return Ok(Step::Columns);
        }
        while let Some(act) = self.script.acts.get(self.act).cloned() {
            if out.is_full() {
                return Ok(Step::More);
            }
            let go_on = match act {
                Act::Rows { n_rows, make } => self.write_rows(n_rows, &make, out)?,
                Act::Gate(gate) => self.wait(&gate, None, out)?,
                Act::Delay(delay) => {
                    let until = *self
                        .delay_until
                        .get_or_insert_with(|| clock::after(clock::now(), delay));
                    let over = self.wait(&Gate::new(), Some(until), out)?;
                    if over {
                        self.delay_until = None;
                    }
                    over
                }
                Act::Fail(error) => return Err(error),
                Act::Panic(message) => panic!("{message}"),
            };
            if !go_on {
                return Ok(Step::More);
            }
            self.act += 1;
            self.row = 0;
        }
        Ok(Step::Done)
    }

    fn progress(&self) -> CursorProgress {
        CursorProgress::work(self.rows_written)
    }
}

impl MemoryCursor {
    /// True once the rows are written, false where the batch is full before.
    fn write_rows(&mut self, n_rows: u64, make: &RowMaker, out: &mut RowWriter) -> Result<bool, EngineError> {
        while self.row < n_rows {
            if out.is_full() {
                return Ok(false);
            }
            if self.cancel.is_cancelled() && !self.script.ignores_cancel {
                return Err(EngineError::cancelled());
            }
            out.begin_row();
            for value in make(self.row) {
                match value {
                    Value::Null => out.null(),
                    Value::Boolean(value) => out.boolean(value),
                    Value::Integer(value) => out.integer(value),
                    Value::Real(value) => out.real(value),
                    Value::Text(text) => out.text(text.as_bytes()),
                    Value::Blob(bytes) => out.blob(&bytes),
                }
            }
            out.end_row()?;
            self.row += 1;
            self.rows_written += 1;
            self.inner.counters.rows_written.fetch_add(1, Ordering::AcqRel);
        }
        Ok(true)
    }

    /// Waits for the gate, or until `end`. False where rows in hand are due before.
    fn wait(&self, gate: &Gate, end: Option<Instant>, out: &RowWriter) -> Result<bool, EngineError> {
        let due = if out.rows() > 0 { out.until() } else { None };
        let until = match (end, due) {
            (Some(end), Some(due)) => Some(end.min(due)),
            (end, due) => end.or(due),
        };
        let opened = gate.wait(&self.cancel, self.script.ignores_cancel, until)?;
        Ok(opened || end.is_some_and(|end| clock::now() >= end))
    }
}

impl Drop for MemoryCursor {
    fn drop(&mut self) {
        self.inner.counters.cursors_open.fetch_sub(1, Ordering::AcqRel);
        if let Some(message) = &self.script.close_panic
            && !std::thread::panicking()
        {
            panic!("{message}");
        }
    }
}

/// Counts a call of `fill`, also one that panics.
struct FillRunning<'a>(&'a Counters);

impl<'a> FillRunning<'a> {
    fn new(counters: &'a Counters) -> Self {
        let running = counters.fills_running.fetch_add(1, Ordering::AcqRel) + 1;
        counters.fills_running_max.fetch_max(running, Ordering::AcqRel);
        counters.fills.fetch_add(1, Ordering::AcqRel);
        Self(counters)
    }
}

impl Drop for FillRunning<'_> {
    fn drop(&mut self) {
        self.0.fills_running.fetch_sub(1, Ordering::AcqRel);
    }
}
