//! Heads that predict further tokens: what they compute, how they load and how they are saved, for each family.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_cache::Caches;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::{self, SafetensorsFile, Tensors};
use mlxlm_core::{Array, io, nn, ops};
use mlxlm_models::{CausalLm, LoadOptions, ModelConfig, build, build_with, load_model, save};
use serde_json::{Value, json};

use support::{Case, drawn, largest, largest_difference, values};

/// A family: a case of `tests/golden`, and what its heads are called.
#[derive(Debug, Clone, Copy)]
struct Family {
    case: &'static str,
    /// What stands before all names.
    prefix: &'static str,
    /// Where the heads lie.
    path: fn(usize) -> String,
    /// The norms of token and state, their map, the block, and the last norm.
    names: [&'static str; 5],
    state_first: bool,
    before_norm: bool,
}

const QWEN: Family = Family {
    case: "qwen3_next",
    prefix: "",
    path: |_| "mtp".into(),
    names: ["pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "layers.0", "norm"],
    state_first: false,
    before_norm: false,
};
const DEEPSEEK: Family = Family {
    case: "deepseek_v3",
    prefix: "",
    path: |head| format!("model.layers.{}", 3 + head),
    names: ["enorm", "hnorm", "eh_proj", "", "shared_head.norm"],
    state_first: false,
    before_norm: false,
};
const MIMO: Family = Family {
    case: "mimo",
    prefix: "",
    path: |head| format!("model.mtp_layers.{head}"),
    names: ["token_layernorm", "hidden_layernorm", "input_proj", "", "final_layernorm"],
    state_first: true,
    before_norm: true,
};

fn families() -> [Family; 8] {
    let inner = Family { prefix: "language_model", ..QWEN };
    [
        QWEN,
        Family { case: "qwen3_5", ..inner },
        Family { case: "qwen3_5_moe", ..inner },
        DEEPSEEK,
        Family { case: "deepseek_v32", ..DEEPSEEK },
        Family { case: "glm4_moe", ..DEEPSEEK },
        Family { case: "glm4_moe_lite", ..DEEPSEEK },
        MIMO,
    ]
}

impl Family {
    fn case(&self) -> Case {
        Case::named(self.case)
    }

    fn config(&self) -> ModelConfig {
        self.case().config()
    }

    /// The entries of the text model.
    fn text(&self) -> Value {
        let config = self.config();
        config.get("text_config").cloned().unwrap_or_else(|| config.to_value())
    }

    fn number(&self, key: &str) -> i32 {
        self.text()[key].as_i64().unwrap() as i32
    }

    /// The tensors of the model, and those of so many heads, whose blocks are like its last one.
    fn tensors(&self, heads: usize) -> Tensors {
        let mut tensors = self.case().tensors();
        let dims = self.number("hidden_size");
        let last = nn::join(self.prefix, &format!("model.layers.{}.", self.number("num_hidden_layers") - 1));
        let of_block: Vec<(String, Array)> = tensors
            .iter()
            .filter_map(|(name, array)| Some((name.strip_prefix(&last)?.to_owned(), array.clone())))
            .collect();
        let [token_norm, state_norm, joint, block, norm] = self.names;
        for head in 0..heads {
            let path = nn::join(self.prefix, &(self.path)(head));
            for (name, array) in &of_block {
                let name = nn::join(&nn::join(&path, block), name);
                let moved = array.add(drawn(&name, array.shape(), 0.05)).unwrap();
                tensors.insert(name, moved);
            }
            for name in [token_norm, state_norm, norm] {
                let name = nn::join(&path, &format!("{name}.weight"));
                let weight = drawn(&name, &[dims], 0.2).add(Array::from_f32(1.0)).unwrap();
                tensors.insert(name, weight);
            }
            let name = nn::join(&path, &format!("{joint}.weight"));
            tensors.insert(name.clone(), drawn(&name, &[dims, 2 * dims], 0.2));
        }
        tensors
    }

    fn model(&self) -> Box<dyn CausalLm> {
        with_heads(&self.config(), self.tensors(1)).unwrap()
    }
}

fn options() -> LoadOptions {
    LoadOptions { mtp: true, ..LoadOptions::default() }
}

fn with_heads(config: &ModelConfig, tensors: Tensors) -> mlxlm_models::Result<Box<dyn CausalLm>> {
    build_with(config, tensors, &options()).map(|built| built.model)
}

fn ids(ids: &[u32]) -> Array {
    Array::from_slice(ids, &[1, ids.len() as i32])
}

const TEXT: [u32; 9] = [5, 17, 3, 99, 4, 64, 17, 3, 120];

/// What a head makes of a text: the states of all tokens but the last, and the tokens after them.
fn states(model: &dyn CausalLm, head: usize, of: Option<&Array>) -> Array {
    let mtp = model.mtp().unwrap();
    let own = mtp.entry(&model.hidden(&ids(&TEXT[..8]), None).unwrap()).unwrap();
    mtp.states(head, of.unwrap_or(&own), &ids(&TEXT[1..]), None).unwrap()
}

/// `x / rms(x) * weight` of rows, in `f64`.
fn normed(rows: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let of_row = |row: &[f64]| {
        let scale = (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + eps).sqrt().recip();
        row.iter().zip(weight).map(|(x, w)| x * scale * w).collect::<Vec<f64>>()
    };
    rows.chunks(weight.len()).flat_map(of_row).collect()
}

fn wide(array: &Array) -> Vec<f64> {
    values(array).into_iter().map(f64::from).collect()
}

/// A model of one layer, which is the block of the head, whose embeddings are `rows`, and whose last norm is that of the head.
fn as_model(family: Family, tensors: &Tensors, rows: &[f32]) -> Box<dyn CausalLm> {
    let dims = family.number("hidden_size");
    let len = rows.len() as i32 / dims;
    let mut config = family.config();
    let mut text = family.text();
    for (key, value) in [
        ("num_hidden_layers", json!(1)),
        ("vocab_size", json!(len)),
        ("first_k_dense_replace", json!(0)),
        ("full_attention_interval", json!(1)),
    ] {
        text[key] = value;
    }
    match config.get("text_config").is_some() {
        true => config.set("text_config", Some(text)),
        false => config = ModelConfig::new(text).unwrap(),
    }
    let path = nn::join(family.prefix, &(family.path)(0));
    let block = format!("{}.", nn::join(&path, family.names[3]));
    let own = |name: &str| nn::join(family.prefix, name);
    let is_block = |rest: &str| {
        ["input_layernorm", "post_attention_layernorm", "self_attn", "mlp"].contains(&rest.split('.').next().unwrap())
    };
    let mut all: Tensors = tensors
        .iter()
        .filter_map(|(name, array)| {
            let rest = name.strip_prefix(&block).filter(|rest| is_block(rest))?;
            Some((own(&format!("model.layers.0.{rest}")), array.clone()))
        })
        .collect();
    all.insert(own("model.embed_tokens.weight"), Array::from_slice(rows, &[len, dims]));
    all.insert(own("model.norm.weight"), tensors[&format!("{path}.{}.weight", family.names[4])].clone());
    if tensors.contains_key(&own("lm_head.weight")) {
        all.insert(own("lm_head.weight"), ops::zeros::<f32>(&[len, dims]).unwrap());
    }
    build(&config, all, None).unwrap().model
}

/// Norms and the map are computed here, number by number; for the block a model of one layer stands in, which has golden cases.
#[test]
fn a_head_is_a_block_over_states_and_the_tokens_after_them() {
    for family in families() {
        let (tensors, model) = (family.tensors(1), family.model());
        let (path, dims) = (nn::join(family.prefix, &(family.path)(0)), family.number("hidden_size") as usize);
        let eps = family.text()["rms_norm_eps"].as_f64().unwrap();
        let weight = |name: &str| wide(&tensors[&format!("{path}.{name}.weight")]);
        let table = wide(&tensors[&nn::join(family.prefix, "model.embed_tokens.weight")]);
        let embedded: Vec<f64> =
            TEXT[1..].iter().flat_map(|&id| table[id as usize * dims..][..dims].to_vec()).collect();
        // A last norm whose weights are one leaves the direction of what it reads.
        let mut plain = tensors.clone();
        if family.before_norm {
            plain.insert("model.norm.weight".into(), ops::ones::<f32>(&[dims as i32]).unwrap());
        }
        let hidden = with_heads(&family.config(), plain).unwrap().hidden(&ids(&TEXT[..8]), None).unwrap();
        let [token_norm, state_norm, joint, ..] = family.names;
        let token = normed(&embedded, &weight(token_norm), eps);
        let state = normed(&wide(&hidden), &weight(state_norm), eps);
        let joint = weight(joint);
        let mut rows = Vec::new();
        for (token, state) in token.chunks(dims).zip(state.chunks(dims)) {
            let pair = if family.state_first { [state, token].concat() } else { [token, state].concat() };
            let of_row = |row: &[f64]| row.iter().zip(&pair).map(|(w, x)| w * x).sum::<f64>() as f32;
            rows.extend(joint.chunks(2 * dims).map(of_row));
        }
        let expected = as_model(family, &tensors, &rows).hidden(&ids(&[0, 1, 2, 3, 4, 5, 6, 7]), None).unwrap();
        let got = states(&*model, 0, None);
        let off = largest_difference(&got, &expected);
        assert!(off < 1e-4 * largest(&expected), "{}: off by {off:.1e}", family.case);
        // The logits are those of the model's head.
        assert_eq!(model.head(&got).unwrap().dim(-1), model.info().vocab_size);
    }
}

#[test]
fn read_in_pieces_the_states_are_those_of_the_whole() {
    for family in families() {
        let model = family.model();
        let mtp = model.mtp().unwrap();
        let whole = states(&*model, 0, None);
        let entry = mtp.entry(&model.hidden(&ids(&TEXT[..8]), None).unwrap()).unwrap();
        let mut caches = Caches::new(&mtp.cache_kinds_of(0));
        let mut parts = Vec::new();
        for (from, to) in [(0, 4), (4, 5), (5, 8)] {
            let own = entry.try_index((.., from..to, ..)).unwrap();
            let tokens = ids(&TEXT[from as usize + 1..=to as usize]);
            parts.push(mtp.states(0, &own, &tokens, Some(&mut caches)).unwrap());
        }
        let off = largest_difference(&ops::concatenate(&parts, 1).unwrap(), &whole);
        assert!(off < 1e-4 * largest(&whole), "{}: off by {off:.1e}", family.case);
        let error = mtp.states(0, &entry, &ids(&TEXT[1..]), Some(&mut Caches::new(&[]))).unwrap_err();
        assert_eq!(error.to_string(), "0 caches for a model of 1 layers");
    }
}

#[test]
fn nobody_who_does_not_ask_gets_a_head() {
    for family in families() {
        let model = build(&family.config(), family.tensors(1), None).unwrap().model;
        assert!(model.mtp().is_none(), "{}", family.case);
        let without = with_heads(&family.config(), family.case().tensors()).unwrap();
        assert!(without.mtp().is_none(), "{}", family.case);
    }
}

#[test]
fn a_head_that_is_partly_there_is_an_error() {
    for family in families() {
        let path = nn::join(family.prefix, &(family.path)(0));
        let without = |name: &str| {
            let mut tensors = family.tensors(1);
            let name = format!("{path}.{name}.weight");
            assert!(tensors.remove(&name).is_some());
            (with_heads(&family.config(), tensors).unwrap_err().to_string(), name)
        };
        let (error, name) = without(family.names[4]);
        assert!(error.contains(&name), "{error}");
        let (error, _) = without(family.names[2]);
        // Only the first of those that belong nowhere are listed.
        assert!(error.contains("is not part of the model") && error.contains(&format!("`{path}.")), "{error}");
    }
}

#[test]
fn there_are_as_many_heads_as_the_configuration_says() {
    for family in [DEEPSEEK, MIMO] {
        let mut config = family.config();
        for (said, given, loads) in [(Some(1), 1, true), (Some(2), 2, true), (Some(2), 1, false), (Some(1), 2, false)] {
            config.set("num_nextn_predict_layers", said.map(|said: usize| said.into()));
            let model = with_heads(&config, family.tensors(given));
            assert_eq!(model.as_ref().map(|model| model.mtp().unwrap().count()).ok(), loads.then_some(given));
        }
        config.set("num_nextn_predict_layers", None);
        let model = with_heads(&config, family.tensors(2)).unwrap();
        assert_eq!(model.mtp().unwrap().count(), 2);
        let first = states(&*model, 0, None);
        let second = states(&*model, 1, Some(&first));
        assert!(largest_difference(&first, &second) > 0.01);
        let error = model.mtp().unwrap().states(2, &first, &ids(&TEXT[1..]), None).unwrap_err();
        let expected = "the model has 2 heads for multi-token prediction; there is no head 2 (counted from zero)";
        assert_eq!(error.to_string(), expected);
        config.set("num_nextn_predict_layers", Some(1_000_000_000.into()));
        let error = with_heads(&config, family.tensors(1)).unwrap_err().to_string();
        assert_eq!(error, "config.json: `num_nextn_predict_layers` is 1000000000, expected 1 to 16");
    }
    let mut config = QWEN.config();
    config.set("mtp_num_hidden_layers", Some(2.into()));
    let error = with_heads(&config, QWEN.tensors(1)).unwrap_err().to_string();
    assert_eq!(error, "config.json: `mtp_num_hidden_layers` is 2, expected 1 to 1");
}

/// Takes stacks of experts apart, below paths that begin so.
fn unstack(tensors: &mut Tensors, start: &str) {
    let stacks: Vec<String> =
        tensors.keys().filter(|name| name.starts_with(start) && name.contains(".switch_mlp.")).cloned().collect();
    for name in stacks {
        let stack = tensors.remove(&name).unwrap();
        for (i, expert) in ops::split_equal(&stack, stack.dim(0), 0).unwrap().iter().enumerate() {
            let name = name.replace(".switch_mlp.", &format!(".experts.{i}."));
            tensors.insert(name, expert.squeeze_axes(&[0]).unwrap());
        }
    }
}

/// Stores norms minus one, below paths that begin so.
fn minus_one(tensors: &mut Tensors, start: &str) {
    let is_norm = |name: &str| name.ends_with("norm.weight") || name.contains("norm_") && name.ends_with(".weight");
    for (name, array) in tensors.iter_mut() {
        if name.starts_with(start) && is_norm(name) && !name.contains("linear_attn") {
            *array = array.subtract(Array::from_f32(1.0)).unwrap();
        }
    }
}

#[test]
fn checkpoints_of_transformers_have_the_same_head() {
    for family in families() {
        let expected = states(&*family.model(), 0, None);
        let mut tensors = family.tensors(1);
        let path = nn::join(family.prefix, &(family.path)(0));
        let is_qwen = family.names == QWEN.names;
        unstack(&mut tensors, "");
        if is_qwen {
            minus_one(&mut tensors, "");
            for (_, filters) in tensors.iter_mut().filter(|(name, _)| name.ends_with("conv1d.weight")) {
                *filters = filters.swap_axes(1, 2).unwrap();
            }
        } else {
            // Copies of what the model has anyway.
            tensors.insert(format!("{path}.embed_tokens.weight"), tensors["model.embed_tokens.weight"].clone());
            tensors.insert(format!("{path}.shared_head.head.weight"), tensors["model.embed_tokens.weight"].clone());
        }
        if family.prefix == "language_model" {
            let outside = |(name, array): (String, Array)| {
                let name =
                    name.replace("language_model.model.", "model.language_model.").replace("language_model.mtp", "mtp");
                (name, array)
            };
            tensors = tensors.into_iter().map(outside).collect();
        }
        if family.case == "mimo" {
            tensors.retain(|name, _| !name.contains("shared_head") && !name.contains("mtp_layers.0.embed_tokens"));
        }
        let model = with_heads(&family.config(), tensors).unwrap();
        let off = largest_difference(&states(&*model, 0, None), &expected);
        assert!(off < 1e-5 * largest(&expected), "{}: off by {off:.1e}", family.case);
    }
}

/// A head in the layout of transformers beside a model that was converted without it.
#[test]
fn a_head_may_be_original_beside_a_converted_model() {
    let family = families()[2];
    let expected = states(&*family.model(), 0, None);
    let mut tensors = family.tensors(1);
    unstack(&mut tensors, "language_model.mtp");
    minus_one(&mut tensors, "language_model.mtp");
    let model = with_heads(&family.config(), tensors).unwrap();
    let off = largest_difference(&states(&*model, 0, None), &expected);
    assert!(off < 1e-5 * largest(&expected), "off by {off:.1e}");
}

fn names(path: &Path) -> Vec<String> {
    SafetensorsFile::open(path).unwrap().names().iter().map(ToString::to_string).collect()
}

#[test]
fn heads_are_saved_beside_the_model_and_come_back() {
    for family in families() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        for path in [&source, &target] {
            io::create_dir_all(path).unwrap();
        }
        let mut model = family.model();
        let expected = states(&*model, 0, None);
        save(&target, &mut *model, &family.config(), &source).unwrap();
        let path = format!("{}.", nn::join(family.prefix, &(family.path)(0)));
        let (main, heads) = (names(&target.join("model.safetensors")), names(&target.join("mtp.safetensors")));
        assert!(main.iter().all(|name| !name.starts_with(&path)), "{}", family.case);
        assert!(heads.iter().all(|name| name.starts_with(&path)), "{}: {heads:?}", family.case);
        assert_eq!(main.len() + heads.len(), family.tensors(1).len(), "{}", family.case);
        let read = |options: &LoadOptions| load_model(&target, options).unwrap().0.model;
        assert!(read(&LoadOptions::default()).mtp().is_none());
        let off = largest_difference(&states(&*read(&options()), 0, None), &expected);
        assert!(off == 0.0, "{}: off by {off:.1e}", family.case);
        // Other tools have the heads in a file of another name, which an index does not list.
        io::copy(target.join("mtp.safetensors"), target.join("model-mtp.safetensors")).unwrap();
        std::fs::remove_file(target.join("mtp.safetensors")).unwrap();
        assert!(read(&options()).mtp().is_some());
        std::fs::remove_file(target.join("model-mtp.safetensors")).unwrap();
        assert!(read(&options()).mtp().is_none());
        // Or among the model's own tensors.
        let whole: Vec<(String, Array)> = family.tensors(1).into_iter().collect();
        weights::save_safetensors(target.join("model.safetensors"), &whole, &BTreeMap::new()).unwrap();
        assert!(read(&options()).mtp().is_some());
        assert!(read(&LoadOptions::default()).mtp().is_none());
    }
}
