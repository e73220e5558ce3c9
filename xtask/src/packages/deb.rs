//! A Debian package, by dpkg-deb. cargo-deb would do the same, and takes minutes to build first; the program is static, so that there
//! are no libraries to be found, which is what it is good at.
//!
//! The package has no scripts: nothing is started or enabled by being installed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, shell};

const SHELLS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/sockwatch"),
    ("fish", "usr/share/fish/vendor_completions.d/sockwatch.fish"),
    ("zsh", "usr/share/zsh/vendor-completions/_sockwatch"),
];

const UNITS: &[&str] = &["sockwatch-record.service", "sockwatch-serve.service"];

/// What docs/monitoring.md tells to load, where its links lead to.
const VIEWS: &[&str] = &["packaging/prometheus/sockwatch.rules.yml", "packaging/grafana/sockwatch.json"];

/// Where documents are.
const DOCUMENTS: &str = "usr/share/doc/sockwatch";

/// What is packed before it is packed: the paths of files, and whether they may be run.
struct Tree(PathBuf);

impl Tree {
    fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.0.join(path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Compressed, without a name or time in it.
    fn compress(&self, path: &str) -> Result<()> {
        shell::run(Command::new("gzip").args(["-9", "-n"]).arg(self.0.join(path)), "gzip must be installed")
    }

    fn copy(&self, from: &Path, path: &str) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, &content, 0o644)
    }

    /// In KiB, as dpkg counts.
    fn size(&self) -> Result<u64> {
        let said = shell::read(Command::new("du").args(["--summarize", "--apparent-size", "-k"]).arg(&self.0), "du")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        said.split_whitespace().next().and_then(|size| size.parse().ok()).context("du told no size")
    }
}

/// Packs a program. `speaker` prints the texts.
pub(super) fn make(
    workspace: &Path,
    program: &Path,
    speaker: &Path,
    architecture: &str,
    into: &Path,
) -> Result<PathBuf> {
    let debian = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Debian's name for {other} is not known here"),
    };
    let tree = Tree(into.join(format!("deb-{debian}")));
    if tree.0.exists() {
        std::fs::remove_dir_all(&tree.0).context("cannot remove the last package's files")?;
    }
    let content = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    tree.write("usr/bin/sockwatch", &content, 0o755)?;
    man_pages(&tree, speaker)?;
    for (shell, path) in SHELLS {
        let script = shell::read(Command::new(speaker).args(["completions", shell]), "it must know this shell")?;
        tree.write(path, &script, 0o644)?;
    }
    for unit in UNITS {
        let from = workspace.join("packaging/systemd").join(unit);
        tree.copy(&from, &format!("usr/lib/systemd/system/{unit}"))?;
    }
    documents(&tree, workspace)?;
    let control = control(debian, tree.size()?);
    tree.write("DEBIAN/control", control.as_bytes(), 0o644)?;
    let package = into.join(format!("sockwatch_{}_{debian}.deb", env!("CARGO_PKG_VERSION")));
    let mut build = Command::new("dpkg-deb");
    build.args(["--build", "--root-owner-group", "-Zxz"]).arg(&tree.0).arg(&package);
    // The same source makes the same package.
    build.env("SOURCE_DATE_EPOCH", commit_time(workspace));
    shell::read(&mut build, "dpkg-deb must be installed")?;
    std::fs::remove_dir_all(&tree.0).context("cannot remove what was packed")?;
    Ok(package)
}

fn man_pages(tree: &Tree, speaker: &Path) -> Result<()> {
    let directory = tree.0.join("usr/share/man/man1");
    std::fs::create_dir_all(&directory).context("cannot make a directory for man pages")?;
    shell::run(Command::new(speaker).arg("man-pages").arg(&directory), "it must print its man pages")?;
    for page in std::fs::read_dir(&directory).context("cannot list the man pages")? {
        let page = page.context("cannot list the man pages")?.file_name();
        tree.compress(&format!("usr/share/man/man1/{}", page.to_string_lossy()))?;
    }
    Ok(())
}

fn documents(tree: &Tree, workspace: &Path) -> Result<()> {
    for document in std::fs::read_dir(workspace.join("docs")).context("cannot list docs")? {
        let document = document.context("cannot list docs")?;
        let name = document.file_name().to_string_lossy().into_owned();
        if name == "CHANGELOG.md" {
            tree.copy(&document.path(), &format!("{DOCUMENTS}/changelog"))?;
            tree.compress(&format!("{DOCUMENTS}/changelog"))?;
        } else if document.path().is_file() {
            tree.copy(&document.path(), &format!("{DOCUMENTS}/docs/{name}"))?;
        }
    }
    tree.copy(&workspace.join("README.md"), &format!("{DOCUMENTS}/README.md"))?;
    for view in VIEWS {
        tree.copy(&workspace.join(view), &format!("{DOCUMENTS}/{view}"))?;
    }
    let license =
        |name: &str| std::fs::read_to_string(workspace.join(name)).with_context(|| format!("cannot read {name}"));
    tree.write(&format!("{DOCUMENTS}/copyright"), copyright(&license("LICENSE-MIT")?).as_bytes(), 0o644)
}

