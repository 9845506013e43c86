//! `generate_series(START, STOP, STEP)`, which SQLite's own shell has and its library has not: the integers from START on, up or down, as
//! far as STOP.
#![allow(unsafe_code)] // the layout of both structs is a contract with SQLite

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;

use rusqlite::types::Value;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor,
};
use rusqlite::{Connection, Error, Result, ffi};

/// The last value where no STOP is given.
const STOP: i64 = 0xFFFF_FFFF;

/// The hidden columns, by their place in the table: the arguments.
const ARGUMENTS: [c_int; 3] = [1, 2, 3];

/// Adds the table.
pub(in super::super) fn install(connection: &Connection) -> Result<()> {
    const MODULE: Module<Table> = Module::eponymous_only_module();
    connection.create_module(c"generate_series", &MODULE, None)
}

#[repr(C)]
struct Table {
    base: ffi::sqlite3_vtab,
}

#[repr(C)]
#[derive(Default)]
struct Cursor<'table> {
    base: ffi::sqlite3_vtab_cursor,
    start: i64,
    stop: i64,
    step: i64,
    /// `None` behind the last row.
    value: Option<i64>,
    n_before: i64,
    table: PhantomData<&'table Table>,
}

// SAFETY: the struct has the layout that is asked for, and begins with the base.
unsafe impl<'table> VTab<'table> for Table {
    type Aux = ();
    type Cursor = Cursor<'table>;

    fn connect(
        database: &mut VTabConnection,
        _aux: Option<&()>,
        _module: &[u8],
        _schema: &[u8],
        _name: &[u8],
        _arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        database.config(VTabConfig::Innocuous)?;
        let table = Self {
            base: ffi::sqlite3_vtab::default(),
        };
        Ok((
            Cow::Borrowed(c"CREATE TABLE x(value, start HIDDEN, stop HIDDEN, step HIDDEN)"),
            table,
        ))
    }

    /// A bit of the plan's number says which arguments are given, in their order.
    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let mut given = [None; ARGUMENTS.len()];
        let mut is_unusable = false;
        for (idx, constraint) in info.constraints().enumerate() {
            let argument = ARGUMENTS.iter().position(|column| *column == constraint.column());
            if let Some(argument) = argument
                && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
            {
                is_unusable |= !constraint.is_usable();
                if let Some(given) = given.get_mut(argument) {
                    *given = Some(idx);
                }
            }
        }
        if is_unusable {
            return Ok(false);
        }
        let mut plan = 0;
        let mut n_given = 0;
        for (argument, idx) in given.iter().enumerate() {
            if let Some(idx) = idx {
                plan |= 1 << argument;
                n_given += 1;
                let mut usage = info.constraint_usage(*idx);
                usage.set_argv_index(n_given);
                usage.set_omit(true);
            }
        }
        let is_bounded = plan & 0b11 == 0b11;
        info.set_estimated_rows(if is_bounded { 1_000 } else { STOP });
        info.set_estimated_cost(if is_bounded { 1_000.0 } else { STOP as f64 });
        info.set_idx_num(plan);
        Ok(true)
    }

    fn open(&mut self) -> Result<Cursor<'_>> {
        Ok(Cursor::default())
    }
}

/// A value as SQLite casts it to an integer (sqlite.org/lang_expr.html, "CAST expressions"); `None` for NULL.
fn whole_number(value: Value) -> Option<i64> {
    match value {
        Value::Null => None,
        Value::Integer(value) => Some(value),
        // Towards zero, and to the nearest end of the range beyond it.
        Value::Real(value) => Some(value as i64),
        Value::Text(text) => Some(leading_integer(&text)),
        Value::Blob(bytes) => Some(leading_integer(&String::from_utf8_lossy(&bytes))),
    }
}

/// The longest beginning of a text that is an integer; 0 where none is.
fn leading_integer(text: &str) -> i64 {
    let text = text.trim_start();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let n_digits = digits.bytes().take_while(u8::is_ascii_digit).count();
    let end = text.len() - digits.len() + n_digits;
    let number = text.get(..end).unwrap_or_default();
    match number.parse() {
        Ok(number) => number,
        Err(_) if n_digits == 0 => 0,
        Err(_) if number.starts_with('-') => i64::MIN,
        Err(_) => i64::MAX,
    }
}

// SAFETY: the struct has the layout that is asked for, and begins with the base.
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, plan: c_int, _plan_text: Option<&str>, given: &Filters<'_>) -> Result<()> {
        let mut values = [None, Some(STOP), Some(1)];
        let mut n_read = 0;
        for (argument, value) in values.iter_mut().enumerate() {
            if plan & 1 << argument != 0 {
                *value = whole_number(given.get(n_read)?);
                if value.is_none() {
                    // NULL.
                    self.value = None;
                    return Ok(());
                }
                n_read += 1;
            }
        }
        let [Some(start), Some(stop), Some(step)] = values else {
            let text = "generate_series needs its first argument, START";
            return Err(Error::ModuleError(text.to_owned()));
        };
        (self.start, self.stop) = (start, stop);
        self.step = if step == 0 { 1 } else { step };
        self.n_before = 0;
        self.value = self.within(start);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.n_before = self.n_before.wrapping_add(1);
        let next = self.value.and_then(|value| value.checked_add(self.step));
        self.value = next.and_then(|value| self.within(value));
        Ok(())
    }

    fn eof(&self) -> bool {
        self.value.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        context.set_result(match column {
            1 => self.start,
            2 => self.stop,
            3 => self.step,
            _ => self.value.unwrap_or_default(),
        })
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.n_before.wrapping_add(1))
    }
}

impl Cursor<'_> {
    fn within(&self, value: i64) -> Option<i64> {
        let is_within = if self.step > 0 {
            value <= self.stop
        } else {
            value >= self.stop
        };
        is_within.then_some(value)
    }
}
