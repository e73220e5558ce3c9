//! The configuration file. Its names are the options' own, taken from the command line's definition, and its values are
//! read by the options' own parsers: there is no second list that could differ.
//!
//! What the file says becomes words of the command line, unless the command line or the environment says otherwise.

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser, parser::ValueSource};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::cli::{self, Cli, ServeArgs};

/// A file of settings is no longer than this.
const MOST_BYTES: u64 = 1 << 20;

/// What the words of the command line (with the program and `serve`) come to, with the environment and the file.
pub(super) fn settle(words: &[OsString]) -> anyhow::Result<ServeArgs> {
    let matches = Cli::command().try_get_matches_from(words)?;
    let given = matches.subcommand_matches(SERVE).context("these are not the words of `sockwatch serve`")?;
    let Some(path) = given.get_one::<PathBuf>("config") else { return parse(words.to_vec()) };
    let (text, mode) = read(path)?;
    let from_file = words_of(&text, path, given)?;
    ensure!(
        mode & 0o027 == 0 || !from_file.iter().any(|word| word.as_encoded_bytes().starts_with(b"--otlp-header=")),
        "--config {0}: it has a secret, otlp-header, and its mode is {mode:o}, so that others can read or change it: \
         `chmod 640 {0}`",
        path.display()
    );
    let (program, own) = words.split_at(words.len().min(2));
    parse(program.iter().chain(&from_file).chain(own).cloned().collect())
}

/// The subcommand.
const SERVE: &str = "serve";

fn parse(words: Vec<OsString>) -> anyhow::Result<ServeArgs> {
    match Cli::try_parse_from(words)?.command {
        cli::Command::Serve(args) => Ok(*args),
        _other => bail!("these are not the words of `sockwatch serve`"),
    }
}

/// What it holds, and its mode.
fn read(path: &Path) -> anyhow::Result<(String, u32)> {
    let name = || format!("--config {}", path.display());
    let metadata = fs::metadata(path).with_context(|| format!("{}: cannot look at it", name()))?;
    if metadata.len() > MOST_BYTES {
        bail!("{}: {} bytes are no configuration", name(), metadata.len());
    }
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read it", name()))?;
    Ok((text, metadata.mode() & 0o777))
}

/// Where something is wrong.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn error(&self, at: usize, what: impl fmt::Display) -> anyhow::Error {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        anyhow::anyhow!("{}:{line}: {what}", self.path.display())
    }
}

/// The file's settings as words, but for those that are given.
fn words_of(text: &str, path: &Path, given: &ArgMatches) -> anyhow::Result<Vec<OsString>> {
    let place = Place { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        place.error(at, format_args!("{} (a setting is `name = value`: port = [8080])", error.message().trim()))
    })?;
    let mut serve = serve_command()?;
    let mut words = Vec::new();
    for (name, value) in table.get_ref() {
        let its = word_of(&place, &mut serve, name, value)?;
        let id = serve.get_arguments().find(|argument| argument.get_long() == Some(name.get_ref())).map(Arg::get_id);
        let source = id.and_then(|id| given.value_source(id.as_str()));
        if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            words.extend(its);
        }
    }
    Ok(words)
}

/// `serve` by itself, without what the environment says.
fn serve_command() -> anyhow::Result<Command> {
    let command = Cli::command();
    let serve = command.find_subcommand(SERVE).context("there is no `serve`")?.clone();
    Ok(serve.mut_args(|argument| argument.env(None::<&str>)))
}

/// The words of one setting, each value checked by the option's own parser.
fn word_of(
    place: &Place<'_>,
    serve: &mut Command,
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> anyhow::Result<Vec<OsString>> {
    let option = serve.get_arguments().find(|argument| argument.get_long() == Some(name.get_ref()));
    let Some(option) = option.filter(|option| !["help", "config"].contains(&option.get_id().as_str())) else {
        return Err(place.error(name.span().start, unknown(serve, name.get_ref())));
    };
    let (name, action) = (name.get_ref().clone().into_owned(), option.get_action().clone());
    let values = match (value.get_ref(), &action) {
        (DeValue::Boolean(yes), ArgAction::SetTrue) => {
            return Ok(yes.then(|| format!("--{name}").into()).into_iter().collect());
        }
        (_, ArgAction::SetTrue) => {
            return Err(place.error(value.span().start, format_args!("{name} is true or false")));
        }
        (DeValue::Array(values), ArgAction::Append) => values.iter().collect(),
        (DeValue::Array(_), _) => {
            return Err(place.error(value.span().start, format_args!("{name} takes one value, not a list")));
        }
        _one => vec![value],
    };
    let mut words = Vec::new();
    for value in values {
        let at = value.span().start;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            other => {
                let kind = other.type_str();
                return Err(
                    place.error(at, format_args!("{name}: a {kind} cannot be its value: write \"text\" or a number"))
                );
            }
        };
        let word = format!("--{name}={text}");
        if let Err(error) = serve.clone().try_get_matches_from([SERVE, &word]) {
            return Err(place.error(at, format_args!("{name} = {text:?}: {}", reason(&error))));
        }
        words.push(word.into());
    }
    Ok(words)
}