/// In Debian's format; it has the Apache licence on every machine.
fn copyright(mit: &str) -> String {
    let indented = |text: &str| -> String {
        let lines =
            text.trim_end().lines().map(|line| if line.is_empty() { " .\n".into() } else { format!(" {line}\n") });
        lines.collect()
    };
    let holder = mit.lines().find_map(|line| line.strip_prefix("Copyright ")).unwrap_or("the sockwatch developers");
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: sockwatch\n\n\
         Files: *\nCopyright: {holder}\nLicense: Expat or Apache-2.0\n\n\
         License: Expat\n{}\n\
         License: Apache-2.0\n See /usr/share/common-licenses/Apache-2.0.\n",
        indented(mit)
    )
}

fn control(architecture: &str, size: u64) -> String {
    format!(
        "Package: sockwatch\n\
         Version: {}\n\
         Section: net\n\
         Priority: optional\n\
         Architecture: {architecture}\n\
         Installed-Size: {size}\n\
         Maintainer: The sockwatch developers <sockwatch@localhost>\n\
         Description: see what happens to TCP sockets inside the Linux kernel, over time\n \
         An eBPF agent that shows every TCP state transition, who opened, accepted and\n \
         closed each connection, how long it waited in the accept queue, and how it\n \
         ended; and that says what it could not see.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// When the source was committed; the beginning of time where that is not known.
fn commit_time(workspace: &Path) -> String {
    let time = shell::probe(Command::new("git").current_dir(workspace).args(["log", "-1", "--format=%ct"]));
    time.map_or_else(|| "0".to_owned(), |time| time.trim().to_owned())
}

/// Installs a package below a directory of its own, runs what it brought, removes it, and looks that nothing is left.
pub(super) fn check(package: &Path, root: &Path) -> Result<()> {
    if !setup::is_debian() {
        println!("not installed for a try: this is no Debian");
        return Ok(());
    }
    let admin = root.join("var/lib/dpkg");
    std::fs::create_dir_all(admin.join("updates")).context("cannot make a place to install to")?;
    std::fs::create_dir_all(admin.join("info")).context("cannot make a place to install to")?;
    std::fs::write(admin.join("status"), "").context("cannot make a place to install to")?;
    let dpkg = |words: &[&str], package: &Path| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(root).args(["--force-not-root", "--force-script-chrootless", "--force-bad-path"]);
        shell::read(dpkg.args(words).arg(package), "the package must install and go")
    };
    dpkg(&["--install"], package)?;
    let said = shell::read(Command::new(root.join("usr/bin/sockwatch")).arg("--version"), "it must run")?;
    ensure!(said.starts_with(b"sockwatch "), "what was installed does not say what it is");
    for file in [
        "usr/share/man/man1/sockwatch.1.gz",
        "usr/share/man/man1/sockwatch-record.1.gz",
        "usr/share/doc/sockwatch/copyright",
    ]
    .into_iter()
    .chain(SHELLS.iter().map(|(_, path)| *path))
    {
        ensure!(root.join(file).is_file(), "the package has no {file}");
    }
    for view in VIEWS {
        ensure!(root.join(DOCUMENTS).join(view).is_file(), "the package has no {view}");
    }
    dpkg(&["--purge"], Path::new("sockwatch"))?;
    ensure!(!root.join("usr").exists(), "the package leaves files behind in {}", root.display());
    println!("{}: installed, run and removed", package.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_of_a_licence_are_dots() {
        let text = copyright("MIT License\n\nCopyright (c) 2026 somebody\n");
        assert!(text.contains("License: Expat\n MIT License\n .\n Copyright (c) 2026 somebody\n"), "{text}");
        assert!(text.contains("Copyright: (c) 2026 somebody\n"), "{text}");
    }

    #[test]
    fn a_control_file_begins_continued_lines_with_a_space() {
        let text = control("amd64", 7);
        let tail = text.lines().skip_while(|line| !line.starts_with("Description:")).skip(1);
        assert!(tail.clone().count() == 3 && tail.clone().all(|line| line.starts_with(' ')), "{text}");
    }
}
