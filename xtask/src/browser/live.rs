//! The live page: it shows a queue that fills while it is open, its filter works, a connection opens.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
};

use anyhow::{Context, Result};

use super::devtools::Browser;
use crate::service::{end, serve};

pub(super) fn check(workspace: &Path, browser: &str, directory: &Path) -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let address = server.local_addr().context("cannot see where it listens")?;
    let (mut service, page) = serve(workspace, address.port())?;
    let connect = || TcpStream::connect(address).context("cannot connect on loopback");
    let queue = |depth: u32| {
        format!(
            "[...document.querySelectorAll('#listeners tr')].some(row => row.textContent.includes('{address}') && \
             row.textContent.includes('{depth} / 128'))"
        )
    };
    let _before = [connect()?, connect()?];
    let mut browser = Browser::start(browser, directory)?;
    browser.open(&format!("http://{page}/"))?;
    browser.until("that it is live", "document.getElementById('state')?.textContent === 'live'")?;
    browser.until("two that wait", &queue(2))?;
    // As it happens.
    let _third = connect()?;
    browser.until("three that wait", &queue(3))?;
    browser.until("two charts", "document.querySelectorAll('canvas').length === 2")?;
    browser.until(
        "the listener, closely",
        &format!("document.getElementById('listener-title').textContent.startsWith('{address}')"),
    )?;

    let shown = |words: &str| format!("document.getElementById('shown').textContent === '{words}'");
    browser.until("six ends", &shown("6 of 6"))?;
    browser.ask(&filter("CLOSE_WAIT"))?;
    browser.until("that none fits", &shown("0 of 6"))?;
    browser.ask(&filter(""))?;
    browser.until("all again", &shown("6 of 6"))?;
    browser.ask("document.querySelector('#connections button').click()")?;
    browser.until("a timeline", "document.getElementById('timeline').textContent.includes('ESTABLISHED')")?;
    drop(server);
    browser.until("that it is gone", "document.querySelectorAll('#listeners button').length === 0")?;
    browser.end()?;
    end(&mut service)
}

/// Types it.
fn filter(words: &str) -> String {
    format!(
        "{{ const filter = document.getElementById('filter'); filter.value = '{words}'; \
         filter.dispatchEvent(new Event('input')); }}"
    )
}
