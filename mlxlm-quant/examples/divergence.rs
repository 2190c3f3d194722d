//! How far models are from a teacher: `divergence TEACHER TEXT SAMPLES LENGTH STUDENT…`, folders and a file of text.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;

use mlxlm_core::nn;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{LoadOptions, load_model};
use mlxlm_quant::{Calibration, CalibrationOptions};
use mlxlm_train::evaluate::compare;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [teacher, text, samples, length, students @ ..] = &args[..] else {
        return Err("usage: divergence TEACHER TEXT SAMPLES LENGTH STUDENT…".into());
    };
    let options = CalibrationOptions {
        path: Some(text.into()),
        num_samples: Some(samples.parse()?),
        sequence_length: length.parse()?,
        seed: 7,
    };
    let tokenizer = Tokenizer::from_folder(teacher, &TokenizerOptions::default())?;
    let samples = Calibration::read(&tokenizer, &options)?;
    let load = |folder: &str| load_model(Path::new(folder), &LoadOptions::default());
    let teacher = load(teacher)?.0.model;
    println!("| model | bytes | KL | same top-1 | perplexity (teacher) |");
    for folder in students {
        let student = load(folder)?.0.model;
        let found = compare(&*student, &*teacher, samples.sequences(), 1, |_| ())?;
        let (_, bytes) = nn::size(&*student);
        let (same, ppl, of_teacher) = (100.0 * found.same_top, found.perplexity, found.perplexity_of_other);
        println!("| {folder} | {bytes} | {:.5} | {same:.2} % | {ppl:.3} ({of_teacher:.3}) |", found.divergence);
    }
    mlxlm_core::device::exit(0)
}
