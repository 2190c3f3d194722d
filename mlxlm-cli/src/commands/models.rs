//! `models`: the model types that can be loaded.

use crate::failure::Result;
use crate::output::say;

/// Prints each type with those that it serves as well.
pub(super) fn run() -> Result {
    mlxlm_models::arch::ARCHITECTURES.iter().try_for_each(|arch| match arch.names {
        [own] => say!("{own}"),
        [own, others @ ..] => say!("{own} (also {})", others.join(", ")),
        [] => Ok(()),
    })
}
