//! Sealed memory without a name: large payloads are written into one and read from another, never mapped.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io::{Errno, pread, pwritev};

/// A region of ours, which only this process writes.
#[derive(Debug)]
pub(super) struct Region {
    memory: OwnedFd,
    capacity: u64,
}

/// A region of a child's.
#[derive(Debug)]
pub(super) struct Foreign {
    memory: OwnedFd,
    capacity: u64,
}

impl Region {
    /// Small regions are no cheaper than this.
    const LEAST: u64 = 64 << 10;

    /// A region of at least so many bytes, whose length can never change again.
    pub(super) fn new(bytes: u64) -> io::Result<Self> {
        let capacity = bytes.max(Self::LEAST).next_multiple_of(4096);
        Self::exactly(capacity)
    }

    /// A region of exactly so many bytes.
    pub(super) fn exactly(capacity: u64) -> io::Result<Self> {
        let memory = memfd_create("jitney", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, capacity)?;
        fcntl_add_seals(
            &memory,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        Ok(Self { memory, capacity })
    }

    /// Whether a payload of so many bytes fits.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        bytes <= self.capacity
    }

    /// Fills the buffer with what lies from this offset on, as far as there is anything.
    pub(super) fn read(&self, mut buffer: &mut [u8], mut offset: u64) {
        while !buffer.is_empty() {
            match pread(&self.memory, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                Ok(read) if read > 0 => {
                    offset += read as u64;
                    buffer = &mut buffer[read..];
                }
                _ => return,
            }
        }
    }

    /// Writes the pieces one after another, from this offset on.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut pieces = pieces.to_vec();
        let mut pieces = pieces.as_mut_slice();
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let batch = &pieces[..pieces.len().min(PIECES_MAX)];
            let written = match pwritev(&self.memory, batch, offset) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                result => result?,
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut pieces, written);
        }
        Ok(())
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Foreign {
    /// Takes a descriptor that a child sent, if it is memory that cannot shrink: anything else could make a read block or fail.
    pub(super) fn accept(memory: OwnedFd) -> Result<Self, String> {
        let seals =
            fcntl_get_seals(&memory).map_err(|_| "a descriptor that is no memory".to_owned())?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err("a region that is not sealed against shrinking".to_owned());
        }
        let stat =
            fstat(&memory).map_err(|error| format!("a region that cannot be read: {error}"))?;
        let capacity = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { memory, capacity })
    }

    /// Whether it has so many bytes.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        bytes <= self.capacity
    }

    /// The first `bytes` bytes.
    pub(super) fn read(&self, bytes: u64) -> io::Result<Bytes> {
        let wanted = usize::try_from(bytes).map_err(|_| ErrorKind::OutOfMemory)?;
        let mut payload = Vec::new();
        payload
            .try_reserve_exact(wanted)
            .map_err(|_| ErrorKind::OutOfMemory)?;
        while payload.len() < wanted {
            let offset = payload.len() as u64;
            match pread(&self.memory, spare_capacity(&mut payload), offset) {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                result => _ = result?,
            }
        }
        payload.truncate(wanted);
        Ok(payload.into())
    }
}

/// The most pieces that one system call takes.
const PIECES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_one() {
        let pieces: Vec<Vec<u8>> = (0..3000_u32)
            .map(|n| vec![n as u8; n as usize % 100])
            .collect();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let joined = pieces.concat();
        let region = Region::new(joined.len() as u64).unwrap();
        region.write(&slices, 0).unwrap();
        let foreign = Foreign::accept(region.memory).unwrap();
        assert_eq!(foreign.read(joined.len() as u64).unwrap(), joined);
    }

    #[test]
    fn only_memory_that_cannot_shrink_is_taken() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert!(Foreign::accept(reader).unwrap_err().contains("no memory"));
        let loose = memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Foreign::accept(loose).unwrap_err().contains("not sealed"));
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(Foreign::accept(file.into()).is_err());
    }

    #[test]
    fn a_region_never_changes_its_length() {
        let region = Region::new(1).unwrap();
        assert!(region.holds(64 << 10) && !region.holds((64 << 10) + 1));
        assert!(ftruncate(&region.memory, 1).is_err());
        assert!(ftruncate(&region.memory, 1 << 20).is_err());
        assert!(
            region
                .write(&[IoSlice::new(&[1; 100])], (64 << 10) - 50)
                .is_err()
        );
    }
}
