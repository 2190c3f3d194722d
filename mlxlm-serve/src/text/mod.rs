//! From tokens to the text that a client sees.

mod running;
mod stop;

pub(crate) use running::RunningText;
pub(crate) use stop::StopStrings;
