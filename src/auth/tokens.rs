//! Tokens in a file, as their hashes: the authenticator that comes with the crate.
//!
//! The only part of `auth` that touches a file, when it is told to.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::secret::are_equal;
use super::{AuthError, Authenticator, Credentials, Fingerprint, Identity, Secret};
use crate::sync::Mutex;

/// Largest file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest name of a principal, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Random bytes of a new token: 256 bits, where 128 would be enough against guessing.
const SECRET_BYTES: usize = 32;

/// What a new token begins with, for people and for programs that look for secrets where they should not be.
const PREFIX: &str = "rowstream_";

/// Shorter ones are never looked at: 128 random bits have 22 characters in base64.
const TOKEN_CHARS_MIN: usize = 22;

/// SHA-256 of a token. Enough, because tokens are random: no dictionary has them.
type Hash = [u8; 32];

/// Tokens of a file, which has a line for each:
///
/// ```text
/// # name  SHA-256 of the token, in hexadecimal                                   rights       engines
/// alice   3bd9a18e833c774996a6f04603164a6d45bcbf59bf722fdf724c39415d5d9cac query
/// ops     f5428abba359924963603272d34e89a9093bf10db610525a34e42e62d0339473 query,admin
/// report  430de0b3689daae10ec3fb75828591f121c94956dc315accaae076070e8139f8 query        engines=sales,archive
/// ```
///
/// Rights are `query` (run, describe and resume queries) and `admin` (list, look at and cancel everybody's streams). Without `engines`,
/// all may be asked; an engine whose name has a blank or a comma cannot be listed. One principal may have several tokens, for instance
/// while one takes the place of another. Blank lines and lines that begin with `#` are passed over.
///
/// Tokens themselves are not in the file, so that reading it lets nobody in; whoever can write to it can let anybody in, so a file that
/// others than its owner may write to is refused. `rowstream token NAME` and [`generate`](Self::generate) make tokens of 256 random bits
/// with their lines. Tokens of less than 22 characters are never accepted, because they cannot have 128 random bits.
///
/// Clones are the same: keep one, and [reload](Self::reload) it when the file has changed.
#[derive(Clone)]
pub struct TokenFile {
    path: Arc<Path>,
    entries: Arc<Mutex<Arc<[Entry]>>>,
}

struct Entry {
    hash: Hash,
    identity: Identity,
}

/// Why a token file is not used. No text has any of the file's, in case it is a token that somebody has put in the wrong place.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read, is no regular file, or has more than 1 MiB.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner may write to it: `chmod go-w` it, after a look at what it says.
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// A line is none of a token file.
    Line {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        text: &'static str,
    },
    /// The identity has a name or an engine that a line cannot say; the text says what is wrong.
    Identity(&'static str),
}

impl fmt::Display for TokenFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Writable { path } => write!(
                f,
                "{}: others than its owner may write to it, and so let anybody in; chmod go-w it",
                path.display()
            ),
            Self::Line { path, line, text } => write!(f, "{}, line {line}: {text}", path.display()),
            Self::Identity(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for TokenFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Writable { .. } | Self::Line { .. } | Self::Identity(_) => None,
        }
    }
}

impl TokenFile {
    /// Reads a file. Blocks on that.
    ///
    /// # Errors
    /// [`TokenFileError`], of whatever line is the first to be wrong. A file that others may read is used, and warned of in the log:
    /// it has names and rights.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TokenFileError> {
        let path = path.into();
        let entries = read(&path)?;
        Ok(Self {
            path: path.into(),
            entries: Arc::new(Mutex::new(entries)),
        })
    }

    /// Reads the file again; returns how many tokens it has. Tokens that are gone let nobody in from now on; those who are in go on as who
    /// they are until the server is told to [look again](crate::server::ServerHandle::recheck_clients). Blocks on reading.
    ///
    /// # Errors
    /// As [`open`](Self::open). All stays as it was, then.
    pub fn reload(&self) -> Result<usize, TokenFileError> {
        let entries = read(&self.path)?;
        let n_entries = entries.len();
        let before = std::mem::replace(&mut *self.entries.lock(), entries);
        drop(before);
        Ok(n_entries)
    }

    /// A new random token for somebody, and the line of a token file that says so. The token is not kept anywhere.
    ///
    /// # Errors
    /// [`TokenFileError::Identity`].
    ///
    /// # Panics
    /// Where the system has no random bytes to give.
    pub fn generate(identity: &Identity) -> Result<(Secret, String), TokenFileError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let line = line_of(identity, &hash_of(&token)).map_err(TokenFileError::Identity)?;
        Ok((Secret::from(token), line))
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

