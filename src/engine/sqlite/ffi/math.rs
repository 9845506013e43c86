//! SQLite's mathematical functions, for a SQLite that was compiled without them, as the bundled one is: the same names, the same results.
#![allow(unsafe_code)] // called by SQLite

use std::f64::consts::PI;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use rusqlite::ffi;

/// What a function computes. A value that is neither a number nor a text that looks like one gives NULL.
enum Formula {
    Constant(f64),
    /// An integer is its own result.
    Rounding(fn(f64) -> f64),
    Of(fn(f64) -> f64),
    OfBoth(fn(f64, f64) -> f64),
    /// NULL unless the number is positive.
    Logarithm(fn(f64) -> f64),
    /// The base comes first.
    LogarithmToBase,
}

use Formula::{Constant, Logarithm, LogarithmToBase, Of, OfBoth, Rounding};

static FUNCTIONS: [(&CStr, Formula); 30] = [
    (c"acos", Of(f64::acos)),
    (c"acosh", Of(f64::acosh)),
    (c"asin", Of(f64::asin)),
    (c"asinh", Of(f64::asinh)),
    (c"atan", Of(f64::atan)),
    (c"atan2", OfBoth(f64::atan2)),
    (c"atanh", Of(f64::atanh)),
    (c"ceil", Rounding(f64::ceil)),
    (c"ceiling", Rounding(f64::ceil)),
    (c"cos", Of(f64::cos)),
    (c"cosh", Of(f64::cosh)),
    (c"degrees", Of(|x| x * (180.0 / PI))),
    (c"exp", Of(f64::exp)),
    (c"floor", Rounding(f64::floor)),
    (c"ln", Logarithm(f64::ln)),
    (c"log", Logarithm(f64::log10)),
    (c"log", LogarithmToBase),
    (c"log10", Logarithm(f64::log10)),
    (c"log2", Logarithm(f64::log2)),
    (c"mod", OfBoth(|x, y| x % y)),
    (c"pi", Constant(PI)),
    (c"pow", OfBoth(f64::powf)),
    (c"power", OfBoth(f64::powf)),
    (c"radians", Of(|x| x * (PI / 180.0))),
    (c"sin", Of(f64::sin)),
    (c"sinh", Of(f64::sinh)),
    (c"sqrt", Of(f64::sqrt)),
    (c"tan", Of(f64::tan)),
    (c"tanh", Of(f64::tanh)),
    (c"trunc", Rounding(f64::trunc)),
];

/// Adds the functions.
///
/// # Safety
/// `db` is an open connection that no other thread uses.
pub(super) unsafe fn install(db: *mut ffi::sqlite3) -> c_int {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    let created = FUNCTIONS.iter().map(|(name, formula)| {
        let n_arguments = match formula {
            Constant(_) => 0,
            Rounding(_) | Of(_) | Logarithm(_) => 1,
            OfBoth(_) | LogarithmToBase => 2,
        };
        let context = ptr::from_ref(formula).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open by the contract above, and the name ends with NUL; the context is never written through.
        unsafe {
            let (name, compute) = (name.as_ptr(), Some(compute as Compute));
            ffi::sqlite3_create_function_v2(db, name, n_arguments, flags, context, compute, None, None, None)
        }
    });
    created
        .into_iter()
        .find(|code| *code != ffi::SQLITE_OK)
        .unwrap_or(ffi::SQLITE_OK)
}

type Compute = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

unsafe extern "C" fn compute(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this with as many values as `install` says, and its context is a formula of the table. Without a result it is
    // NULL, as it is where the result is no number.
    unsafe {
        let formula = &*ffi::sqlite3_user_data(context).cast::<Formula>();
        let first = || number(*values);
        let second = || number(*values.add(1));
        let result = match formula {
            Constant(value) => Some(*value),
            Rounding(_) if ffi::sqlite3_value_numeric_type(*values) == ffi::SQLITE_INTEGER => {
                return ffi::sqlite3_result_int64(context, ffi::sqlite3_value_int64(*values));
            }
            Rounding(of) | Of(of) => first().map(of),
            OfBoth(of) => first().zip(second()).map(|(x, y)| of(x, y)),
            Logarithm(of) => first().filter(|x| *x > 0.0).map(of),
            LogarithmToBase => {
                let base = first().filter(|base| *base > 1.0);
                let x = second().filter(|x| *x > 0.0);
                base.zip(x).map(|(base, x)| x.ln() / base.ln())
            }
        };
        if let Some(result) = result {
            ffi::sqlite3_result_double(context, result);
        }
    }
}

/// # Safety
/// `value` is an argument of the call under way.
unsafe fn number(value: *mut ffi::sqlite3_value) -> Option<f64> {
    // SAFETY: by the contract above.
    unsafe {
        let is_number = matches!(
            ffi::sqlite3_value_numeric_type(value),
            ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT
        );
        is_number.then(|| ffi::sqlite3_value_double(value))
    }
}
