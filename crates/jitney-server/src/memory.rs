//! Memory in which tensors lie as processors like them.

use bytes::{Buf, BytesMut};

/// Where tensors like to begin.
pub(crate) const ALIGNMENT: usize = 64;

/// Empty memory for so many bytes, in which the one at that offset is aligned.
pub(crate) fn aligned(bytes: usize, offset: usize) -> BytesMut {
    let mut memory = BytesMut::with_capacity(bytes.saturating_add(ALIGNMENT));
    let at = memory.as_ptr().addr().wrapping_add(offset);
    let skipped = at.wrapping_neg() % ALIGNMENT;
    memory.resize(skipped, 0);
    memory.advance(skipped);
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_at_the_offset_is_aligned_and_there_is_room_for_all() {
        for (bytes, offset) in [(0, 0), (1, 0), (100, 37), (100, 100), (5000, 64)] {
            let memory = aligned(bytes, offset);
            assert!(memory.is_empty() && memory.capacity() >= bytes);
            assert_eq!((memory.as_ptr().addr() + offset) % ALIGNMENT, 0);
        }
    }
}
