//! One running query: a prepared statement with its parameters bound, and the connection it has on loan.

use super::advice::advise;
use super::bounds::Bound;
use super::declared::type_of;
use super::error::{not_reading, other_columns, while_filling, while_preparing, while_running};
use super::ffi::{Database, FillError, Prepared, Statement};
use super::oversize;
use super::parameters::bind;
use super::pool::Loan;
use super::quotes::without_double_quotes;
use super::watch::Verdict;
use crate::engine::{CancelToken, Cursor, CursorProgress, Description, EngineError, EngineErrorKind, QuerySpec, Step};
use crate::rows::{Column, ColumnType, RowWriter, Schema};

/// A query being read.
pub(super) struct SqliteCursor {
    // There until the drop, which takes both.
    open: Option<(Statement, Loan)>,
    schema: Schema,
    cancel: CancelToken,
    failed: Option<EngineErrorKind>,
    /// Until the first row: what it takes to begin again on another connection.
    unbegun: Option<QuerySpec>,
}

impl SqliteCursor {
    pub(super) fn open(
        database: Database,
        loan: Loan,
        query: &QuerySpec,
        cancel: &CancelToken,
    ) -> Result<Self, EngineError> {
        let (statement, loan, schema) = start(database, loan, query, cancel)?;
        Ok(Self {
            schema,
            open: Some((statement, loan)),
            cancel: cancel.clone(),
            failed: None,
            unbegun: Some(query.clone()),
        })
    }

    /// Starts the query again before it has read anything: the file has changed since it was prepared.
    fn restart(&mut self, query: &QuerySpec) -> Result<(), EngineError> {
        let Some((outdated, loan)) = self.open.take() else {
            return Ok(());
        };
        let (database, loan) = reading_again(outdated.into_database(), &loan, &self.cancel)?;
        let (statement, loan, schema) = start(database, loan, query, &self.cancel)?;
        self.open = Some((statement, loan));
        if schema == self.schema {
            Ok(())
        } else {
            Err(other_columns())
        }
    }

    /// SQLite prepares a statement again where the schema has changed before the statement begins.
    fn check_columns(&self) -> Result<(), EngineError> {
        match &self.open {
            Some((statement, _)) if statement.was_prepared_again() && schema_of(statement) != self.schema => {
                Err(other_columns())
            }
            _ => Ok(()),
        }
    }

    fn fill_open(&mut self, out: &mut RowWriter) -> Result<Step, FillError> {
        let Some((statement, _)) = self.open.as_mut() else {
            return Ok(Step::Done);
        };
        let ended = statement.fill(out)?;
        Ok(if ended { Step::Done } else { Step::More })
    }
}

impl SqliteCursor {
    /// Says in the error which cell of the row was too large to read, if that is found out. Ends the statement.
    fn name_cell(&mut self, error: &mut EngineError, row_idx: u64) {
        let Some((statement, loan)) = self.open.take() else {
            return;
        };
        let (sql, rules) = (statement.expanded_sql(), statement.rules());
        let mut database = statement.into_database();
        if let Some(sql) = sql {
            let found;
            (database, found) = oversize::find(database, &rules, &sql, self.schema.len(), row_idx, &self.cancel);
            if let Some(found) = found
                && let Some(column) = self.schema.columns().get(found.column_idx)
            {
                let row = if found.is_in_the_row {
                    format!("row {}, ", row_idx + 1)
                } else {
                    String::new()
                };
                error.message = format!(
                    "the cell in {row}column {} ({:?}) has {} bytes, more than `{}` ({}) allows",
                    found.column_idx + 1,
                    column.name,
                    found.bytes,
                    Bound::CellBytes.setting(),
                    rules.bounds.of(Bound::CellBytes)
                );
            }
        }
        end(loan, database, self.failed);
    }
}

impl Cursor for SqliteCursor {
    fn columns(&self) -> Option<&Schema> {
        Some(&self.schema)
    }

    fn fill(&mut self, out: &mut RowWriter) -> Result<Step, EngineError> {
        // The progress handler looks only every so many operations, of which a small query has none.
        if self.open.is_some() && self.cancel.is_cancelled() {
            return Err(EngineError::cancelled());
        }
        let mut filled = self.fill_open(out);
        if let Some(query) = self.unbegun.take() {
            if matches!(&filled, Err(FillError::Sql(failure)) if failure.file == Verdict::Stale) {
                let restarted = self.restart(&query);
                restarted.inspect_err(|error| self.failed = Some(error.kind))?;
                filled = self.fill_open(out);
            }
            self.check_columns()?;
        }
        filled.map_err(|error| {
            let is_cell_too_large = matches!(&error, FillError::Sql(failure) if failure.is_cell_too_large()
                && Bound::of_message(&failure.message) == Some(Bound::CellBytes));
            let mut error = while_filling(error, &self.cancel);
            self.failed = Some(error.kind);
            if is_cell_too_large {
                self.name_cell(&mut error, out.row_number());
            }
            error
        })
    }

    fn progress(&self) -> CursorProgress {
        self.open
            .as_ref()
            .map_or_else(CursorProgress::default, |(statement, _)| {
                CursorProgress::work(statement.n_scanned())
            })
    }
}

