//! Tasks. The numbers are those of lm-evaluation-harness 0.4.13 driving `MLXLM` of Python mlx-lm 0.32.2 over the demo model
//! (`simple_evaluate(model=MLXLM(…, use_chat_template=False), fewshot_random_seed=1234)`), with and without the chat template.

use std::path::{Path, PathBuf};

use mlxlm_core::hub::{Hub, HubOptions, Progress};
use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_train::evaluate::{EvaluateOptions, Task, TaskResult, run};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evaluate").join(name)
}

fn demo() -> Loaded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-models/demo/demo");
    load(folder, &LoadOptions::default()).unwrap()
}

fn answer(loaded: &Loaded, name: &str, options: &EvaluateOptions) -> TaskResult {
    let task = Task::read(file(name)).unwrap();
    let hub = Hub::new(HubOptions::new("http://127.0.0.1:9", "none"));
    let mut last = (0, 0);
    let mut done = |count, total| last = (count, total);
    let (model, tokenizer) = (&*loaded.model, &loaded.tokenizer);
    let result = run(&task, model, tokenizer, options, &hub, &Progress::none(), &mut done).unwrap();
    assert!(last.0 > 0 && last.0 == last.1, "{last:?}");
    result
}

fn value(result: &TaskResult, metric: &str) -> f64 {
    result.measures.iter().find(|measure| measure.metric == metric).unwrap().value
}

#[test]
fn scores_are_those_of_the_harness() {
    let loaded = demo();
    for batch_size in [1, 3, 64] {
        let plain = EvaluateOptions { apply_chat_template: Some(false), batch_size, ..EvaluateOptions::default() };
        let choice = answer(&loaded, "choice.yaml", &plain);
        assert_eq!((value(&choice, "acc"), value(&choice, "acc_norm")), (0.625, 0.75));
        assert_eq!((choice.task.as_str(), choice.shots, choice.questions), ("capitals_choice", 2, 8));
        let first = "Name the capital.\n\nWhat is the capital of Peru?\nAnswer: Lima\n\nWhat is the capital of France?\n\
                     Answer: Paris\n\nWhat is the capital of France?\nAnswer:";
        assert_eq!(choice.answers[0].prompt, first);
        assert_eq!(choice.answers[0].target, "Paris");
        // The spread of eight hits and misses, by hand.
        assert!((choice.measures[0].error.unwrap() - (0.625_f64 * 0.375 / 7.0).sqrt()).abs() < 1e-9);
        let word = answer(&loaded, "word.yaml", &plain);
        assert!((value(&word, "perplexity") / 737.098_616 - 1.0).abs() < 1e-3, "{word:?}");
        assert_eq!(value(&word, "acc"), 0.125);
        let text = answer(&loaded, "text.yaml", &plain);
        for (metric, expected) in
            [("word_perplexity", 1_210.353_351), ("byte_perplexity", 4.160_660), ("bits_per_byte", 2.056_812)]
        {
            assert!((value(&text, metric) / expected - 1.0).abs() < 1e-3, "{text:?}");
        }
    }
}

#[test]
fn answers_are_written_up_to_the_strings_that_end_them() {
    let loaded = demo();
    let plain = EvaluateOptions { apply_chat_template: Some(false), batch_size: 4, ..EvaluateOptions::default() };
    let sums = answer(&loaded, "sums.yaml", &plain);
    assert_eq!(value(&sums, "exact_match"), 0.0);
    assert!(sums.answers.iter().all(|answered| !answered.answer.contains('\n')));
    // Asked as it was trained to be asked, it knows some sums.
    let chat = EvaluateOptions { batch_size: 4, ..EvaluateOptions::default() };
    let sums = answer(&loaded, "sums.yaml", &chat);
    assert_eq!((sums.answers[0].target.as_str(), sums.measures[0].filter.as_str()), ("3", "number"));
    assert!(sums.answers[0].prompt.contains("<|im_start|>user\nWhat is 1 plus 2?<|im_end|>"), "{sums:?}");
    assert_eq!(value(&sums, "exact_match"), 1.0, "{sums:?}");
    let choice = answer(&loaded, "choice.yaml", &chat);
    assert_eq!((value(&choice, "acc"), value(&choice, "acc_norm")), (0.5, 0.5));
    let first = "<|im_start|>system\nName the capital.\n\n<|im_end|>\n<|im_start|>user\nWhat is the capital of Peru?\nAnswer: \
                 Lima\n\nWhat is the capital of France?\nAnswer: Paris\n\nWhat is the capital of France?\nAnswer:<|im_end|>\n\
                 <|im_start|>assistant\n";
    assert_eq!(choice.answers[0].prompt, first);
    let few = EvaluateOptions { limit: Some(2), ..chat };
    assert_eq!(answer(&loaded, "sums.yaml", &few).questions, 2);
}

#[test]
fn tasks_that_cannot_be_done_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    let base = mlxlm_core::io::read_to_string(file("choice.yaml")).unwrap();
    let refusal = |text: &str| {
        mlxlm_core::io::write(&path, text).unwrap();
        let error = Task::read(&path).unwrap_err().to_string();
        let prefix = format!("the task `{}` ", path.display());
        error.strip_prefix(&prefix).map(str::to_owned).unwrap_or(error)
    };
    assert_eq!(refusal(&format!("{base}\nspeed: 3\n")), "has `speed`, which is not supported");
    let replaced = |from: &str, to: &str| refusal(&base.replace(from, to));
    assert!(replaced("metric: acc\n", "metric: bleu\n").contains("the metric `bleu`"));
    assert!(replaced("multiple_choice", "chat").contains("the `output_type` `chat`"));
    assert!(
        replaced("doc_to_target: answer", "doc_to_target: !function utils.f")
            .contains("Python function as `doc_to_target`")
    );
    assert!(replaced("doc_to_choice: choices\n", "").contains("without `doc_to_choice`"));
    assert!(replaced("test_split: test", "test_split: 3").contains("`test_split` that is no string"));
    assert!(refusal("a: [").contains("is no YAML"));
    assert!(refusal("include: b.yaml\n").contains("b.yaml"));
    assert!(refusal("- 1\n").contains("holds no entries"));
    let include = refusal("include: a.yaml\n");
    assert!(include.contains("includes files too deep"), "{include}");
}

#[test]
fn documents_that_do_not_fit_are_named_with_their_line() {
    let loaded = demo();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| mlxlm_core::io::write(folder.path().join(name), text).unwrap();
    write(
        "capitals.jsonl",
        "{\"country\": \"France\", \"choices\": [\"Paris\"], \"answer\": 0}\n{\"country\": \"Italy\"}\n",
    );
    write("a.yaml", &mlxlm_core::io::read_to_string(file("choice.yaml")).unwrap().replace("num_fewshot: 2", ""));
    let said = |name: &str| {
        let task = Task::read(folder.path().join(name)).unwrap();
        let hub = Hub::new(HubOptions::new("http://127.0.0.1:9", "none"));
        let (model, tokenizer, options) = (&*loaded.model, &loaded.tokenizer, EvaluateOptions::default());
        run(&task, model, tokenizer, &options, &hub, &Progress::none(), &mut |_, _| {}).unwrap_err().to_string()
    };
    assert!(said("a.yaml").contains("capitals.jsonl` line 2: "), "{}", said("a.yaml"));
    write("capitals.jsonl", "{\"country\": \"France\", \"choices\": [\"Paris\"], \"answer\": 4}\n");
    assert!(said("a.yaml").ends_with("line 1: its target 4 is none of its 1 choices"), "{}", said("a.yaml"));
}
