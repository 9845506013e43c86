//! Reads of a database's file that end beyond its end, which SQLite takes for zeros.
//!
//! That suits who is about to write the page. A reader would make rows of the zeros: of a file that was cut under it, half a page is there,
//! and what is missing reads as NULL, as 0 or as the empty text. Here it is an error.
#![allow(unsafe_code)] // SQLite's file system is a table of C functions

use std::ffi::{c_int, c_void};
use std::mem::{align_of, size_of};

use rusqlite::ffi;

use super::pulse;

type Read = unsafe extern "C" fn(*mut ffi::sqlite3_file, *mut c_void, c_int, ffi::sqlite3_int64) -> c_int;

/// Behind each file: its own methods, but for `xRead`. SQLite sees the first field.
#[repr(C)]
struct WholePages {
    methods: ffi::sqlite3_io_methods,
    read: Read,
}

/// The smallest page. What is read in smaller pieces are the header, which may be missing while a database is empty, and the ends of long values,
/// where a short read is an error to SQLite as well.
const PAGE_BYTES_MIN: usize = 512;

/// How a database begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Where the header says the size of a page, big-endian: 1 stands for 65,536.
const PAGE_SIZE_AT: usize = 16;

/// How many bytes a file takes whose file system takes `usual` of them.
pub(super) fn file_bytes(usual: c_int) -> c_int {
    let align = align_of::<WholePages>() as c_int;
    (usual + align - 1) / align * align + size_of::<WholePages>() as c_int
}

/// Makes reads of `file` that are short fail from now on, where SQLite would not.
///
/// # Safety
/// `file` was just opened and is of `bytes` bytes, which are of [`file_bytes`], aligned as SQLite aligns what it allocates.
pub(super) unsafe fn insist(file: *mut ffi::sqlite3_file, bytes: c_int) {
    let at = usize::try_from(bytes)
        .unwrap_or(0)
        .saturating_sub(size_of::<WholePages>());
    // SAFETY: by the contract above, what is at `at` is aligned, belongs to this file and is not used by its file system. It lives until SQLite
    // has closed the file, and nobody has to drop it.
    unsafe {
        let Some(methods) = (*file).pMethods.as_ref() else {
            return;
        };
        let Some(usual) = methods.xRead else {
            return;
        };
        let behind = file.byte_add(at).cast::<WholePages>();
        behind.write(WholePages {
            methods: ffi::sqlite3_io_methods {
                xRead: Some(read),
                ..*methods
            },
            read: usual,
        });
        (*file).pMethods = behind.cast();
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    if pulse::stops_read() {
        return ffi::SQLITE_INTERRUPT;
    }
    // SAFETY: only files that `insist` has seen have this method, so their methods are the first field of what it has written. The buffer is of
    // `len` bytes, all of them written after a short read: with zeros from where the file ends.
    unsafe {
        let behind = (*file).pMethods.cast::<WholePages>();
        let code = ((*behind).read)(file, buffer, len, offset);
        if code == ffi::SQLITE_IOERR_SHORT_READ
            && would_be_taken(
                std::slice::from_raw_parts(buffer.cast(), usize::try_from(len).unwrap_or(0)),
                offset,
            )
        {
            return ffi::SQLITE_IOERR_READ;
        }
        code
    }
}

/// Whether SQLite would take what was read as far as the file goes for a page. The first one it looks at: one without the words that a database
/// begins with is none, and one that says another page size is read again with that.
fn would_be_taken(read: &[u8], offset: i64) -> bool {
    let page_size = |header: &[u8]| match header {
        [0, 1, ..] => 65_536,
        [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    read.len() >= PAGE_BYTES_MIN
        && (offset > 0 || read.starts_with(MAGIC) && page_size(&read[PAGE_SIZE_AT..]) == read.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_have_to_be_there_in_whole() {
        let page = |size: [u8; 2], len: usize| {
            let mut page = MAGIC.to_vec();
            page.extend(size);
            page.resize(len, 0);
            page
        };
        let kib_4 = page([0x10, 0], 4096);
        assert!(would_be_taken(&kib_4, 0) && would_be_taken(&kib_4, 4096));
        assert!(would_be_taken(&page([2, 0], 512), 0));
        assert!(would_be_taken(&page([0, 1], 65_536), 0));
        assert!(would_be_taken(&[0; 512], 512));
        // The header, its change counter, and the end of a long value.
        assert!(!would_be_taken(&kib_4[..100], 0));
        assert!(!would_be_taken(&[0; 16], 24));
        assert!(!would_be_taken(&[0; 511], 4096));
        // No database, and one with another page size than was thought.
        assert!(!would_be_taken(&[0; 4096], 0));
        assert!(!would_be_taken(&page([2, 0], 4096), 0));
        assert!(!would_be_taken(&page([0, 1], 4096), 0));
    }

    #[test]
    fn what_is_behind_a_file_is_aligned() {
        for usual in [1, 8, 119, 120, 121] {
            let at = file_bytes(usual) - size_of::<WholePages>() as c_int;
            assert!(at >= usual && at < usual + 8 && at % align_of::<WholePages>() as c_int == 0);
            assert_eq!(file_bytes(usual) % 8, 0);
        }
    }
}
