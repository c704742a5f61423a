//! The frames of the channel.

/// The longest body of a frame.
pub(super) const BODY_MAX: usize = 1 << 20;
/// The longest payload that travels inside a frame; longer ones go through a region.
pub(super) const INLINE_MAX: usize = 32 << 10;
