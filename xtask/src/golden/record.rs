//! `cargo xtask golden record CONFIG…`: golden cases of configurations, computed by Python mlx-lm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Python;
use crate::process::{self, PYTHON};
use crate::workspace;

/// Make golden cases: weights drawn from a seed, and the logits of Python mlx-lm
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Files `config.json`; a case lies beside its configuration, or below `--out` under the name of its folder
    #[arg(required = true)]
    configs: Vec<PathBuf>,
    /// The folder for the cases
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of the weights and the tokens
    #[arg(long, default_value_t = 7)]
    seed: u64,
    #[command(flatten)]
    python: Python,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.python.check()?;
    let script = workspace::root().join("xtask/src/golden/record.py");
    for config in &args.configs {
        let config = config.canonicalize().with_context(|| format!("cannot open `{}`", config.display()))?;
        let folder = case_of(&config, args.out.as_deref())?;
        let mut python = args.python.command();
        python.arg(&script).arg(&config).arg(&folder).args(["--seed", &args.seed.to_string()]);
        eprint!("{}", process::succeed(&mut python, PYTHON)?);
    }
    Ok(())
}

/// Where the case of a configuration goes: its own folder, or one of the same name below `out`.
fn case_of(config: &Path, out: Option<&Path>) -> Result<PathBuf> {
    let Some(own) = config.parent() else { bail!("`{}` lies in no folder", config.display()) };
    let named = if config.ends_with("config.json") { own.file_name() } else { config.file_stem() };
    match (out, named) {
        (None, _) if config.ends_with("config.json") => Ok(own.to_owned()),
        (None, _) => bail!("`{}` is not called config.json: give `--out` a folder for its case", config.display()),
        (Some(out), Some(name)) => Ok(out.join(name)),
        (Some(_), None) => bail!("`{}` has no name for its case", config.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_lies_beside_its_configuration_or_where_one_says() {
        let of = |config: &str, out: Option<&str>| case_of(Path::new(config), out.map(Path::new)).ok();
        assert_eq!(of("/golden/llama/config.json", None), Some("/golden/llama".into()));
        assert_eq!(of("/golden/llama/config.json", Some("/cases")), Some("/cases/llama".into()));
        assert_eq!(of("/configs/llama.json", Some("/cases")), Some("/cases/llama".into()));
        assert_eq!(of("/configs/llama.json", None), None);
    }
}
