//! SQLite's `median`, `percentile`, `percentile_cont` and `percentile_disc`, for a SQLite that was compiled without them, as the bundled one
//! is: the same names, the same results, as aggregates and as window functions.
//!
//! The values collected are SQLite's memory, and so within its bound.
#![allow(unsafe_code)] // called by SQLite

use std::ffi::{CStr, c_int, c_void};
use std::{ptr, slice};

use rusqlite::ffi;

/// One of the functions.
struct Function {
    name: &'static CStr,
    /// What the fraction goes up to; 0 where it is always one half.
    whole: u8,
    /// Whether the result is one of the values, not something between two of them.
    is_discrete: bool,
}

static FUNCTIONS: [Function; 4] = [
    Function {
        name: c"median",
        whole: 0,
        is_discrete: false,
    },
    Function {
        name: c"percentile",
        whole: 100,
        is_discrete: false,
    },
    Function {
        name: c"percentile_cont",
        whole: 1,
        is_discrete: false,
    },
    Function {
        name: c"percentile_disc",
        whole: 1,
        is_discrete: true,
    },
];

/// So many collections of the largest size fill SQLite's memory.
const COLLECTIONS: u64 = 4;

/// SQLite takes fractions for the same that differ by no more than this.
const SAME_FRACTION: f64 = 0.001;

/// The values of one group. SQLite hands the memory out zeroed, which is an empty collection.
#[repr(C)]
struct Values {
    /// From `sqlite3_realloc64`, or null; freed by `finish`.
    start: *mut f64,
    len: usize,
    capacity: usize,
    fraction: f64,
    has_fraction: bool,
}

/// Adds the functions.
///
/// # Safety
/// `db` is an open connection that no other thread uses.
pub(super) unsafe fn install(db: *mut ffi::sqlite3) -> c_int {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS;
    let created = FUNCTIONS.iter().map(|function| {
        let n_arguments = if function.whole == 0 { 1 } else { 2 };
        let context = ptr::from_ref(function).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open by the contract above, and the name ends with NUL; the context is never written through.
        unsafe {
            ffi::sqlite3_create_window_function(
                db,
                function.name.as_ptr(),
                n_arguments,
                flags,
                context,
                Some(step),
                Some(finish),
                Some(current),
                Some(inverse),
                None,
            )
        }
    });
    created
        .into_iter()
        .find(|code| *code != ffi::SQLITE_OK)
        .unwrap_or(ffi::SQLITE_OK)
}

/// # Safety
/// `context` is that of the call under way, of a function of the table.
unsafe fn function_of(context: *mut ffi::sqlite3_context) -> &'static Function {
    // SAFETY: by the contract above.
    unsafe { &*ffi::sqlite3_user_data(context).cast::<Function>() }
}

/// The collection of the call's group; `None` where nothing was collected, or there is no memory.
///
/// # Safety
/// `context` is that of the call under way, and the reference ends with the call.
unsafe fn values_of<'a>(context: *mut ffi::sqlite3_context, is_wanted: bool) -> Option<&'a mut Values> {
    let size = if is_wanted { size_of::<Values>() } else { 0 };
    // SAFETY: by the contract above; the memory is aligned for every type, zeroed when it is new, and nobody else's.
    unsafe {
        let memory = ffi::sqlite3_aggregate_context(context, c_int::try_from(size).unwrap_or(0));
        memory.cast::<Values>().as_mut()
    }
}

unsafe fn refuse(context: *mut ffi::sqlite3_context, why: &str) {
    // SAFETY: the caller's context; the text is copied.
    unsafe {
        let name = function_of(context).name.to_string_lossy();
        let text = format!("{name}: {why}");
        let len = c_int::try_from(text.len()).unwrap_or(0);
        ffi::sqlite3_result_error(context, text.as_ptr().cast(), len);
    }
}

