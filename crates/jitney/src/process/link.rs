//! Our end of the socket pair that we share with one child.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
    recvmsg, sendmsg, shutdown, socketpair,
};

use super::frame::Inbox;

/// Our end.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

/// What came of looking for more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing, so far.
    Nothing,
    /// The child has closed its end.
    End,
}

impl Link {
    /// Our end, and the child's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self { socket }, theirs))
    }

    /// The other end, for tests.
    #[cfg(test)]
    pub(super) fn of(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends all of the pieces, with the descriptor beside the first byte. Waits while the child does not read; `stalled` is told once
    /// before that. [`Link::shut`] ends the wait.
    pub(super) fn send(
        &self,
        pieces: &mut [IoSlice<'_>],
        descriptor: Option<BorrowedFd<'_>>,
        stalled: impl FnOnce(),
    ) -> io::Result<()> {
        let mut pieces = pieces;
        let mut descriptor = descriptor;
        let mut stalled = Some(stalled);
        while !pieces.is_empty() {
            match self.try_send(pieces, descriptor) {
                Ok(sent) => {
                    descriptor = None;
                    IoSlice::advance_slices(&mut pieces, sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(stalled) = stalled.take() {
                        stalled();
                    }
                    self.wait_writable()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what can be sent at once, and answers how many bytes that was.
    pub(super) fn try_send(
        &self,
        pieces: &[IoSlice<'_>],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<usize> {
        let pieces = &pieces[..pieces.len().min(PIECES_MAX)];
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.socket, pieces, &mut beside, flags) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Receives what is there, and at most what fits.
    ///
    /// # Errors
    /// The socket is broken, or more descriptors came than a frame may have.
    pub(super) fn receive(
        &self,
        inbox: &mut Inbox,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(inbox.room())],
            &mut beside,
            flags,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
            result => result?,
        };
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::other(
                "more descriptors than frames that may have one",
            ));
        }
        inbox.filled(got.bytes);
        Ok(if got.bytes == 0 {
            Received::End
        } else {
            Received::Bytes(got.bytes)
        })
    }

    /// Ends the connection in both directions, and every wait for it.
    pub(super) fn shut(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    fn wait_writable(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The most pieces that one system call takes.
const PIECES_MAX: usize = 1024;
/// The most descriptors that one message may bring.
const DESCRIPTORS_AT_ONCE: usize = 4;
/// The most descriptors that may wait for the frames they belong to.
const DESCRIPTORS_MAX: usize = 64;
