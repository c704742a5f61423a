//! One client that sends a request, waits for the answer with patience, and tells what became of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What became of a request. Status 0: no answer came, or the connection broke.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) body: String,
}

pub(crate) struct Client {
    address: SocketAddr,
    patience: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, patience: Duration) -> Client {
        Client {
            address,
            patience,
            connection: None,
        }
    }

    /// A connection that the server has closed since the last answer is opened anew, as any client's pool does.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Answer {
        let sent = Instant::now();
        let answer = self.exchange(request);
        if answer.is_err() {
            self.connection = None;
        }
        let (status, body) = answer.unwrap_or_default();
        Answer {
            status,
            took: sent.elapsed(),
            body,
        }
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, String)> {
        let mut connection = match self.connection.take() {
            Some(connection) if !closed(&connection) => connection,
            _ => self.open()?,
        };
        connection.get_mut().write_all(request)?;
        let (status, length, keep) = head(&mut connection)?;
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        self.connection = keep.then_some(connection);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn open(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        Ok(BufReader::new(stream))
    }
}

fn closed(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let peeked = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut [0]));
    let waiting = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_err() || !waiting
}

/// Status, length of the body, and whether the connection stays.
fn head(connection: &mut BufReader<TcpStream>) -> io::Result<(u16, usize, bool)> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.get(9..12).and_then(|text| text.parse().ok());
    let status = status.ok_or_else(bad)?;
    let (mut length, mut keep) = (0, true);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok((status, length, keep));
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| bad())?,
            "connection" => keep = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}