unsafe extern "C" fn step(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this with as many values as `install` says.
    unsafe {
        let whole = f64::from(function_of(context).whole);
        let mut fraction = 0.5;
        if whole > 0.0 {
            let value = *values.add(1);
            let is_number = matches!(
                ffi::sqlite3_value_numeric_type(value),
                ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT
            );
            fraction = ffi::sqlite3_value_double(value) / whole;
            if !is_number || !(0.0..=1.0).contains(&fraction) {
                return refuse(context, &format!("the fraction is not a number from 0 to {whole}"));
            }
        }
        let Some(collected) = values_of(context, true) else {
            return ffi::sqlite3_result_error_nomem(context);
        };
        if !collected.has_fraction {
            (collected.fraction, collected.has_fraction) = (fraction, true);
        } else if (collected.fraction - fraction).abs() > SAME_FRACTION {
            return refuse(context, "the fraction is not the same for all rows");
        }
        match ffi::sqlite3_value_type(*values) {
            ffi::SQLITE_NULL => return,
            ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT => {}
            _ => return refuse(context, "a value is not a number"),
        }
        let value = ffi::sqlite3_value_double(*values);
        if !value.is_finite() {
            return refuse(context, "a value is infinite");
        }
        match collected.push(value) {
            Ok(()) => {}
            Err(Full::NoMemory) => ffi::sqlite3_result_error_nomem(context),
            Err(Full::TooMany) => {
                refuse(
                    context,
                    "the group has more values than a quarter of `sqlite_heap` holds",
                );
                ffi::sqlite3_result_error_code(context, ffi::SQLITE_TOOBIG);
            }
        }
    }
}

unsafe extern "C" fn inverse(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as in `step`, for a row that `step` has been called with.
    unsafe {
        let is_number = matches!(
            ffi::sqlite3_value_type(*values),
            ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT
        );
        if let Some(collected) = values_of(context, false)
            && is_number
        {
            collected.remove(ffi::sqlite3_value_double(*values));
        }
    }
}

unsafe extern "C" fn current(context: *mut ffi::sqlite3_context) {
    // SAFETY: the context of the call under way.
    unsafe {
        let function = function_of(context);
        let result = values_of(context, false).and_then(|collected| collected.at_fraction(function.is_discrete));
        if let Some(result) = result {
            ffi::sqlite3_result_double(context, result);
        }
    }
}

/// SQLite calls it once for each group, whatever has happened.
unsafe extern "C" fn finish(context: *mut ffi::sqlite3_context) {
    // SAFETY: the context of the call under way; the memory is freed once, and forgotten.
    unsafe {
        current(context);
        if let Some(collected) = values_of(context, false) {
            ffi::sqlite3_free(collected.start.cast());
            collected.start = ptr::null_mut();
            collected.len = 0;
            collected.capacity = 0;
        }
    }
}

enum Full {
    NoMemory,
    TooMany,
}

impl Values {
    fn push(&mut self, value: f64) -> Result<(), Full> {
        if self.len == self.capacity {
            let mut capacity = self.capacity * 2 + 256;
            let bytes_max = super::heap_limit() / COLLECTIONS;
            if bytes_max > 0 {
                let max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / size_of::<f64>();
                capacity = capacity.min(max);
            }
            if capacity <= self.len {
                return Err(Full::TooMany);
            }
            let bytes = (capacity * size_of::<f64>()) as u64;
            // SAFETY: the memory is null or from the same function; what it holds moves along.
            let start = unsafe { ffi::sqlite3_realloc64(self.start.cast(), bytes) };
            if start.is_null() {
                return Err(Full::NoMemory);
            }
            (self.start, self.capacity) = (start.cast(), capacity);
        }
        // SAFETY: within the memory, as was made sure above.
        unsafe { self.start.add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    fn as_slice(&mut self) -> &mut [f64] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: the first `len` values of the memory have been written.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn remove(&mut self, value: f64) {
        let values = self.as_slice();
        if let Some(at) = values.iter().position(|other| *other == value) {
            let last = values.len() - 1;
            values.swap(at, last);
            self.len = last;
        }
    }

    /// Without sorting all of them: a group may have millions, and nothing ends this call.
    fn at_fraction(&mut self, is_discrete: bool) -> Option<f64> {
        let fraction = self.fraction;
        let values = self.as_slice();
        let last = values.len().checked_sub(1)?;
        let place = fraction * last as f64;
        let (_, low, above) = values.select_nth_unstable_by(place as usize, f64::total_cmp);
        let between = place.fract();
        let high = above.iter().copied().min_by(f64::total_cmp);
        Some(match high {
            Some(high) if !is_discrete && between > 0.0 => *low + (high - *low) * between,
            _ => *low,
        })
    }
}
