//! The commands, one file each.

mod adapter;
mod architectures;
mod benchmark;
mod cache_prompt;
mod chat;
mod check;
mod completions;
mod convert;
mod evaluate;
mod fuse;
mod generate;
mod list;
mod lora;
mod man;
mod manage;
mod merge;
mod models;
mod perplexity;
mod quantize;
mod server;
mod show;
mod upload;

use std::num::NonZeroUsize;
use std::thread;

use crate::args::{Cli, Command, ShareArgs};
use crate::failure::{Failure, Result};
use crate::memory;
use crate::output::warn;

pub(crate) use benchmark::decoding::Part as DecodingPart;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result {
    if cli.cpu {
        mlxlm_core::device::use_cpu();
    }
    mlxlm_core::device::configure_kernels(cli.threads)?;
    warn_of_threads(cli.threads);
    memory::be_strict(cli.strict_memory);
    match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Lora(args) => lora::run(&args),
        Command::Fuse(args) => fuse::run(&args),
        Command::Quantize(args) => quantize::budget::run(&args),
        Command::Awq(args) => quantize::awq::run(&args),
        Command::Gptq(args) => quantize::gptq::run(&args),
        Command::Dwq(args) => quantize::dwq::run(&args),
        Command::DynamicQuant(args) => quantize::dynamic::run(&args),
        Command::Upload(args) => upload::run(&args),
        Command::Share(args) => Err(share(&args)),
        Command::Merge(args) => merge::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Adapter(args) => adapter::run(&args),
        Command::CachePrompt(args) => cache_prompt::run(&args),
        Command::Benchmark(args) => benchmark::run(&args),
        Command::Server(args) => server::run(&args, cli.cpu),
        Command::Manage(args) => manage::run(&args),
        Command::Models(args) => models::run(&args),
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { folder } => man::run(&folder),
    }
}

/// Warns of more threads than there are cores for them.
fn warn_of_threads(threads: Option<NonZeroUsize>) {
    if let (Some(threads), Ok(cores)) = (threads, thread::available_parallelism())
        && threads > cores
    {
        warn(format_args!("`--threads` is {threads}, more than there are cores ({cores}), which is slower"));
    }
}

/// `share` is refused, whatever is asked of it.
fn share(_: &ShareArgs) -> Failure {
    Failure::usage("`mlxlm share` is not supported")
        .hint("copy the folder with `rsync`, or use `mlxlm upload` and download it on the other machine")
}
