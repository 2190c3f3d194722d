//! What is written beside a model that was quantized to a budget: its figures, and where its bits went.

use std::collections::BTreeMap;
use std::fmt::Write;

use mlxlm_models::CausalLm;
use mlxlm_train::evaluate::Comparison;

/// What was reached.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// With the dense model, over texts that were not calibrated with.
    pub comparison: Comparison,
    /// Bytes of weights.
    pub bytes: u64,
    /// Bits for each weight.
    pub bits_per_weight: f64,
}

/// A section in Markdown: a table of figures, and a bar for each block.
pub fn card(model: &dyn CausalLm, figures: &Figures) -> String {
    let Figures { comparison, bytes, bits_per_weight } = figures;
    let mut text = String::from("\n## Quantization\n\n");
    // Writing to a string does not fail.
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{words}");
    };
    line(format_args!(
        "Measured against the original over {} tokens of texts that were not calibrated with:\n",
        comparison.tokens
    ));
    line(format_args!("| | |\n| --- | --: |"));
    line(format_args!("| KL divergence, nats | {:.5} |", comparison.divergence));
    line(format_args!("| same likeliest token | {:.2} % |", 100.0 * comparison.same_top));
    line(format_args!("| perplexity | {:.3} |", comparison.perplexity));
    line(format_args!("| perplexity of the original | {:.3} |", comparison.perplexity_of_other));
    line(format_args!("| bits per weight | {bits_per_weight:.3} |"));
    line(format_args!("| bytes of weights | {bytes} |\n"));
    line(format_args!("Bits per weight by block:\n\n```"));
    for (block, bits) in bits_by_block(model) {
        let bar = "#".repeat((bits * 4.0).round() as usize);
        line(format_args!("{block:>24} {bits:5.2} {bar}"));
    }
    line(format_args!("```"));
    text
}

/// The mean bits of what is in each block, and of each leaf that is in none, in the order of the model.
fn bits_by_block(model: &dyn CausalLm) -> Vec<(String, f64)> {
    let mut order = Vec::new();
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    model.walk("", &mut |path, leaf| {
        let Some(matrix) = leaf.matrix() else { return };
        let name = block_of(path);
        if !sums.contains_key(&name) {
            order.push(name.clone());
        }
        let (weights, bytes) = sums.entry(name).or_default();
        *weights += matrix.shape().iter().map(|&n| n as u64).product::<u64>();
        *bytes += matrix.nbytes() as u64;
    });
    let bits = |name: String| {
        let (weights, bytes) = sums[&name];
        (name, bytes as f64 * 8.0 / weights.max(1) as f64)
    };
    order.into_iter().map(bits).collect()
}

/// A path up to the number of its block, or all of it.
fn block_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let number = parts.iter().position(|part| part.parse::<usize>().is_ok());
    number.map_or_else(|| path.to_owned(), |number| parts[..=number].join("."))
}