/// Never blocks.
impl Authenticator for TokenFile {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        let token = credentials.token();
        if token.len() < TOKEN_CHARS_MIN {
            return Err(AuthError::Rejected);
        }
        let entries = Arc::clone(&self.entries.lock());
        find(entries.iter(), &hash_of(token)).ok_or(AuthError::Rejected)
    }

    /// Tokens that could be guessed are never accepted, and looking at one takes a hash and as many comparisons as the file has lines.
    fn is_guess_proof(&self) -> bool {
        true
    }

    /// Who has the token in the file as it was read last.
    fn recheck(&self, token: &Fingerprint, _identity: &Identity) -> Result<Identity, AuthError> {
        let entries = Arc::clone(&self.entries.lock());
        find(entries.iter(), token.as_bytes()).ok_or(AuthError::Rejected)
    }
}

/// Looks at every byte of every entry, whichever it is: the time says nothing of what is in the file. It would say little anyway,
/// because nobody who does not know a token can choose where its hash differs.
fn find<'a>(entries: impl Iterator<Item = &'a Entry>, hash: &Hash) -> Option<Identity> {
    let found = entries.fold(None, |found, entry| {
        if are_equal(&entry.hash, hash) {
            Some(entry)
        } else {
            found
        }
    });
    found.map(|entry| entry.identity.clone())
}

fn hash_of(token: &str) -> Hash {
    *Fingerprint::of(token).as_bytes()
}

fn read(path: &Path) -> Result<Arc<[Entry]>, TokenFileError> {
    let failed = |source| TokenFileError::Read {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe waits for somebody to write to it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        let text = "this is no regular file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    let file = File::open(path).map_err(failed)?;
    match others_may(&file).map_err(failed)? {
        Others::Write => return Err(TokenFileError::Writable { path: path.to_owned() }),
        Others::Read => log::warn!(path:% = path.display(); "everybody on this machine may read the tokens"),
        Others::Nothing => {}
    }
    let mut text = String::new();
    let n_bytes = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if n_bytes as u64 > FILE_BYTES_MAX {
        let text = format!("more than {FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    parse(&text).map_err(|(line, text)| TokenFileError::Line {
        path: path.to_owned(),
        line,
        text,
    })
}

/// What others than the owner may do to a file, at the most.
enum Others {
    Nothing,
    Read,
    Write,
}

/// Of the file that is open, not of whatever has its name by now.
fn others_may(file: &File) -> io::Result<Others> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let mode = file.metadata()?.permissions().mode();
        Ok(match mode {
            mode if mode & 0o022 != 0 => Others::Write,
            mode if mode & 0o004 != 0 => Others::Read,
            _ => Others::Nothing,
        })
    }
    #[cfg(not(unix))]
    {
        file.metadata().map(|_| Others::Nothing)
    }
}

/// The entries, or the number of the first wrong line and what is wrong with it.
fn parse(text: &str) -> Result<Arc<[Entry]>, (usize, &'static str)> {
    let mut entries: Vec<Entry> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line).map_err(|text| (number, text))?;
        if entries.iter().any(|earlier| earlier.hash == entry.hash) {
            return Err((number, "an earlier line has the same token"));
        }
        entries.push(entry);
    }
    Ok(entries.into())
}

