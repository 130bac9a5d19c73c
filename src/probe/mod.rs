//! Finding out whether a node carries traffic, and how fast.

pub mod batch;
pub mod delay;
pub mod serving;
pub mod stored;
