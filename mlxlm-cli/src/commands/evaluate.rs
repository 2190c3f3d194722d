//! `evaluate`: a model's answers to the questions of tasks, measured.

use std::path::Path;

use mlxlm_core::io;
use mlxlm_sample::{GenerateOptions, SamplerOptions};
use mlxlm_train::evaluate::{self, Answered, EvaluateOptions, Task, TaskResult};
use serde_json::{Map, Value, json};

use crate::args::EvaluateArgs;
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::say;
use crate::progress::{self, Counted};
use crate::prompt;
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &EvaluateArgs) -> Result {
    if args.confirm_run_unsafe_code {
        return Err(Failure::usage("`--confirm-run-unsafe-code` is not supported, because no code is run")
            .hint("leave the option out"));
    }
    // Every task is read before a model is loaded.
    let tasks = args.tasks.iter().map(Task::read).collect::<mlxlm_train::Result<Vec<_>>>()?;
    let options = options(args)?;
    io::create_dir_all(&args.output_dir)?;
    let loaded = model::load_model(&args.model, &args.variant, <_>::default())?;
    let hub = model::hub()?;
    let mut results = Vec::new();
    for task in &tasks {
        let mut counted: Option<Counted> = None;
        let mut done = |count, total| counted.get_or_insert_with(|| Counted::new(&task.name, total)).set(count);
        let (model, tokenizer) = (&*loaded.model, &loaded.tokenizer);
        let result = evaluate::run(task, model, tokenizer, &options, &hub, &progress::shown(), &mut done)?;
        if let Some(counted) = counted {
            counted.finish();
        }
        print(&result)?;
        if args.log_samples {
            let path = args.output_dir.join(format!("{}_samples.jsonl", file_name(args, &[&result])));
            io::write(path, samples(&result.answers))?;
        }
        results.push(result);
    }
    let by_task: Map<String, Value> = results.iter().map(|result| (result.task.clone(), result.to_json())).collect();
    let questions: Map<String, Value> =
        results.iter().map(|result| (result.task.clone(), json!(result.questions))).collect();
    let shots: Map<String, Value> = results.iter().map(|result| (result.task.clone(), json!(result.shots))).collect();
    let report = json!({"model": args.model, "results": by_task, "n-shot": shots, "n-samples": questions});
    let path = args.output_dir.join(format!("{}.json", file_name(args, &results.iter().collect::<Vec<_>>())));
    io::write_json(&path, &report)?;
    say!("Results: {}", terminal::name(&path.display().to_string()))
}

fn options(args: &EvaluateArgs) -> Result<EvaluateOptions> {
    let sampler = SamplerOptions {
        temp: args.temp,
        top_p: args.top_p,
        top_k: args.top_k,
        seed: Some(args.seed),
        ..SamplerOptions::default()
    };
    let chat = match (args.apply_chat_template, args.no_apply_chat_template) {
        (false, false) => None,
        (yes, _) => Some(yes),
    };
    Ok(EvaluateOptions {
        batch_size: args.batch_size.get(),
        num_shots: args.num_shots,
        max_tokens: args.max_tokens.map(usize::from),
        limit: args.limit.map(usize::from),
        apply_chat_template: chat,
        shots_as_multiturn: args.fewshot_as_multiturn,
        template_kwargs: prompt::template_values("--chat-template-args", Some(&args.chat_template_args))?,
        generate: GenerateOptions { sampler, ..GenerateOptions::default() },
    })
}

/// `eval_{model}_{shots}_{tasks}`, as the reference names it.
fn file_name(args: &EvaluateArgs, results: &[&TaskResult]) -> String {
    let plain = |text: &str| text.replace(|c: char| !c.is_alphanumeric() && !"-_.".contains(c), "_");
    let model = Path::new(&args.model).file_name().map_or(args.model.as_str().into(), |name| name.to_string_lossy());
    let tasks: Vec<String> = results.iter().map(|result| plain(&result.task)).collect();
    let shots = args.num_shots.map(|shots| format!("_{shots:02}")).unwrap_or_default();
    format!("eval_{}{shots}_{}", plain(&model), tasks.join("_"))
}

fn print(result: &TaskResult) -> Result {
    say!("{}: {} questions, {} examples before each", terminal::name(&result.task), result.questions, result.shots)?;
    for measure in &result.measures {
        let filter = if measure.filter == "none" { String::new() } else { format!(" ({})", measure.filter) };
        let error = measure.error.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        let better = if measure.higher_is_better { "higher" } else { "lower" };
        let metric = terminal::name(&measure.metric);
        say!("  {metric}{}: {:.4}{error}, {better} is better", terminal::line(&filter), measure.value)?;
    }
    Ok(())
}

fn samples(answers: &[Answered]) -> String {
    let line = |Answered { prompt, answer, target }: &Answered| {
        format!("{}\n", json!({"prompt": prompt, "answer": answer, "target": target}))
    };
    answers.iter().map(line).collect()
}
