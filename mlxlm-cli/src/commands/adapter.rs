//! `adapter`: the adapter of a fine-tune in another layout.

use mlxlm_core::weights::{write_adapter, write_peft};

use crate::args::{AdapterFormat, AdapterLayoutArgs};
use crate::failure::Result;
use crate::output::say;
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &AdapterLayoutArgs) -> Result {
    if args.save_path.exists() {
        return Err(mlxlm_models::Error::Exists { folder: args.save_path.clone() }.into());
    }
    match args.to {
        AdapterFormat::Mlx => write_adapter(&args.adapter_path, &args.save_path)?,
        AdapterFormat::Peft => write_peft(&args.adapter_path, &args.save_path, args.base_model.as_deref())?,
    }
    say!("[INFO] Wrote {}", terminal::name(&args.save_path.display().to_string()))
}