/// Prepares a query and binds its parameters. What has failed gives the connection back.
fn start(
    database: Database,
    loan: Loan,
    query: &QuerySpec,
    cancel: &CancelToken,
) -> Result<(Statement, Loan, Schema), EngineError> {
    let mut statement = match prepare(database, &query.sql, cancel) {
        Ok(statement) => statement,
        Err((database, _)) if is_outdated(&database, &loan) => {
            let (database, loan) = reading_again(database, &loan, cancel)?;
            return start(database, loan, query, cancel);
        }
        Err((database, mut error)) => {
            let database = advise(database, &query.sql, &mut error);
            end(loan, database, Some(error.kind));
            return Err(error);
        }
    };
    let bound = check(&statement).and_then(|()| bind(&mut statement, &query.params, cancel));
    if let Err(error) = bound {
        loan.give_back(statement.into_database());
        return Err(error);
    }
    let schema = schema_of(&statement);
    statement.set_booleans(schema.columns().iter().map(|column| column.ty == ColumnType::Boolean));
    Ok((statement, loan, schema))
}

impl Drop for SqliteCursor {
    fn drop(&mut self) {
        if let Some((statement, loan)) = self.open.take() {
            end(loan, statement.into_database(), self.failed);
        }
    }
}

/// Whether the file has changed since the connection was taken, before it has read anything of it for a client. SQLite reads the file
/// while it prepares a query of some virtual tables, and to see whether its schema is still the file's.
fn is_outdated(database: &Database, loan: &Loan) -> bool {
    database.verdict() == Verdict::Stale && !loan.is_once()
}

/// In the place of an outdated connection, one that reads already.
fn reading_again(outdated: Database, loan: &Loan, cancel: &CancelToken) -> Result<(Database, Loan), EngineError> {
    // No other query is to find the connection, and its token is needed for the next one.
    drop(outdated);
    loan.pool().take_reading(cancel)
}

/// Gives a connection back, unless it could not read the file: another one may.
fn end(loan: Loan, database: Database, failed: Option<EngineErrorKind>) {
    if failed == Some(EngineErrorKind::Unavailable) {
        loan.give_up(database);
    } else {
        loan.give_back(database);
    }
}

/// Prepares `sql`, which has to be exactly one statement.
#[allow(clippy::result_large_err)] // the connection goes back with the error, and neither is copied about
pub(super) fn prepare(
    database: Database,
    sql: &str,
    cancel: &CancelToken,
) -> Result<Statement, (Database, EngineError)> {
    let syntax = |text: &str| EngineError::new(EngineErrorKind::Syntax, text);
    // SQLite would stop reading there.
    if let Some(at) = sql.find('\0') {
        let mut error = syntax("the query contains a NUL character");
        error.position = u32::try_from(at).ok();
        return Err((database, error));
    }
    let mut prepared = Statement::prepare(database, sql);
    if let Prepared::Failed(_, failure) = &prepared
        && failure.is_text_in_a_view()
        && let Some(requoted) = without_double_quotes(sql)
        && let Prepared::Failed(database, _) = prepared
    {
        prepared = Statement::prepare_beside_quoted_texts(database, &requoted);
    }
    match prepared {
        Prepared::One(statement) => Ok(statement),
        Prepared::None(database) => Err((database, syntax("there is no statement in the query"))),
        Prepared::Several(database) => Err((database, syntax("a query is exactly one statement"))),
        Prepared::Failed(database, failure) => Err((database, while_preparing(failure, sql, cancel))),
    }
}

/// The last of the three gates; the authorizer has refused most already.
fn check(statement: &Statement) -> Result<(), EngineError> {
    if statement.is_read_only() && statement.n_columns() > 0 {
        return Ok(());
    }
    Err(not_reading())
}

fn schema_of(statement: &Statement) -> Schema {
    let columns = (0..statement.n_columns()).map(|column| {
        let name = statement.column_name(column);
        match statement.column_decltype(column) {
            Some(decltype) => Column::new(name, type_of(&decltype)).with_db_type(decltype),
            None => Column::new(name, ColumnType::Any),
        }
    });
    Schema::new(columns.collect())
}

/// What a query would give. A statement that does not read is refused as it is by a query.
pub(super) fn describe(
    database: Database,
    loan: Loan,
    sql: &str,
    cancel: &CancelToken,
) -> Result<Description, EngineError> {
    let (described, database) = match prepare(database, sql, cancel) {
        Ok(statement) => {
            let described = check(&statement).map(|()| Description {
                columns: Some(schema_of(&statement)),
                parameters: (1..=statement.n_parameters())
                    .map(|n| {
                        statement
                            .parameter_name(n)
                            .and_then(|name| name.get(1..).map(str::to_owned))
                    })
                    .collect(),
                read_only: Some(statement.is_read_only()),
                estimated_rows: None,
            });
            (described, statement.into_database())
        }
        Err((database, _)) if is_outdated(&database, &loan) => {
            let (database, loan) = reading_again(database, &loan, cancel)?;
            return describe(database, loan, sql, cancel);
        }
        Err((database, mut error)) => {
            let database = advise(database, sql, &mut error);
            (Err(error), database)
        }
    };
    end(loan, database, described.as_ref().err().map(|error| error.kind));
    described
}

/// Reads something of the database, which shows whether it is one.
pub(super) fn probe(database: Database, loan: Loan) -> Result<(), EngineError> {
    let cancel = CancelToken::new();
    match prepare(database, "SELECT count(*) FROM sqlite_schema", &cancel) {
        Ok(mut statement) => {
            let stepped = statement.step();
            loan.give_back(statement.into_database());
            match stepped {
                // A commit right after the schema was read: it is a database.
                Err(failure) if failure.file == Verdict::Stale => Ok(()),
                stepped => stepped.map(drop).map_err(|failure| while_running(failure, &cancel)),
            }
        }
        Err((database, error)) => {
            drop(database);
            Err(error)
        }
    }
}