fn entry(line: &str) -> Result<Entry, &'static str> {
    let mut fields = line.split_whitespace();
    let (Some(name), Some(hash), Some(rights)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("a line has a name, the SHA-256 of a token, and rights");
    };
    check_name(name)?;
    let hash = hash_from(hash).ok_or("the second field is not the SHA-256 of a token: 64 hexadecimal digits")?;
    let mut identity = Identity::new(name).without_query();
    for right in rights.split(',') {
        match right {
            "query" => identity.rights.query = true,
            "admin" => identity.rights.admin = true,
            _ => return Err("the third field is not rights: query, admin, or query,admin"),
        }
    }
    if let Some(engines) = fields.next() {
        let names = engines
            .strip_prefix("engines=")
            .ok_or("the fourth field, if there is one, is engines=NAME,NAME…")?;
        if names.split(',').any(str::is_empty) {
            return Err("an engine has no name");
        }
        identity = identity.with_engines(names.split(','));
    }
    match fields.next() {
        Some(_) => Err("there are more than four fields"),
        None => Ok(Entry { hash, identity }),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let is_one = !name.is_empty()
        && !name.starts_with('#')
        && name.chars().count() <= NAME_CHARS_MAX
        && !name.chars().any(|char| char.is_whitespace() || char.is_control());
    if is_one {
        Ok(())
    } else {
        Err("a name has 1 to 64 characters without blanks, the first of them not #")
    }
}

fn hash_from(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let digit = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(digit).ok()?;
        }
    }
    Some(hash)
}

