//! A listener is closed while connections wait in its queue.

use std::{io::Read, net::TcpStream};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close, listen},
    stage::Stage,
    watch::queued,
};

pub(super) const LAB: Lab = Lab {
    name: "listener-closes",
    summary: "a listener is closed while clients wait in its queue: each gets a RST",
    story: "Three clients are connected, as far as they know; the server has accepted none of them. Then it
stops, as in a restart without draining: the kernel resets every connection in the queue.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    let clients = acting("client", || (0..3).map(|_| TcpStream::connect(SERVER)).collect::<Result<Vec<_>, _>>())?;
    stage.until_count(3, "queued connections", queued())?;
    stage.say(format_args!("The server closes its listener."));
    close("server", listener)?;
    let mut resets = 0;
    for mut client in clients {
        resets += acting("client", || Ok(usize::from(client.read(&mut [0]).is_err())))?;
        close("client", client)?;
    }
    Ok(format!("{resets} of 3 clients were reset. They had been ESTABLISHED, and the server never saw them."))
}
