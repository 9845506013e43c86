//! Reads of a database's file that end beyond its end, which SQLite takes for zeros.
//!
//! That suits who is about to write the page. A reader would make rows of the zeros: of a file that was cut under it, half a page is there,
//! and what is missing reads as NULL, as 0 or as the empty text. Here it is an error.

/// The smallest page. What is read in smaller pieces are the header, which may be missing while a database is empty, and the ends of long values,
/// where a short read is an error to SQLite as well.
const PAGE_BYTES_MIN: usize = 512;

/// How a database begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Where the header says the size of a page, big-endian: 1 stands for 65,536.
const PAGE_SIZE_AT: usize = 16;

/// Whether SQLite would take what was read as far as the file goes for a page. The first one it looks at: one without the words that a database
/// begins with is none, and one that says another page size is read again with that.
pub(super) fn would_be_taken(read: &[u8], offset: i64) -> bool {
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
}
