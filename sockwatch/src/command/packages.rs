//! What packages hold besides the program, made from its command line: man pages and completions. And docs/privileges.md.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use sockwatch::privilege::document;

use crate::cli::Cli;

/// `sockwatch privileges`: the page that is committed as docs/privileges.md.
pub(crate) fn privileges() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{}", document::page())?;
    Ok(ExitCode::SUCCESS)
}

/// `sockwatch man-pages DIRECTORY`: sockwatch.1, and sockwatch-trace.1 and so on. Without the day, so that the same source makes the
/// same pages.
pub(crate) fn man_pages(directory: &Path) -> anyhow::Result<ExitCode> {
    let made = clap_mangen::generate_to(Cli::command(), directory);
    made.with_context(|| format!("cannot write man pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `sockwatch completions SHELL`
pub(crate) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sockwatch", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What the documents tell people to type is parsed as it stands, up to a pipe or a redirection.
    #[test]
    fn commands_of_documents_are_consistent() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let mut count = 0;
        // Not there in a package of the crate alone.
        for document in fs::read_dir(directory).into_iter().flatten() {
            let path = document.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.starts_with("    ")) {
                let line = line.trim().trim_start_matches("sudo ").trim_start_matches("sh -c '").trim_end_matches('\'');
                let is_sentence = |word: &&str| !["|", ">", "..."].contains(word);
                if line.starts_with("sockwatch ") {
                    let words = line.split_whitespace().take_while(is_sentence);
                    if let Err(error) = <Cli as clap::Parser>::try_parse_from(words) {
                        panic!("{}: {line}: {error}", path.display());
                    }
                    count += 1;
                }
            }
        }
        assert!(count == 0 || count > 15, "{count}");
    }

    #[test]
    fn each_subcommand_has_a_page() {
        let directory = std::env::temp_dir().join(format!("sockwatch-man-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        man_pages(&directory).unwrap();
        let pages: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let trace = fs::read_to_string(directory.join("sockwatch-trace.1")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        for page in ["sockwatch.1", "sockwatch-trace.1", "sockwatch-doctor.1"] {
            assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
        }
        assert!(!pages.iter().any(|name| name.to_string_lossy().contains("lab-actor")), "{pages:?}");
        assert!(trace.contains("sockwatch") && trace.contains("\\-\\-no\\-sandbox"), "{trace}");
    }
}
