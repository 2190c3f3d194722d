//! How the learning rate goes over the steps.
//!
//! The schedules of `mlx.optimizers.schedulers` under their names, and `build_schedule` of `mlx_lm/tuner/utils.py` @ 0.32.2.
//! Unusual: a step may be a fraction, so that a run with a budget of time can go through its schedule by the clock.

use std::f64::consts::PI;

use crate::{Error, Result};

/// The learning rate as a function of the step, which counts from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Always the same.
    Constant(f64),
    /// `init * rate ^ step`.
    ExponentialDecay {
        /// At step 0.
        init: f64,
        /// Factor of each step.
        rate: f64,
    },
    /// `init * rate ^ floor(step / step_size)`.
    StepDecay {
        /// At step 0.
        init: f64,
        /// Factor after each `step_size` steps.
        rate: f64,
        /// Steps that have the same rate.
        step_size: f64,
    },
    /// Half a cosine wave from `init` to `end`, then constant.
    CosineDecay {
        /// At step 0.
        init: f64,
        /// Steps until `end` is reached.
        steps: f64,
        /// From there on.
        end: f64,
    },
    /// A straight line from `init` to `end`, then constant.
    Linear {
        /// At step 0.
        init: f64,
        /// From step `steps` on.
        end: f64,
        /// Steps until `end` is reached.
        steps: f64,
    },
    /// The first schedule until `boundary`, then the second, whose steps count from there.
    Join {
        /// Before the boundary.
        first: Box<Schedule>,
        /// The step at which the second begins.
        boundary: f64,
        /// From the boundary on.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The schedule of this name with the positional arguments that MLX's function takes.
    pub fn from_name(name: &str, arguments: &[f64]) -> Result<Self> {
        let wrong = |why: String| Error::Schedule { name: name.to_owned(), why };
        let known = match (name, arguments) {
            ("exponential_decay", &[init, rate]) => Self::ExponentialDecay { init, rate },
            ("step_decay", &[init, rate, step_size]) => Self::StepDecay { init, rate, step_size },
            ("cosine_decay", &[init, steps]) => Self::CosineDecay { init, steps, end: 0.0 },
            ("cosine_decay", &[init, steps, end]) => Self::CosineDecay { init, steps, end },
            ("linear_schedule", &[init, end, steps]) => Self::Linear { init, end, steps },
            ("exponential_decay" | "step_decay" | "cosine_decay" | "linear_schedule", _) => {
                return Err(wrong(format!("does not take {} arguments", arguments.len())));
            }
            _ => {
                let names = "`exponential_decay`, `step_decay`, `cosine_decay` and `linear_schedule`";
                return Err(wrong(format!("is not known; the schedules are {names}")));
            }
        };
        match known {
            Self::StepDecay { step_size: steps, .. } | Self::CosineDecay { steps, .. } | Self::Linear { steps, .. }
                if steps.is_nan() || steps < 1.0 =>
            {
                Err(wrong(format!("is over {steps} steps; it needs at least one")))
            }
            _ => Ok(known),
        }
    }

    /// Puts a straight line from `from` to this schedule's first rate before it, over `steps` steps.
    ///
    /// As in mlx-lm, the schedule itself begins one step after the line has ended.
    #[must_use]
    pub fn with_warmup(self, from: f64, steps: f64) -> Self {
        if steps <= 0.0 {
            return self;
        }
        let first = Box::new(Self::Linear { init: from, end: self.at(0.0), steps });
        Self::Join { first, boundary: steps + 1.0, then: Box::new(self) }
    }

    /// The learning rate of the step that comes after `step` steps.
    pub fn at(&self, step: f64) -> f64 {
        match self {
            Self::Constant(rate) => *rate,
            Self::ExponentialDecay { init, rate } => init * rate.powf(step),
            Self::StepDecay { init, rate, step_size } => init * rate.powf((step / step_size).floor()),
            Self::CosineDecay { init, steps, end } => {
                let falling = 0.5 * (1.0 + (PI * step.min(*steps) / steps).cos());
                end + falling * (init - end)
            }
            Self::Linear { init, end, steps } => init + step.min(*steps) * (end - init) / steps,
            Self::Join { first, boundary, .. } if step < *boundary => first.at(step),
            Self::Join { boundary, then, .. } => then.at(step - boundary),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `mlx.optimizers.schedulers` of MLX 0.32.
    fn check(name: &str, arguments: &[f64], expected: &[(f64, f64)]) {
        let schedule = Schedule::from_name(name, arguments).unwrap();
        for (step, rate) in expected {
            let got = schedule.at(*step);
            assert!((got - rate).abs() <= 1e-6 * rate.abs().max(1e-3), "{name} at {step}: {got}, expected {rate}");
        }
    }

    #[test]
    fn schedules_agree_with_mlx() {
        check("exponential_decay", &[0.1, 0.9], &[(0.0, 0.1), (1.0, 0.09), (5.0, 0.059_049)]);
        check("step_decay", &[0.1, 0.9, 10.0], &[(9.0, 0.1), (10.0, 0.09), (21.0, 0.081)]);
        check("cosine_decay", &[0.1, 1000.0], &[(0.0, 0.1), (250.0, 0.085_355_34), (500.0, 0.05), (2000.0, 0.0)]);
        check("cosine_decay", &[0.1, 10.0, 0.05], &[(0.0, 0.1), (4.0, 0.082_725_43), (20.0, 0.05)]);
        check("linear_schedule", &[0.0, 0.1, 100.0], &[(0.0, 0.0), (50.0, 0.05), (101.0, 0.1)]);
    }

    #[test]
    fn warmup_ends_where_the_schedule_begins() {
        let schedule = Schedule::from_name("cosine_decay", &[1e-5, 1000.0]).unwrap().with_warmup(1e-7, 100.0);
        let near = |step: f64, rate: f64| assert!((schedule.at(step) - rate).abs() < 1e-12, "{step}");
        near(0.0, 1e-7);
        near(50.0, 5.05e-6);
        near(100.0, 1e-5);
        near(101.0, 1e-5);
        near(601.0, 5e-6);
        assert_eq!(Schedule::Constant(0.5).with_warmup(0.0, 0.0), Schedule::Constant(0.5));
    }

    #[test]
    fn nonsense_is_named() {
        let wrong = |name: &str, arguments: &[f64]| Schedule::from_name(name, arguments).unwrap_err().to_string();
        assert_eq!(wrong("cosine_decay", &[0.1]), "the schedule `cosine_decay` does not take 1 arguments");
        assert_eq!(
            wrong("linear_schedule", &[0.1, 0.0, 0.0]),
            "the schedule `linear_schedule` is over 0 steps; it needs at least one"
        );
        assert!(wrong("cosine", &[0.1]).contains("is not known; the schedules are `exponential_decay`"));
    }
}
