//! Training runs as a whole: stopping, resuming, what is saved and said, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use mlxlm_core::weights::{AdapterConfig, FineTuneType, LoraParameters, SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, io};
use mlxlm_models::{CausalLm, ModelConfig, build, build_random};
use mlxlm_train::data::{Example, Preference, Rows, Splits};
use mlxlm_train::optim::{Adafactor, Adam, Muon, Rule, Sgd};
use mlxlm_train::trainer::{Checkpoints, Ending, Event, STATE_FILE};
use mlxlm_train::{Error, FineTune, Objective, Schedule, Trainer, TrainerOptions};
use serde_json::{Map, Value, json};

fn config() -> ModelConfig {
    let config = json!({
        "model_type": "llama", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    ModelConfig::new(config).unwrap()
}

fn model(seed: u64) -> Box<dyn CausalLm> {
    build_random(&config(), seed).unwrap().model
}

fn fine_tune(fine_tune_type: FineTuneType) -> FineTune {
    let parameters = LoraParameters { rank: 2, scale: 10.0, dropout: 0.3, keys: None };
    FineTune { fine_tune_type, num_layers: -1, parameters, seed: 3 }
}

fn rows(count: usize) -> Rows {
    let row = |i: usize| Example { tokens: (0..4 + i % 5).map(|t| ((t * 3 + i) % 20) as u32).collect(), start: i % 2 };
    Rows::Examples((0..count).map(row).collect())
}

fn pairs(count: usize) -> Rows {
    let answer =
        |i: usize, by: usize| Example { tokens: (0..6).map(|t| ((t * by + i) % 20) as u32).collect(), start: 2 };
    Rows::Preferences((0..count).map(|i| Preference { chosen: answer(i, 3), rejected: answer(i, 7) }).collect())
}

fn splits() -> Splits {
    Splits { train: rows(12), valid: rows(5), test: Rows::default() }
}

fn options() -> TrainerOptions {
    TrainerOptions {
        iters: 9,
        batch_size: 2,
        schedule: Schedule::from_name("cosine_decay", &[1e-2, 20.0]).unwrap().with_warmup(0.0, 2.0),
        grad_accumulation_steps: 2,
        max_grad_norm: Some(1.0),
        lora_plus_ratio: Some(4.0),
        steps_per_report: 3,
        steps_per_eval: 4,
        val_batches: Some(2),
        save_every: 5,
        seed: 7,
        ..TrainerOptions::default()
    }
}

struct Run {
    tune: FineTune,
    rule: Rule,
    options: TrainerOptions,
    splits: Splits,
}

impl Run {
    fn new(fine_tune_type: FineTuneType, rule: Rule) -> Self {
        Self { tune: fine_tune(fine_tune_type), rule, options: options(), splits: splits() }
    }

    /// Trains into a folder, from a state if there is one, until the listener breaks.
    fn go(&self, folder: &Path, listener: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<Ending, Error> {
        let mut model = model(1);
        let trainable = self.tune.begin(&mut *model).unwrap();
        let arguments: Map<String, Value> = json!({"iters": 9}).as_object().unwrap().clone();
        let checkpoints = Checkpoints { folder: folder.to_owned(), config: self.tune.config(), arguments };
        checkpoints.begin().unwrap();
        let mut trainer = Trainer::new(&mut *model, trainable, self.rule, self.options.clone(), Some(checkpoints))?;
        let state = folder.join(STATE_FILE);
        if state.is_file() {
            trainer.resume(state)?;
        }
        trainer.run(&self.splits, listener)
    }

    fn refused(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        self.go(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    }
}

fn bytes(folder: &Path) -> Vec<u8> {
    io::read(folder.join("adapters.safetensors")).unwrap()
}

/// Stopped after any iteration and resumed, a run ends with the same bits as one that was not stopped: dropout, gathered gradients and
/// the order of batches included.
#[test]
fn a_resumed_run_is_bit_by_bit_the_uninterrupted_one() {
    let sgd = Rule::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
    let adafactor = Rule::Adafactor(Adafactor { beta_1: Some(0.9), ..Adafactor::default() });
    let cases = [
        (FineTuneType::Lora, Rule::Adam(Adam::default())),
        (FineTuneType::Lora, Rule::Muon(Muon::default())),
        (FineTuneType::Dora, sgd),
        (FineTuneType::Full, adafactor),
    ];
    for (i, (kind, rule)) in cases.into_iter().enumerate() {
        let run = Run::new(kind, rule);
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut losses = Vec::new();
        let ending = run.go(whole.path(), &mut |event| {
            losses.extend(matches!(event, Event::Iteration { .. }).then(|| event.clone()));
            ControlFlow::Continue(())
        });
        assert_eq!(ending.unwrap(), Ending::Finished);
        let mut resumed = Vec::new();
        for stop in [3 + i as u64, 8, 100] {
            let ending = run.go(parts.path(), &mut |event| {
                resumed.extend(matches!(event, Event::Iteration { .. }).then(|| event.clone()));
                match event {
                    Event::Iteration { iteration, .. } if *iteration == stop => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            });
            assert_eq!(ending.unwrap(), if stop < 9 { Ending::Stopped } else { Ending::Finished });
        }
        assert_eq!(losses.len(), 9);
        assert_eq!(losses, resumed, "{kind:?}");
        assert_eq!(bytes(whole.path()), bytes(parts.path()), "{kind:?}");
    }
}

#[test]
fn a_run_says_and_saves_what_the_reference_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut heard = Vec::new();
    let run = Run::new(FineTuneType::Lora, Rule::Adam(Adam::default()));
    run.go(folder.path(), &mut |event| {
        heard.push(match event {
            Event::Iteration { iteration, .. } => format!("iteration {iteration}"),
            Event::Report(report) => {
                assert!(report.train_loss > 0.0 && report.tokens_per_second > 0.0 && report.peak_memory_bytes > 0);
                format!("report {}", report.iteration)
            }
            Event::Measured { done, total } => format!("measured {done}/{total}"),
            Event::Validation { iteration, .. } => format!("validation {iteration}"),
            Event::Saved { iteration, .. } => format!("saved {iteration}"),
        });
        ControlFlow::Continue(())
    })
    .unwrap();
    let validation = |at: &str| vec!["measured 1/2".to_owned(), "measured 2/2".into(), format!("validation {at}")];
    let steps = |from: u64, to: u64| (from..=to).map(|i| format!("iteration {i}")).collect::<Vec<_>>();
    let one = |text: &str| vec![text.to_owned()];
    let expected = [
        validation("0"),
        steps(1, 3),
        one("report 3"),
        validation("3"),
        steps(4, 5),
        one("saved 5"),
        steps(6, 6),
        one("report 6"),
        steps(7, 7),
        validation("7"),
        steps(8, 8),
        validation("8"),
        steps(9, 9),
        one("report 9"),
        one("saved 9"),
    ];
    assert_eq!(heard, expected.concat());
    let mut names: Vec<_> = io::read_dir(folder.path()).unwrap();
    names.iter_mut().for_each(|path| *path = path.file_name().unwrap().into());
    let expected = [
        "0000005_adapters.safetensors",
        "0000009_adapters.safetensors",
        "adapter_config.json",
        "adapters.safetensors",
        STATE_FILE,
    ];
    assert_eq!(names, expected.map(std::path::PathBuf::from));
    let written: AdapterConfig = io::read_json(folder.path().join("adapter_config.json")).unwrap();
    assert_eq!(written, fine_tune(FineTuneType::Lora).config());
    let last = io::read(folder.path().join("0000009_adapters.safetensors")).unwrap();
    assert_eq!(last, bytes(folder.path()));
    // What was saved loads as a fine-tune of that model.
    let mut base = model(1);
    let tensors: std::collections::BTreeMap<_, _> = mlxlm_core::nn::parameters(&mut *base).into_iter().collect();
    let tuned = build(&config(), tensors, Some(folder.path())).unwrap().model;
    let tokens = Array::from_slice(&[1, 2, 3], &[1, 3]);
    let apart = tuned.forward(&tokens, None).unwrap().subtract(base.forward(&tokens, None).unwrap()).unwrap();
    assert!(apart.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap() > 1e-4);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_place() {
    let mut run = Run::new(FineTuneType::Full, Rule::Sgd(Sgd::default()));
    run.options = TrainerOptions { max_grad_norm: None, grad_accumulation_steps: 1, save_every: 2, ..options() };
    // Far too fast, from the third step on.
    run.options.schedule = Schedule::Join {
        first: Box::new(Schedule::Constant(1e-3)),
        boundary: 3.0,
        then: Box::new(Schedule::Constant(1e38)),
    };
    let folder = tempfile::tempdir().unwrap();
    let error = run.go(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap_err();
    let Error::NotFinite { iteration, batch, epoch, ref checkpoint, .. } = error else { panic!("{error}") };
    assert!((5..=6).contains(&iteration) && batch == iteration && epoch == 1, "{error}");
    assert!(checkpoint.as_ref().unwrap().ends_with("0000002_adapters.safetensors"), "{error}");
    assert!(error.to_string().contains("the last good checkpoint is `"), "{error}");
    let saved = SafetensorsFile::open(folder.path().join("0000002_adapters.safetensors")).unwrap().arrays().unwrap();
    assert!(saved.values().all(|array| array.try_as_slice::<f32>().unwrap().iter().all(|value| value.is_finite())));
}

#[test]
fn preferences_raise_their_margin() {
    for objective in [Objective::Dpo { beta: 0.5 }, Objective::Orpo { beta: 0.5 }] {
        let mut run = Run::new(FineTuneType::Lora, Rule::Adam(Adam::default()));
        run.tune.parameters.dropout = 0.0;
        run.options = TrainerOptions {
            objective,
            iters: 30,
            batch_size: 4,
            grad_accumulation_steps: 1,
            steps_per_report: 1,
            ..options()
        };
        run.splits = Splits { train: pairs(4), valid: pairs(2), test: Rows::default() };
        let (folder, mut margins) = (tempfile::tempdir().unwrap(), Vec::new());
        run.go(folder.path(), &mut |event| {
            if let Event::Report(report) = event {
                let measure = |name| report.measures.iter().find(|(known, _)| *known == name).unwrap().1;
                assert!(
                    (measure("rewards_chosen") - measure("rewards_rejected") - measure("rewards_margin")).abs() < 1e-4
                );
                margins.push(measure("rewards_margin"));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(margins.len(), 30);
        assert!(margins[29] > margins[0] + 0.05, "{objective:?}: {margins:?}");
        if matches!(objective, Objective::Dpo { .. }) {
            assert!(margins[0].abs() < 1e-5, "{margins:?}");
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let adam = Rule::Adam(Adam::default());
    let with = |change: fn(&mut Run)| {
        let mut run = Run::new(FineTuneType::Lora, adam);
        change(&mut run);
        run.refused()
    };
    assert_eq!(with(|run| run.options.batch_size = 0), "`batch_size` is 0, expected at least 1");
    assert_eq!(with(|run| run.options.max_seq_length = 1), "`max_seq_length` is 1, expected at least 2");
    assert_eq!(
        with(|run| run.options.max_grad_norm = Some(f32::NAN)),
        "`max_grad_norm` is NaN, expected a number above 0"
    );
    assert_eq!(with(|run| run.options.batch_size = 13), "the dataset has 12 rows, fewer than one batch of 13");
    assert_eq!(
        with(|run| run.splits.train = pairs(4)),
        "the objective `sft` learns from texts, and `train` has pairs of answers"
    );
    assert_eq!(
        with(|run| run.options.objective = Objective::Dpo { beta: 0.1 }),
        "the objective `dpo` learns from pairs of answers, and `train` has texts"
    );
    assert_eq!(
        with(|run| run.splits.train = Rows::Examples(vec![Example { tokens: vec![1; 9], start: 9 }; 4])),
        "none of the 4 rows of `train` has a token to learn within 2048 tokens"
    );
}

#[test]
fn a_state_of_other_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(FineTuneType::Lora, Rule::Adam(Adam::default()));
    run.go(folder.path(), &mut |event| match event {
        Event::Iteration { iteration: 2, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    let refused = |change: fn(&mut Run)| {
        let mut other = Run { tune: run.tune.clone(), options: run.options.clone(), splits: run.splits.clone(), ..run };
        change(&mut other);
        other.go(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    assert!(refused(|run| run.options.batch_size = 3).ends_with("`batch_size` was 2 and is 3 now"));
    assert!(refused(|run| run.tune.parameters.rank = 3).contains("is missing or of another shape"));
    assert!(refused(|run| run.rule = Rule::Muon(Muon::default())).contains("the optimizer keeps 1"));
    run.options.iters = 10;
    run.go(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn adapters_of_another_model_are_refused_with_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapters.safetensors");
    let mut model = model(1);
    let trainable = fine_tune(FineTuneType::Lora).begin(&mut *model).unwrap();
    let mut named = trainable.named();
    named[0].1 = Array::from_slice(&[0_f32; 6], &[2, 3]);
    named[3].1 = named[3].1.add(Array::from_f32(f32::NAN)).unwrap();
    named[5].0 = "model.layers.7.self_attn.q_proj.lora_a".into();
    save_safetensors(&path, &named, &BTreeMap::default()).unwrap();
    let mut trainer = Trainer::new(&mut *model, trainable, Rule::Sgd(Sgd::default()), options(), None).unwrap();
    let error = trainer.load_adapters(&path).unwrap_err();
    let Error::AdapterFile { faults, .. } = &error else { panic!("{error}") };
    assert_eq!(faults.len(), 3, "{error}");
    assert!(faults[0].contains("is [2, 3], and [16, 2] here"), "{error}");
    assert!(faults[1].ends_with("has values that are not finite"), "{error}");
    assert_eq!(faults[2], "`model.layers.7.self_attn.q_proj.lora_a` is not trained here");
}

/// A disk that is full at a checkpoint: the checkpoint before stays as it was.
#[test]
fn a_failed_checkpoint_leaves_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(FineTuneType::Lora, Rule::Adam(Adam::default()));
    let mut first = Vec::new();
    let place = folder.path().to_owned();
    let error = run.go(folder.path(), &mut |event| {
        if let Event::Saved { iteration: 5, .. } = event {
            first = bytes(&place);
            // The next numbered file cannot be written: a folder lies there.
            std::fs::create_dir(place.join("0000009_adapters.safetensors")).unwrap();
        }
        ControlFlow::Continue(())
    });
    assert!(error.unwrap_err().to_string().contains("0000009_adapters.safetensors"));
    assert_eq!(bytes(folder.path()), first);
    // And the run can be resumed from there.
    std::fs::remove_dir(folder.path().join("0000009_adapters.safetensors")).unwrap();
    run.go(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap();
    let whole = tempfile::tempdir().unwrap();
    run.go(whole.path(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(bytes(whole.path()), bytes(folder.path()));
}
