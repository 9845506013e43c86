//! `trim`, `ltrim` and `rtrim` with characters of one's own, as SQLite has them, but for at most so many characters: it compares each
//! character of the text with each of the set, which on two long texts takes seconds that nothing can end.
#![allow(unsafe_code)] // called by SQLite

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use rusqlite::ffi;

/// Most characters in the set.
pub(in super::super) const TRIM_CHARACTERS_MAX: usize = 256;

const LEFT: usize = 1;
const RIGHT: usize = 2;

/// Puts the functions in the place of SQLite's, and refuses `unhex` with a set of characters to pass over, which has the same fault.
///
/// # Safety
/// `db` is an open connection that no other thread uses.
pub(super) unsafe fn install(db: *mut ffi::sqlite3) -> c_int {
    let trims: [(&CStr, usize); 3] = [(c"trim", LEFT | RIGHT), (c"ltrim", LEFT), (c"rtrim", RIGHT)];
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    let create = |name: &CStr, sides: usize, function| {
        // SAFETY: the connection is open by the contract above, the name ends with NUL; the context is a number that is never followed.
        unsafe {
            let context = ptr::without_provenance_mut::<c_void>(sides);
            ffi::sqlite3_create_function_v2(db, name.as_ptr(), 2, flags, context, Some(function), None, None, None)
        }
    };
    let created = trims.iter().map(|(name, sides)| create(name, *sides, trim));
    created
        .chain([create(c"unhex", 0, refuse)])
        .find(|code| *code != ffi::SQLITE_OK)
        .unwrap_or(ffi::SQLITE_OK)
}

unsafe extern "C" fn refuse(context: *mut ffi::sqlite3_context, _n: c_int, _values: *mut *mut ffi::sqlite3_value) {
    let text = c"unhex takes one argument for untrusted queries";
    // SAFETY: the context is that of this call, and the text is copied.
    unsafe { ffi::sqlite3_result_error(context, text.as_ptr(), -1) };
}

unsafe extern "C" fn trim(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this with two values, as it was told; their texts stay as they are until the call returns, and the result is
    // copied. Without a result it is NULL, as it is where either value is NULL.
    unsafe {
        let (Some(text), Some(set)) = (text_of(*values), text_of(*values.add(1))) else {
            return;
        };
        let Some(set) = characters(set) else {
            ffi::sqlite3_result_error_toobig(context);
            return;
        };
        let sides = ffi::sqlite3_user_data(context).addr();
        let kept = trimmed(text, &set, sides);
        let (start, len) = (kept.as_ptr().cast(), kept.len() as u64);
        ffi::sqlite3_result_text64(context, start, len, ffi::SQLITE_TRANSIENT(), ffi::SQLITE_UTF8 as u8);
    }
}

/// # Safety
/// `value` is an argument of the call under way.
pub(super) unsafe fn text_of<'a>(value: *mut ffi::sqlite3_value) -> Option<&'a [u8]> {
    // SAFETY: by the contract above. The bytes are asked for after the text, as SQLite wants it.
    unsafe {
        let text = ffi::sqlite3_value_text(value);
        (!text.is_null()).then(|| super::bytes_of(text.cast(), ffi::sqlite3_value_bytes(value)))
    }
}

/// The characters of the set, up to a NUL as SQLite takes them; `None` where they are too many. What is no UTF-8 is cut as SQLite cuts it.
fn characters(set: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = set.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut found = Vec::new();
    while let Some((first, more)) = rest.split_first() {
        if found.len() == TRIM_CHARACTERS_MAX {
            return None;
        }
        let follow = if *first >= 0xC0 {
            more.iter().take_while(|byte| **byte & 0xC0 == 0x80).count()
        } else {
            0
        };
        let (character, after) = rest.split_at(1 + follow);
        found.push(character);
        rest = after;
    }
    Some(found)
}

fn trimmed<'a>(mut text: &'a [u8], set: &[&[u8]], sides: usize) -> &'a [u8] {
    if sides & LEFT != 0 {
        while let Some(rest) = set.iter().find_map(|character| text.strip_prefix(*character)) {
            text = rest;
        }
    }
    if sides & RIGHT != 0 {
        while let Some(rest) = set.iter().find_map(|character| text.strip_suffix(*character)) {
            text = rest;
        }
    }
    text
}
