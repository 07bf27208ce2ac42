//! Streams and segments.
