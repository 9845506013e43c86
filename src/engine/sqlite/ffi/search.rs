//! `instr` and `replace` as SQLite has them, in time that grows with the length of their texts: SQLite's own take the product of both
//! lengths, which on two long texts is minutes that nothing can end.
#![allow(unsafe_code)] // called by SQLite

use std::ffi::{CStr, c_int};
use std::ptr;

use memchr::memmem;
use rusqlite::ffi;

use super::trim::text_of;

/// Puts the functions in the place of SQLite's.
///
/// # Safety
/// `db` is an open connection that no other thread uses.
pub(super) unsafe fn install(db: *mut ffi::sqlite3) -> c_int {
    type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);
    let functions: [(&CStr, c_int, Function); 2] = [(c"instr", 2, instr), (c"replace", 3, replace)];
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    let created = functions.iter().map(|(name, n, function)| {
        // SAFETY: the connection is open by the contract above, and the name ends with NUL.
        unsafe {
            let (name, none) = (name.as_ptr(), ptr::null_mut());
            ffi::sqlite3_create_function_v2(db, name, *n, flags, none, Some(*function), None, None, None)
        }
    });
    created
        .into_iter()
        .find(|code| *code != ffi::SQLITE_OK)
        .unwrap_or(ffi::SQLITE_OK)
}

unsafe extern "C" fn instr(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this with two values, as it was told; what is read of them stays as it is until the call returns. Without a
    // result it is NULL, as it is where either value is NULL.
    unsafe {
        let (haystack, needle) = (*values, *values.add(1));
        let types = (ffi::sqlite3_value_type(haystack), ffi::sqlite3_value_type(needle));
        let found = match types {
            (ffi::SQLITE_NULL, _) | (_, ffi::SQLITE_NULL) => return,
            (ffi::SQLITE_BLOB, ffi::SQLITE_BLOB) => Some(byte_position(blob_of(haystack), blob_of(needle))),
            (ffi::SQLITE_BLOB, _) | (_, ffi::SQLITE_BLOB) => {
                // A blob that is read as a text would be one for the rest of the query too.
                let copies = (Copied::of(haystack), Copied::of(needle));
                text_position(copies.0.0, copies.1.0)
            }
            _ => text_position(haystack, needle),
        };
        match found.map(i64::try_from) {
            Some(found) => ffi::sqlite3_result_int64(context, found.unwrap_or(i64::MAX)),
            None => ffi::sqlite3_result_error_nomem(context),
        }
    }
}

/// A value of our own, freed with this; null where there was no memory, which every function of SQLite takes for NULL.
struct Copied(*mut ffi::sqlite3_value);

impl Copied {
    /// # Safety
    /// `value` is an argument of the call under way.
    unsafe fn of(value: *mut ffi::sqlite3_value) -> Self {
        // SAFETY: by the contract above.
        Self(unsafe { ffi::sqlite3_value_dup(value) })
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // SAFETY: null, or made by `sqlite3_value_dup`; freed once.
        unsafe { ffi::sqlite3_value_free(self.0) };
    }
}

/// `None` where there is no memory.
///
/// # Safety
/// Both values are null, or stay as they are until the call under way returns.
unsafe fn text_position(haystack: *mut ffi::sqlite3_value, needle: *mut ffi::sqlite3_value) -> Option<usize> {
    // SAFETY: by the contract above.
    unsafe { Some(character_position(text_of(haystack)?, text_of(needle)?)) }
}

/// # Safety
/// `value` is an argument of the call under way, and a blob.
unsafe fn blob_of<'a>(value: *mut ffi::sqlite3_value) -> &'a [u8] {
    // SAFETY: by the contract above. The bytes are asked for after the blob, as SQLite wants it.
    unsafe {
        let blob = ffi::sqlite3_value_blob(value);
        super::bytes_of(blob, ffi::sqlite3_value_bytes(value))
    }
}

/// Counted from 1; 0 where the needle is nowhere.
fn byte_position(haystack: &[u8], needle: &[u8]) -> usize {
    memmem::find(haystack, needle).map_or(0, |at| at + 1)
}

/// Counted in characters, from 1; 0 where the needle is nowhere. SQLite looks at the first byte, and then wherever a character begins.
fn character_position(haystack: &[u8], needle: &[u8]) -> usize {
    let follows = |byte: &u8| byte & 0xC0 == 0x80;
    let at = if needle.first().is_some_and(follows) {
        haystack.starts_with(needle).then_some(0)
    } else {
        memmem::find(haystack, needle)
    };
    at.map_or(0, |at| {
        let before = haystack.get(1..=at).unwrap_or_default();
        1 + before.iter().filter(|byte| !follows(byte)).count()
    })
}

unsafe extern "C" fn replace(context: *mut ffi::sqlite3_context, _n: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this with three values, as it was told; their texts stay as they are until the call returns. Without a
    // result it is NULL, as it is where a value is NULL.
    unsafe {
        let (Some(text), Some(pattern)) = (text_of(*values), text_of(*values.add(1))) else {
            return;
        };
        // SQLite does not look at the replacement then, nor behind a NUL.
        if pattern.first().is_none_or(|first| *first == 0) {
            let (start, len) = (text.as_ptr().cast(), text.len() as u64);
            ffi::sqlite3_result_text64(context, start, len, ffi::SQLITE_TRANSIENT(), ffi::SQLITE_UTF8 as u8);
            return;
        }
        let Some(replacement) = text_of(*values.add(2)) else {
            return;
        };
        let finder = memmem::Finder::new(pattern);
        let n_found = finder.find_iter(text).count();
        // The texts are cells, each far smaller than half the address space, but their product need not be.
        let len = (text.len() - n_found * pattern.len()) as u64 + n_found as u64 * replacement.len() as u64;
        let db = ffi::sqlite3_context_db_handle(context);
        let len_max = u64::try_from(ffi::sqlite3_limit(db, ffi::SQLITE_LIMIT_LENGTH, -1)).unwrap_or(0);
        if len > len_max {
            return ffi::sqlite3_result_error_toobig(context);
        }
        // Counted as SQLite's memory, and with room for a NUL, so never of no bytes.
        let out = ffi::sqlite3_malloc64(len + 1).cast::<u8>();
        if out.is_null() {
            return ffi::sqlite3_result_error_nomem(context);
        }
        let mut end = out;
        let mut copied = 0;
        for found in finder.find_iter(text) {
            end = append(end, text.get(copied..found).unwrap_or_default());
            end = append(end, replacement);
            copied = found + pattern.len();
        }
        end = append(end, text.get(copied..).unwrap_or_default());
        *end = 0;
        let free = Some(ffi::sqlite3_free as unsafe extern "C" fn(*mut std::ffi::c_void));
        ffi::sqlite3_result_text64(context, out.cast(), len, free, ffi::SQLITE_UTF8 as u8);
    }
}

/// # Safety
/// `end` has room for the bytes, and is not within them.
unsafe fn append(end: *mut u8, bytes: &[u8]) -> *mut u8 {
    // SAFETY: by the contract above.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        end.add(bytes.len())
    }
}
