//! The token that clients must send: read from a file that nobody else can read, compared in constant time.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::secret;

/// What can be guessed is no token.
const LEAST_BYTES: usize = 16;

/// And what is longer is another file.
const MOST_BYTES: usize = 4096;

/// How to make one.
const HOW: &str = "(umask 077; openssl rand -hex 32 > FILE) makes one";

/// A token's hash: comparing two takes the same time wherever they differ, and however long they are.
#[derive(Clone, Debug)]
pub(super) struct Token(blake3::Hash);

impl Token {
    /// Reads it; a line's end does not belong to it.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = || format!("--token-file {}", path.display());
        let text = secret::read(path, HOW).with_context(name)?;
        Self::of(String::from_utf8_lossy(&text).trim_end()).with_context(name)
    }

    fn of(text: &str) -> anyhow::Result<Self> {
        ensure!(text.len() >= LEAST_BYTES, "a token has {LEAST_BYTES} characters at least; {HOW}");
        if text.len() > MOST_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!("a token is one line of letters, digits and signs, without spaces; {HOW}");
        }
        Ok(Self(blake3::hash(text.as_bytes())))
    }

    /// Whether the header `Authorization` has it.
    pub(super) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some((scheme, token)) = authorization.and_then(|value| value.split_at_checked(7)) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && self.0 == blake3::hash(token)
    }
}

/// Whoever can reach the address can read what is told there: anything but this machine alone demands a token.
pub(super) fn demanded(listen: std::net::SocketAddr, file: Option<&PathBuf>) -> anyhow::Result<Option<Token>> {
    match file {
        Some(path) => Token::read(path).map(Some),
        None if listen.ip().to_canonical().is_loopback() => Ok(None),
        None => bail!(
            "--listen {listen}: whoever can reach it could read of all connections: give --token-file FILE ({HOW}), \
             or listen at 127.0.0.1"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Uid, chown, geteuid};
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn only_the_token_is_admitted() {
        let token = Token::of("0123456789abcdef").unwrap();
        let check = |header: Option<&str>, expected| {
            assert_eq!(token.admits(header.map(str::as_bytes)), expected, "{header:?}");
        };
        check(Some("Bearer 0123456789abcdef"), true);
        check(Some("bearer 0123456789abcdef"), true);
        check(Some("Bearer 0123456789abcdeF"), false);
        check(Some("Bearer 0123456789abcdef "), false);
        check(Some("Basic 0123456789abcdef"), false);
        check(Some("Bearer"), false);
        check(Some(""), false);
        check(None, false);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("sockwatch-token-{}", std::process::id()));
        let check = |text: &str, mode, expected: Option<&str>| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (Token::read(&path), expected) {
                (Ok(token), None) => assert!(token.admits(Some(b"Bearer 0123456789abcdef"))),
                (Err(error), Some(expected)) => assert!(format!("{error:#}").contains(expected), "{error:#}"),
                (found, expected) => panic!("{found:?} {expected:?}"),
            }
        };
        check("0123456789abcdef\n", 0o600, None);
        check("0123456789abcdef", 0o440, None);
        check("0123456789abcdef\n", 0o644, Some("chmod 640"));
        check("0123456789abcdef\n", 0o604, Some("chmod 640"));
        check("0123456789abcdef\n", 0o620, Some("chmod 640"));
        check("short\n", 0o600, Some("16 characters"));
        check("two words, two words", 0o600, Some("without spaces"));
        // Only root can give a file away.
        if geteuid().is_root() {
            chown(&path, Some(Uid::from_raw(1)), None).unwrap();
            check("0123456789abcdef\n", 0o600, Some("belongs to user 1"));
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn only_this_machine_goes_without() {
        let check = |listen: &str, expected| {
            assert_eq!(demanded(listen.parse().unwrap(), None).is_ok(), expected, "{listen}");
        };
        check("127.0.0.1:1", true);
        check("127.9.9.9:1", true);
        check("[::1]:1", true);
        check("[::ffff:127.0.0.1]:1", true);
        check("0.0.0.0:1", false);
        check("[::]:1", false);
        check("10.0.0.1:1", false);
    }
}
