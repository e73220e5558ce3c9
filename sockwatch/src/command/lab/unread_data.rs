//! close() with unread data.

use std::io::{Read, Write};

use sockwatch::tcp::{
    connection::Role,
    update::{Happening, Update},
};

use super::{
    Lab, Run,
    netns::acting,
    sockets::close,
    stage::{Pair, Stage},
    watch::ended,
};

pub(super) const LAB: Lab = Lab {
    name: "unread-data",
    summary: "close() with unread data sends a RST instead of a FIN",
    story: "The client sends 25 bytes; the server closes without reading them. The kernel will not pretend that
they arrived: it sends a RST, and the client gets `connection reset by peer` although nobody meant
to reset anything.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, server } = stage.pair()?;
    acting("client", || client.write_all(&[b'.'; 25]))?;
    acting("server", || server.peek(&mut [0; 25]))?;
    stage.say(format_args!("25 bytes have arrived. The server closes without reading them."));
    close("server", server)?;
    let said = acting("client", || Ok(client.read(&mut [0]).err()))?;
    let end = stage.until("the server's end", ended(Role::Passive))?;
    close("client", client)?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}. Left unread: {} bytes.", unread(&end)))
}

fn unread(end: &Update) -> u32 {
    let Happening::Ended(connection) = &end.happening else { return 0 };
    connection.evidence.map_or(0, |evidence| evidence.unread_bytes)
}
