//! The server over the other crates: an engine thread that owns every array, with a scheduler, and the HTTP interfaces.
//!
//! There is no code here yet; the crate holds the place of this layer, above everything but the command line.
