//! `cargo xtask tidy`: which modules may name what. Plain text, so that it needs no compiler and stays obvious.

mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;
use source::Source;

/// Longer files get a warning: they are asking to be cut by a noun of the domain.
const LONG_FILE_LINES: usize = 500;

/// Which lines of a file a rule looks at.
#[derive(Clone, Copy)]
enum Lines {
    All,
    Tests,
    OutsideTests,
}

struct Rule {
    /// Whether the rule holds for this file, named from the workspace's root.
    applies: fn(&str) -> bool,
    lines: Lines,
    forbidden: &'static [&'static str],
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        applies: |file| file.starts_with("sockwatch/") && !is_kernel_module(file),
        lines: Lines::All,
        forbidden: &["aya"],
        because: "only sockwatch/src/kernel/ names aya: add what you need there",
    },
    Rule {
        applies: is_pure,
        lines: Lines::OutsideTests,
        forbidden: &[
            "std::fs",
            "fs::",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "Instant",
            "SystemTime",
            "std::thread",
            "thread::",
            "tokio",
        ],
        because: "tcp/, diagnosis/, metrics/ and otlp/ are functions of their input: take the value as an argument",
    },
    Rule {
        applies: |file| !may_be_unsafe(file),
        lines: Lines::All,
        forbidden: &["unsafe"],
        because: "`unsafe` lives in sockwatch-ebpf, sockwatch-common and sockwatch/src/kernel/ only",
    },
    Rule {
        applies: |file| !is_late_on_purpose(file),
        lines: Lines::Tests,
        forbidden: &["thread::sleep", "time::sleep"],
        because: "tests wait for an event, never for a time",
    },
    Rule {
        applies: |_| true,
        lines: Lines::OutsideTests,
        forbidden: &[".unwrap()"],
        because: "outside tests return an error, or `expect` with the invariant",
    },
];

fn is_kernel_module(file: &str) -> bool {
    file.starts_with("sockwatch/src/kernel/") || file == "sockwatch/src/kernel.rs"
}

fn is_pure(file: &str) -> bool {
    [
        "sockwatch/src/tcp",
        "sockwatch/src/diagnosis",
        "sockwatch/src/metrics",
        "sockwatch/src/otlp",
        "sockwatch/src/overview",
    ]
    .iter()
    .any(|module| file.strip_prefix(module).is_some_and(|rest| rest.starts_with('/') || rest == ".rs"))
}

/// A server that accepts late is what these tests measure, or a load has its pace.
fn is_late_on_purpose(file: &str) -> bool {
    [
        "queue.rs",
        "serve.rs",
        "recording.rs",
        "diagnose.rs",
        "diagnose/counted.rs",
        "diagnose/blame.rs",
        "score/accepting.rs",
        "score/server.rs",
    ]
    .iter()
    .any(|name| file == format!("sockwatch/tests/live/{name}"))
}

/// io_uring's submission queue is shared with the kernel, in the tests that accept through it, too.
fn may_be_unsafe(file: &str) -> bool {
    file == "sockwatch/tests/live/timelines.rs"
        || file.starts_with("sockwatch-ebpf/")
        || file.starts_with("sockwatch-common/")
        || is_kernel_module(file)
}

pub(crate) fn run() -> Result<()> {
    let workspace = shell::workspace()?;
    let files = rust_files(&workspace)?;
    let mut violations = Vec::new();
    for path in &files {
        let name = path.strip_prefix(&workspace).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} is not readable UTF-8: fix it"))?;
        let length = text.lines().count();
        if length > LONG_FILE_LINES {
            println!("warning: {name}: {length} lines; cut it by a noun of the domain");
        }
        violations.extend(check(&name, &text));
    }
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violation(s) of the import rules: each line above says what to do instead", violations.len());
    }
    println!("{} files keep the import rules", files.len());
    Ok(())
}

/// One line per violation, as `file:line: ...`.
fn check(file: &str, text: &str) -> Vec<String> {
    let source = Source::parse(file, text);
    let mut violations = Vec::new();
    for rule in RULES.iter().filter(|rule| (rule.applies)(file)) {
        for (number, line) in source.lines() {
            let looked_at = match rule.lines {
                Lines::All => true,
                Lines::Tests => line.is_test,
                Lines::OutsideTests => !line.is_test,
            };
            if !looked_at {
                continue;
            }
            for word in rule.forbidden.iter().filter(|word| names(&line.code, word)) {
                violations.push(format!("{file}:{number}: `{word}`: {}", rule.because));
            }
        }
    }
    violations
}

/// Whether `code` holds `word` as a word of its own: `aya` is neither in `aya_ebpf` nor in `playa`.
fn names(code: &str, word: &str) -> bool {
    let is_identifier = |character: char| character.is_alphanumeric() || character == '_';
    let begins_open = !word.starts_with(is_identifier);
    let ends_open = !word.ends_with(is_identifier);
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        (begins_open || !before.is_some_and(is_identifier)) && (ends_open || !after.is_some_and(is_identifier))
    })
}

/// All Rust sources of the workspace, sorted; not what was built, nor hidden directories.
fn rust_files(workspace: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![workspace.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().with_context(|| format!("cannot look at {name}"))?;
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                directories.push(entry.path());
            } else if kind.is_file() && name.ends_with(".rs") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(file: &str, text: &str) -> Vec<String> {
        check(file, text).iter().map(|line| line.rsplit_once("`: ").unwrap().0.to_owned()).collect()
    }

    #[test]
    fn only_the_kernel_module_names_aya() {
        let text = "use aya::Ebpf;\nuse aya_log::Logger;\n";
        assert_eq!(violations("sockwatch/src/pipeline.rs", text), ["sockwatch/src/pipeline.rs:1: `aya"]);
        assert!(violations("sockwatch/src/kernel/session.rs", text).is_empty());
        assert!(violations("xtask/src/bench/probes.rs", text).is_empty());
    }

    #[test]
    fn the_core_asks_nobody_for_the_time() {
        let text = "use std::{fs, net::TcpStream};\nlet now = Instant::now();\nfs::read(path);\n";
        let expected = [
            "sockwatch/src/tcp/order.rs:3: `fs::",
            "sockwatch/src/tcp/order.rs:1: `TcpStream",
            "sockwatch/src/tcp/order.rs:2: `Instant",
        ];
        let mut found = violations("sockwatch/src/tcp/order.rs", text);
        found.sort();
        let mut expected = expected.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert!(violations("sockwatch/src/source/live.rs", text).is_empty());
    }

    #[test]
    fn comments_strings_and_lint_names_are_not_code() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\n/* unsafe /* */ unsafe */ let a = \"unsafe \\\" unsafe\";\n";
        assert!(violations("sockwatch/src/lib.rs", text).is_empty());
        assert_eq!(violations("sockwatch/src/lib.rs", "unsafe {}"), ["sockwatch/src/lib.rs:1: `unsafe"]);
        assert!(violations("sockwatch-ebpf/src/main.rs", "unsafe {}").is_empty());
    }

    #[test]
    fn unwrap_is_for_tests_and_sleep_is_not() {
        let text = "fn a() { b.unwrap(); }\n#[cfg(test)]\nmod tests {\n    b.unwrap(); thread::sleep(c);\n}\n";
        assert_eq!(
            violations("xtask/src/a.rs", text),
            ["xtask/src/a.rs:4: `thread::sleep", "xtask/src/a.rs:1: `.unwrap()"]
        );
        assert!(violations("sockwatch/tests/live.rs", "b.unwrap();").is_empty());
        assert_eq!(violations("sockwatch/tests/live.rs", "std::thread::sleep(a);").len(), 1);
    }
}
