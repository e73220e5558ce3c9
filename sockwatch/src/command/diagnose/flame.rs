//! `--flame-graph FILE`: where the waiting time went, as a picture or for other tools.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use inferno::flamegraph::{Options, from_lines};
use sockwatch::diagnosis::{Report, blame::flame};

use crate::command::tell;

/// A file that will be written at the end. Whether that is possible is known before anything is measured.
#[derive(Debug)]
pub(super) struct FlameGraph {
    path: PathBuf,
    /// Open from the beginning: later nothing may be opened for writing.
    file: File,
    existed: bool,
}

impl FlameGraph {
    /// Looks whether the file can be written.
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        let existed = path.exists();
        let file = File::options().create(true).append(true).open(path).with_context(|| cannot_write(path))?;
        Ok(Self { path: path.to_owned(), file, existed })
    }

    /// Draws, if anybody waited.
    pub(super) fn draw(self, report: &Report) -> anyhow::Result<()> {
        let Self { path, file, existed } = &self;
        let blamed = report.listeners.iter().filter_map(|listener| Some((listener.local, listener.blame.as_ref()?)));
        let stacks = flame::folded(blamed);
        if stacks.is_empty() {
            if !existed {
                // In somebody else's directory an empty file stays.
                let _ = fs::remove_file(path);
            }
            tell(format_args!("sockwatch: no flame graph: while threads were watched nobody waited for accept()"));
            return Ok(());
        }
        let content = self.content(&stacks)?;
        let mut file = file;
        file.set_len(0).and_then(|()| file.write_all(&content)).with_context(|| cannot_write(path))?;
        tell(format_args!("sockwatch: flame graph in {}", path.display()));
        Ok(())
    }

    fn content(&self, stacks: &[String]) -> anyhow::Result<Vec<u8>> {
        let mut content = Vec::new();
        if self.path.extension().is_some_and(|extension| extension == "svg") {
            let mut options = Options::default();
            options.title = "Where the time went that connections waited for accept()".into();
            options.count_name = "µs".into();
            from_lines(&mut options, stacks.iter().map(String::as_str), &mut content)?;
        } else {
            for stack in stacks {
                writeln!(content, "{stack}")?;
            }
        }
        Ok(content)
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}: name a file in a directory that you may write to", path.display())
}
