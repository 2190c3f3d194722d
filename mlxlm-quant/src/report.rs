//! What a long run says while it works.

/// Something to tell the user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// How far one part of the work has come.
    Step {
        /// What is done, as in "hessians".
        what: &'a str,
        /// How much of it.
        done: usize,
        /// Of how much.
        of: usize,
    },
    /// A fact that the user should know.
    Note(&'a str),
    /// A loss on the way.
    Loss {
        /// Whether over the samples that are not trained with.
        valid: bool,
        /// Steps made.
        step: usize,
        /// The loss.
        loss: f64,
    },
}

/// Hears of events.
pub type Report<'r> = &'r mut dyn FnMut(Event<'_>);
