//! What a connection's bytes come and go through: a socket, or TLS on a socket, and either can go from one runtime to another.
//!
//! A socket belongs to the runtime that waits for it. TLS is begun before it is known which runtime is to serve the connection, and it cannot
//! be taken off the socket again; so the socket is exchanged beneath it.

use std::io::{self, IoSlice};
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The bytes of a connection.
pub(crate) enum Transport {
    /// As they are on the network.
    Plain(Movable),
    /// Through TLS.
    Tls(Box<TlsStream<Movable>>),
}

/// A socket that can be taken out of its runtime.
pub(crate) enum Movable {
    /// In the runtime it is used in. => Away
    Here(TcpStream),
    /// In none; nothing can be done with it but to arrive. => Here
    Away(StdStream),
    /// What a failed move leaves. Final.
    Lost,
}

impl Transport {
    /// The bytes of a socket as they are.
    pub(crate) fn plain(socket: TcpStream) -> Transport {
        Transport::Plain(Movable::Here(socket))
    }

    /// Arrives in the runtime of the caller, and agrees on TLS with the one at the other end.
    ///
    /// # Errors
    /// When they cannot agree, or the other end leaves.
    pub(crate) async fn into_tls(mut self, acceptor: &TlsAcceptor) -> io::Result<Transport> {
        self.arrive()?;
        match self {
            Transport::Plain(socket) => {
                let tls = acceptor.accept(socket).await?;
                Ok(Transport::Tls(Box::new(tls)))
            }
            Transport::Tls(_) => Ok(self),
        }
    }

    /// The first bytes that come through TLS, which are not taken by this. Of plain bytes it sees none.
    ///
    /// # Errors
    /// When the other end leaves before there are any.
    pub(crate) async fn first_bytes(&mut self) -> io::Result<&[u8]> {
        match self {
            Transport::Plain(_) => Ok(&[]),
            Transport::Tls(tls) => tls.fill_buf().await,
        }
    }

    /// Leaves its runtime.
    ///
    /// # Errors
    /// When the system does not let it, after which it is lost.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        let socket = self.movable();
        if let Movable::Here(here) = std::mem::replace(socket, Movable::Lost) {
            *socket = Movable::Away(here.into_std()?);
        }
        Ok(())
    }

    /// Arrives in the runtime of the caller.
    ///
    /// # Errors
    /// When the system does not let it, after which it is lost.
    pub(crate) fn arrive(&mut self) -> io::Result<()> {
        let socket = self.movable();
        if let Movable::Away(away) = std::mem::replace(socket, Movable::Lost) {
            *socket = Movable::Here(TcpStream::from_std(away)?);
        }
        Ok(())
    }

    fn movable(&mut self) -> &mut Movable {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => tls.get_mut().0,
        }
    }
}

impl Movable {
    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
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
        self.here()?.poll_read(context, buf)
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_shutdown(context)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_read(context, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(context, buf),
        }
    }
}

/// TLS takes bytes that the socket does not take yet. It gets no more before those are out: otherwise a few bytes now and then would look
/// like a client that reads.
impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Transport::Tls(tls) => {
                ready!(Pin::new(&mut *tls).poll_flush(context))?;
                Pin::new(tls).poll_write(context, bytes)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(context, pieces),
            Transport::Tls(tls) => {
                ready!(Pin::new(&mut *tls).poll_flush(context))?;
                Pin::new(tls).poll_write_vectored(context, pieces)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(context),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
