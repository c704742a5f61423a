//! A socket that can go from one runtime to another while something is built upon it.

use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection's socket under its TLS.
///
/// A socket belongs to the runtime that waits for it. TLS is begun before it is known which runtime is to serve the connection, and cannot be
/// taken off the socket again.
#[derive(Debug)]
pub(crate) enum Movable {
    /// In the runtime it is used in. => Away
    Here(TcpStream),
    /// In none; nothing can be done with it but to arrive. => Here
    Away(StdStream),
    /// What a failed move leaves. Final.
    Lost,
}

impl Movable {
    /// Leaves its runtime.
    ///
    /// # Errors
    /// When the system does not let it, after which it is lost.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        if let Movable::Here(socket) = std::mem::replace(self, Movable::Lost) {
            *self = Movable::Away(socket.into_std()?);
        }
        Ok(())
    }

    /// Arrives in the runtime of the caller, if it has left the other one.
    ///
    /// # Errors
    /// When the system does not let it, after which it is lost.
    pub(crate) fn arrive(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Movable::Lost) {
            Movable::Away(socket) => *self = Movable::Here(TcpStream::from_std(socket)?),
            other => *self = other,
        }
        Ok(())
    }

    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Movable::Here(socket) => Ok(Pin::new(socket)),
            Movable::Away(_) | Movable::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Movable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(context, buf)
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(context)
    }
}
