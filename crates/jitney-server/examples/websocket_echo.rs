//! An echo over WebSockets on the frames of `jitney_server::protocol::frames`, for suites of conformance tests that expect one.
//!
//! ```text
//! cargo run --example websocket_echo -- 127.0.0.1:9001
//! ```
//! It prints the address when it listens. Each connection has a thread.
#![expect(clippy::print_stdout, reason = "it is a command line")]
#![expect(
    clippy::disallowed_methods,
    reason = "plain threads are all that an example of frames needs"
)]

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use bytes::BytesMut;
use jitney_server::protocol::frames::{self, Decoder, Event};

/// Suites send messages of up to 16 MiB.
const MESSAGE_MAX: usize = 32 << 20;

fn main() -> Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?);
    for connection in listener.incoming() {
        let connection = connection?;
        // A client that leaves early is no matter.
        thread::spawn(move || serve(&connection).ok());
    }
    Ok(())
}

fn serve(connection: &TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    let mut writer = connection;
    shake_hands(&mut reader, &mut writer)?;
    echo(&mut reader, &mut writer)
}

fn shake_hands(reader: &mut impl BufRead, writer: &mut impl Write) -> Result<()> {
    let mut key = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("sec-websocket-key") => {
                key = frames::accept(value.as_bytes());
            }
            _ if line.trim_end().is_empty() => break,
            _ => (),
        }
    }
    let accept = key.ok_or(Error::from(ErrorKind::InvalidData))?;
    write!(
        writer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

fn echo(reader: &mut impl Read, writer: &mut impl Write) -> Result<()> {
    let (mut decoder, mut input) = (Decoder::new(MESSAGE_MAX), BytesMut::new());
    let mut piece = vec![0; 64 << 10];
    loop {
        let mut out = Vec::new();
        let ends = loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => {
                    if answer(&mut out, event) {
                        break true;
                    }
                }
                Ok(None) => break false,
                Err(fault) => {
                    frames::closing(&mut out, fault.close_code(), fault.reason());
                    break true;
                }
            }
        };
        writer.write_all(&out)?;
        if ends {
            return Ok(());
        }
        match reader.read(&mut piece)? {
            0 => return Ok(()),
            count => input.extend_from_slice(&piece[..count]),
        }
    }
}

/// Writes the answer to an event; whether it is the last.
fn answer(out: &mut Vec<u8>, event: Event) -> bool {
    match event {
        Event::Text(message) => frames::text(out, &message),
        Event::Binary(message) => frames::binary(out, std::iter::once(&*message)),
        Event::Ping(payload) => frames::pong(out, &payload),
        Event::Pong => (),
        Event::Close(code) => {
            frames::closing(out, code.unwrap_or(frames::close::NORMAL), "");
            return true;
        }
    }
    false
}
