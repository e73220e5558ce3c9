//! The report, by hand: its filter works as one types, on a wide screen and on a narrow one.

use std::path::Path;

use anyhow::Result;

use super::devtools::{Browser, SCREENS};

/// `rows` is how many connections it shows without a filter.
pub(super) fn check(program: &str, directory: &Path, url: &str, rows: usize) -> Result<()> {
    let mut browser = Browser::start(program, directory)?;
    for screen in SCREENS {
        browser.resize(*screen)?;
        browser.open(url)?;
        let shown = |rows: usize| format!("document.querySelectorAll('.bar').length === {rows}");
        browser.until("its connections", &shown(rows))?;
        browser.until("its charts", "document.querySelectorAll('canvas').length === 3")?;
        browser.fits()?;
        browser.picture(&directory.join(format!("report-{}.png", screen.0)))?;
        browser.type_in("filter", "54090")?;
        browser.until("the one that fits", &shown(1))?;
        browser.fits()?;
        browser.type_in("filter", "nobody")?;
        browser.until("that none fits", &shown(0))?;
        browser.type_in("filter", "")?;
        browser.until("all again", &shown(rows))?;
    }
    browser.end()
}
