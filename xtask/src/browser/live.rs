//! The live page: it shows a queue that fills while it is open, its filter works, a connection opens.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use super::devtools::{Browser, SCREENS};
use crate::service::{end, get, serve};

pub(super) fn check(workspace: &Path, browser: &str, directory: &Path) -> Result<()> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let address = server.local_addr().context("cannot see where it listens")?;
    let (mut service, page) = serve(workspace, address.port())?;
    let connect = || TcpStream::connect(address).context("cannot connect on loopback");
    let queue = |depth: usize| {
        format!(
            "[...document.querySelectorAll('#listeners tr')].some(row => row.textContent.includes('{address}') && \
             row.textContent.includes('{depth} / 128'))"
        )
    };
    let _before = [connect()?, connect()?];
    let mut browser = Browser::start(browser, directory)?;
    let mut clients = Vec::new();
    for screen in SCREENS {
        browser.resize(*screen)?;
        browser.open(&format!("http://{page}/"))?;
        browser.until("that it is live", "document.getElementById('state')?.textContent === 'live'")?;
        let waiting = 2 + clients.len();
        browser.until("those that wait", &queue(waiting))?;
        // As it happens.
        clients.push(connect()?);
        browser.until("one more that waits", &queue(waiting + 1))?;
        browser.until("two charts", "document.querySelectorAll('canvas').length === 2")?;
        browser.until(
            "the listener, closely",
            &format!("document.getElementById('listener-title').textContent.startsWith('{address}')"),
        )?;
        let ends = 2 * (waiting + 1);
        browser.until("all ends", &shown(ends, ends))?;
        browser.type_in("filter", "CLOSE_WAIT")?;
        browser.until("that none fits", &shown(0, ends))?;
        browser.clear("filter")?;
        browser.until("all again", &shown(ends, ends))?;
        browser.ask("document.querySelector('#connections button').click()")?;
        browser.until("a timeline", "document.getElementById('timeline').textContent.includes('ESTABLISHED')")?;
        browser.fits()?;
        browser.picture(&directory.join(format!("live-{}.png", screen.0)))?;
        type_steadily(&mut browser, page)?;
    }
    drop(server);
    browser.until("that it is gone", "document.querySelectorAll('#listeners button').length === 0")?;
    browser.end()?;
    end(&mut service)
}

/// Connections that fit, of all.
fn shown(fitting: usize, all: usize) -> String {
    format!("document.getElementById('shown').textContent === '{fitting} of {all}'")
}

/// Who types so that each letter is asked for as soon as the page does ask is never turned away.
fn type_steadily(browser: &mut Browser, page: SocketAddr) -> Result<()> {
    browser.clear("filter")?;
    for letter in "loopback 127.0.0.1 ESTABLISHED".chars() {
        let looked = browser.ask("looked")?;
        browser.insert(letter)?;
        browser.until("what was typed", &format!("looked > {looked}"))?;
    }
    let metrics = get(page, "/metrics")?;
    let refused = "sockwatch_http_refused_total{reason=\"rate\"} 0";
    ensure!(metrics.lines().any(|line| line == refused), "who types was turned away:\n{metrics}");
    Ok(())
}