/// What clap says in its first line, without what the place says better.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = paragraph.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    match line.split_once("': ") {
        Some((before, why)) if before.starts_with("invalid value") => why.to_owned(),
        _ => line.to_owned(),
    }
}

/// Nothing is called so: what may have been meant.
fn unknown(serve: &Command, name: &str) -> String {
    let names: Vec<_> =
        serve.get_arguments().filter_map(Arg::get_long).filter(|name| !["help", "config"].contains(name)).collect();
    let alike = |known: &&&str| strsim::jaro_winkler(name, known) > 0.8;
    let score = |known: &&str| (strsim::jaro_winkler(name, known) * 1e6) as u64;
    match names.iter().filter(alike).max_by_key(|known| score(known)) {
        Some(meant) => format!("there is no setting `{name}`; `{meant}` is meant perhaps"),
        None => format!("there is no setting `{name}`: there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file and words come to: the words of filters, max-listeners, latency and no-handshake.
    #[track_caller]
    fn check(file: &str, words: &str, expected: Result<&str, &str>) {
        // Tests run side by side.
        let unique = std::thread::current().name().unwrap_or("test").replace(':', "-");
        let path = std::env::temp_dir().join(format!("sockwatch-{}-{unique}.toml", std::process::id()));
        fs::write(&path, file).unwrap();
        let all =
            ["sockwatch", "serve", "--config", path.to_str().unwrap()].into_iter().chain(words.split_whitespace());
        let settled = settle(&all.map(OsString::from).collect::<Vec<_>>());
        fs::remove_file(&path).unwrap();
        let told = settled.map(|args| {
            let ServeArgs { filter, collect, serving, .. } = args;
            let handshake = if collect.no_handshake { " no-handshake" } else { "" };
            format!("{}; {}; {:?}{handshake}", filter.words(), serving.max_listeners, collect.latency)
        });
        let told = told.map_err(|error| format!("{error:#}").replace(&*path.to_string_lossy(), "FILE"));
        assert_eq!(told.as_deref().map_err(String::as_str), expected, "{file}");
    }

    #[test]
    fn names_are_those_of_the_options() {
        check("", "", Ok("; 200; 20ms"));
        check("port = [8080, \"90-99\"]\nmax-listeners = 7", "", Ok("--port 8080,90-99; 7; 20ms"));
        check(
            "latency = \"50ms\"\nno-handshake = true\naddr = \"10.0.0.0/8\"",
            "",
            Ok("--addr 10.0.0.0/8; 200; 50ms no-handshake"),
        );
        check("no-handshake = false", "", Ok("; 200; 20ms"));
    }

    #[test]
    fn the_command_line_beats_the_file() {
        check("port = 8080\nmax-listeners = 7", "--port 9090", Ok("--port 9090; 7; 20ms"));
        check("no-handshake = false", "--no-handshake", Ok("; 200; 20ms no-handshake"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        check("\nprt = 80", "", Err("FILE:2: there is no setting `prt`; `port` is meant perhaps"));
        check(
            "port = [80,\n  99999]",
            "",
            Err("FILE:2: port = \"99999\": not a port (1 to 65535) or a range like 8000-8100"),
        );
        check("latency = \"5\"", "", Err("FILE:1: latency = \"5\": not a time with a unit: 500ms, 30s, 5m, 1h"));
        check("listen = [\"a\"]", "", Err("FILE:1: listen takes one value, not a list"));
        check("no-handshake = 1", "", Err("FILE:1: no-handshake is true or false"));
        check("port = 1.5", "", Err("FILE:1: port: a float cannot be its value: write \"text\" or a number"));
        check("config = \"x\"", "", Err(&*missing("config")));
    }

    #[test]
    fn a_file_with_a_secret_is_nobody_else_s() {
        let header = "otlp-header = [\"authorization=Bearer 1\"]";
        let mode = "--config FILE: it has a secret, otlp-header, and its mode is 644, so that others can read or change \
                    it: `chmod 640 FILE`";
        check(header, "", Err(mode));
        check(header, "--otlp-header a=b", Ok("; 200; 20ms"));
    }

    fn missing(name: &str) -> String {
        format!("FILE:1: {}", unknown(&serve_command().unwrap(), name))
    }

    #[test]
    fn a_file_that_is_no_toml_says_where() {
        let path = Path::new("FILE");
        let given = Cli::command().try_get_matches_from(["sockwatch", SERVE]).unwrap();
        let given = given.subcommand_matches(SERVE).unwrap();
        let error = words_of("port = 8080\nlatency: 5ms\n", path, given).unwrap_err().to_string();
        assert!(error.starts_with("FILE:2: ") && error.contains("port = [8080]"), "{error}");
        let error = words_of("port = 1\nport = 2\n", path, given).unwrap_err().to_string();
        assert!(error.starts_with("FILE:2: ") && error.contains("duplicate"), "{error}");
    }
}
