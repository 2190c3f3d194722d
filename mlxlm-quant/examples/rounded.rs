//! A model rounded to its nearest codes, with tables of another width than maps: what learned methods that treat tables apart are held
//! against. `rounded MODEL OUT BITS GROUP TABLE_BITS TABLE_GROUP`.

use std::path::Path;

use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_models::NewFolder;
use mlxlm_quant::gptq::GptqOptions;
use mlxlm_quant::{Job, plan};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, numbers @ ..] = &args[..] else {
        return Err("usage: rounded MODEL OUT BITS GROUP TABLE_BITS TABLE_GROUP".into());
    };
    let numbers: Vec<i32> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let &[bits, group, table_bits, table_group] = &numbers[..] else {
        return Err("four numbers are expected after the folders".into());
    };
    let affine = |bits, group| Scheme::new(Mode::Affine, bits, group);
    let options = GptqOptions { scheme: affine(bits, group)?, fallback: affine(table_bits, table_group)? };
    let folder = NewFolder::create(out)?;
    let mut job = Job::dense(Path::new(model))?;
    let plan = options.plan(&*job.model);
    plan::round(&mut *job.model, &plan)?;
    job.finish(folder, options.scheme, None)?;
    mlxlm_core::device::exit(0)
}