fn line_of(identity: &Identity, hash: &Hash) -> Result<String, &'static str> {
    check_name(identity.name())?;
    let rights = identity.rights();
    let rights_text = match (rights.query, rights.admin) {
        (true, false) => "query",
        (true, true) => "query,admin",
        (false, true) => "admin",
        (false, false) => return Err("without a right, a token is good for nothing"),
    };
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = format!("{} {hash} {rights_text}", identity.name());
    if let Some(engines) = &rights.engines {
        let is_sayable = |name: &String| {
            !name.is_empty() && !name.contains(|char: char| char == ',' || char.is_whitespace() || char.is_control())
        };
        if engines.is_empty() || !engines.iter().all(is_sayable) {
            return Err("a line names engines whose names have neither blanks nor commas, at least one");
        }
        line.push_str(" engines=");
        line.push_str(&engines.join(","));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::cell::Cell;

    use super::*;

    fn known(lines: &str, token: &str) -> Result<Identity, AuthError> {
        let file = TokenFile {
            path: Path::new("t").into(),
            entries: Arc::new(Mutex::new(
                parse(lines).map_err(|(line, text)| format!("{line}: {text}")).unwrap(),
            )),
        };
        file.authenticate(&Credentials::new(token, None))
    }

    #[track_caller]
    fn check_wrong(line: &str, says: &str) {
        let (number, text) = parse(&format!("# heading\n\n{line}\n")).err().unwrap();
        assert_eq!(number, 3);
        assert!(text.contains(says), "{text}");
    }

    #[test]
    fn a_token_and_its_line_belong_together() {
        for identity in [
            Identity::new("alice"),
            Identity::new("ops").with_admin(),
            Identity::new("watch").without_query().with_admin(),
            Identity::new("ré-port").with_engines(["sales", "archive"]),
        ] {
            let (token, line) = TokenFile::generate(&identity).unwrap();
            assert!(!line.contains(token.expose()), "{line}");
            assert_eq!(token.expose().len(), PREFIX.len() + 43);
            assert_eq!(known(&line, token.expose()), Ok(identity.clone()), "{line}");
            let (other, _) = TokenFile::generate(&identity).unwrap();
            assert_eq!(known(&line, other.expose()), Err(AuthError::Rejected));
        }
        for identity in [
            Identity::new(""),
            Identity::new("a b"),
            Identity::new("#a"),
            Identity::new("a\u{7}"),
            Identity::new("a".repeat(65)),
            Identity::new("a").without_query(),
            Identity::new("a").with_engines(["b c"]),
            Identity::new("a").with_engines(["b,c"]),
            Identity::new("a").with_engines([""; 0]),
        ] {
            assert!(TokenFile::generate(&identity).is_err(), "{identity:?}");
        }
    }

    #[test]
    fn a_principal_may_have_several_tokens_and_short_ones_are_never_accepted() {
        let (first, line) = TokenFile::generate(&Identity::new("alice")).unwrap();
        let (second, other) = TokenFile::generate(&Identity::new("alice").with_admin()).unwrap();
        let lines = format!("{line}\r\n  \n\t{other}\n");
        assert_eq!(known(&lines, first.expose()), Ok(Identity::new("alice")));
        assert_eq!(known(&lines, second.expose()), Ok(Identity::new("alice").with_admin()));
        for (token, accepted) in [("x".repeat(21), false), ("x".repeat(22), true)] {
            let line = line_of(&Identity::new("weak"), &hash_of(&token)).unwrap();
            assert_eq!(known(&line, &token).is_ok(), accepted);
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_never_shown() {
        let hash = "0a".repeat(32);
        check_wrong("alice", "a name, the SHA-256");
        check_wrong(&format!("alice {hash}"), "rights");
        check_wrong("alice rowstream_canary query", "64 hexadecimal digits");
        check_wrong(&format!("alice {}zz query", "0a".repeat(31)), "64 hexadecimal digits");
        check_wrong(&format!("alice {hash} root"), "not rights");
        check_wrong(&format!("alice {hash} query,"), "not rights");
        check_wrong(&format!("alice {hash} query sales"), "engines=");
        check_wrong(&format!("alice {hash} query engines=a,,b"), "no name");
        check_wrong(&format!("alice {hash} query engines=a b"), "more than four");
        check_wrong(&format!("{} {hash} query", "a".repeat(65)), "64 characters");
        let error = parse(&format!("a {hash} query\nb {} query", hash.to_uppercase()))
            .err()
            .unwrap();
        assert_eq!(error.0, 2);
        let error = TokenFileError::Line {
            path: "t".into(),
            line: 3,
            text: "x",
        };
        assert_eq!(error.to_string(), "t, line 3: x");
    }

    #[test]
    fn every_entry_is_looked_at_whichever_it_is() {
        let entries: Vec<Entry> = (0..5_u8)
            .map(|n| Entry {
                hash: [n; 32],
                identity: Identity::new(n.to_string()),
            })
            .collect();
        for wanted in 0..6_u8 {
            let n_seen = Cell::new(0);
            let counted = entries.iter().inspect(|_| n_seen.set(n_seen.get() + 1));
            let found = find(counted, &[wanted; 32]);
            assert_eq!(n_seen.get(), entries.len());
            assert_eq!(
                found.map(|identity| identity.name().to_owned()),
                (wanted < 5).then(|| wanted.to_string())
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_file_is_read_again_when_told_and_kept_when_it_is_wrong() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (token, line) = TokenFile::generate(&Identity::new("alice")).unwrap();
        let credentials = Credentials::new(token.expose(), None);
        assert!(matches!(TokenFile::open(&path), Err(TokenFileError::Read { .. })));
        fs::write(&path, "# nobody yet\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(file.authenticate(&credentials), Err(AuthError::Rejected));
        fs::write(&path, &line).unwrap();
        assert_eq!(file.clone().reload().unwrap(), 1);
        assert_eq!(file.authenticate(&credentials), Ok(Identity::new("alice")));
        fs::write(&path, format!("{line}\nnonsense")).unwrap();
        assert!(matches!(file.reload(), Err(TokenFileError::Line { line: 2, .. })));
        for mode in [0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(file.reload(), Err(TokenFileError::Writable { .. })),
                "{mode:o}"
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, " ".repeat(1 + FILE_BYTES_MAX as usize)).unwrap();
        assert!(matches!(file.reload(), Err(TokenFileError::Read { .. })));
        assert_eq!(file.authenticate(&credentials), Ok(Identity::new("alice")), "as it was");
        let (fingerprint, alice) = (Fingerprint::of(token.expose()), Identity::new("alice"));
        fs::write(&path, format!("{line} engines=sales")).unwrap();
        assert_eq!(file.recheck(&fingerprint, &alice), Ok(alice.clone()), "as it was");
        assert_eq!(file.reload().unwrap(), 1);
        assert_eq!(
            file.recheck(&fingerprint, &alice),
            Ok(alice.clone().with_engines(["sales"]))
        );
        fs::write(&path, "").unwrap();
        assert_eq!(file.reload().unwrap(), 0);
        assert_eq!(file.authenticate(&credentials), Err(AuthError::Rejected));
        assert_eq!(Arc::new(file).recheck(&fingerprint, &alice), Err(AuthError::Rejected));
    }
}
