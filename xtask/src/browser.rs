//! The pages are opened by a browser: they draw everything, find nothing wrong with themselves, and their filters work.

mod devtools;
mod live;
mod report;

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, shell};

/// A recording that is kept in the repository.
const FILE: &str = "sockwatch/tests/recordings/format-1.0.swr";

const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

pub(crate) fn check(workspace: &Path) -> Result<()> {
    let browser = browser()?;
    let directory = shell::target_directory(workspace).join("report");
    std::fs::create_dir_all(&directory).context("cannot make a directory for the page")?;
    let page = directory.join("web.html");
    let mut report = shell::sockwatch(workspace)?;
    report.args(["report", FILE, "--force", "--compare", FILE]);
    shell::run(report.arg("--output").arg(&page), "sockwatch must make a page of it")?;

    let url = |fragment: &str| format!("file://{}{fragment}", page.display());
    let open = |fragment: &str| open(browser, &url(fragment));
    let all = open("")?;
    let rows = rows(&all);
    ensure!(rows > 1, "the page tells {rows} connections");
    ensure!(all.matches("<canvas").count() == 3, "the page has {} charts, not 3", all.matches("<canvas").count());
    ensure!(all.contains("<h2 id=\"verdict\" class=\""), "the page has no verdict");
    ensure!(all.contains("most in ESTABLISHED"), "the page compares nothing");

    let some = open("#which=slowest&filter=54090")?;
    ensure!(self::rows(&some) == 1, "the filter leaves {} of {rows} connections, not 1", self::rows(&some));
    let none = open("#which=slowest&filter=54090+nobody")?;
    ensure!(self::rows(&none) == 0, "the filter leaves {} connections that do not fit", self::rows(&none));
    incomplete(browser, &directory, &page)?;
    report::check(browser, &directory, &url("#which=slowest"), self::rows(&open("#which=slowest")?))?;
    if !shell::is_root() {
        println!("the live page was not opened: it takes root");
        return Ok(());
    }
    live::check(workspace, browser, &directory)
}

/// What was not seen, and what has no room, comes first: of the same page with other figures.
fn incomplete(browser: &str, directory: &Path, page: &Path) -> Result<()> {
    let mut text = std::fs::read_to_string(page).context("cannot read the page")?;
    for (figure, other) in [("\"lost\":0", "\"lost\":5"), ("\"untold_waits\":0", "\"untold_waits\":7")] {
        ensure!(text.contains(figure), "the page has no {figure}");
        text = text.replacen(figure, other, 1);
    }
    let page = directory.join("incomplete.html");
    std::fs::write(&page, text).context("cannot write a page")?;
    let said = open(browser, &format!("file://{}", page.display()))?;
    for words in ["NOT COMPLETE: 5 events lost", "7 waits are in no heat map"] {
        ensure!(said.contains(words), "the page does not say: {words}");
    }
    Ok(())
}

/// The page as the browser has it once its script has run. Whatever the script complains of is an error.
fn open(browser: &str, url: &str) -> Result<String> {
    let mut command = Command::new(browser);
    // A machine for tests has neither a user for it nor a GPU.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]);
    command.arg("--virtual-time-budget=5000");
    let output = command.arg("--dump-dom").arg(url).output();
    let output = output.with_context(|| format!("cannot start {browser}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if let Some(complaint) = said.lines().find(|line| line.contains("CONSOLE")) {
        bail!("the page complains: {complaint}");
    }
    ensure!(output.status.success(), "{browser}: {}: {said}", output.status);
    String::from_utf8(output.stdout).context("the page is not UTF-8")
}

/// Connections that the page shows: each has a bar.
fn rows(page: &str) -> usize {
    page.matches("class=\"bar\"").count()
}

fn browser() -> Result<&'static str> {
    let installed =
        || BROWSERS.iter().find(|name| shell::probe(Command::new(name).arg("--version")).is_some()).copied();
    if let Some(browser) = installed() {
        return Ok(browser);
    }
    setup::install(&["chromium"])?;
    installed().context("chromium was installed, and does not start")
}
