//! Which instructions the kernels may use: found at run time, forced with `MLXLM_ISA`.
//!
//! Levels are cumulative. A kernel that has no version for a level uses its version for the next lower one, so a result may be
//! the same at two levels, and may differ in its last bits between others.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::amx;

/// The environment variable that forces a level.
pub const ISA_VAR: &str = "MLXLM_ISA";

/// A level of x86-64 instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every x86-64 has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL with VNNI, BF16 and VBMI.
    Avx512,
    /// The matrix tiles of Sapphire Rapids and later: AMX with BF16 and INT8.
    Amx,
}

/// Why a forced level cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No level has this name.
    #[error("`{ISA_VAR}` is `{0}`, expected one of `portable`, `avx2`, `avx512`, `amx`")]
    Unknown(String),
    /// The machine lacks the level.
    #[error("`{ISA_VAR}` asks for `{requested}`, but this machine has `{best}` at most")]
    Unsupported {
        /// The level asked for.
        requested: Isa,
        /// The highest level here.
        best: Isa,
    },
}

impl Isa {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// The highest level that this machine and its system support.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// The levels that this machine has, lowest first; tests run every one of them.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| *level <= Self::best())
    }

    /// The level in use: `MLXLM_ISA`, else [`Isa::best`].
    pub fn active() -> Result<Self, IsaError> {
        static ACTIVE: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
        ACTIVE
            .get_or_init(|| {
                // What is emulated is for the tests that ask for it.
                let default = if cfg!(test) { Self::best().min(native()) } else { Self::best() };
                match std::env::var_os(ISA_VAR).filter(|name| !name.is_empty()) {
                    Some(name) => choose(&name.to_string_lossy(), Self::best()),
                    None => Ok(default),
                }
            })
            .clone()
    }
}

/// Whether streams of memory are to be asked for ahead of time by kernels: on Intel's processors, which stop fetching by themselves
/// at the end of each page. Two cores of a Sapphire Rapids read 32 GB/s so, and 18 without (see [`crate::bandwidth`]); one core of a
/// Zen 4 took 24 GB/s of 4-bit weights so, and 30 without.
pub(super) fn fetches_ahead() -> bool {
    static INTEL: OnceLock<bool> = OnceLock::new();
    *INTEL.get_or_init(|| {
        let std::arch::x86_64::CpuidResult { ebx, ecx, edx, .. } = std::arch::x86_64::__cpuid(0);
        [ebx, edx, ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    })
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let wanted = name.trim().to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|level| level.to_string() == wanted)
            .ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

fn choose(name: &str, best: Isa) -> Result<Isa, IsaError> {
    let requested: Isa = name.parse()?;
    if requested <= best { Ok(requested) } else { Err(IsaError::Unsupported { requested, best }) }
}

/// The highest level here; under tests, AMX is emulated where there is AVX-512.
fn detect() -> Isa {
    match native() {
        Isa::Avx512 if cfg!(test) => Isa::Amx,
        native => native,
    }
}

fn native() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512vbmi");
    match (avx2, avx512) {
        (true, true) if amx::available() => Isa::Amx,
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        (false, _) => Isa::Portable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for level in Isa::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("AVX2".parse(), Ok(Isa::Avx2));
        assert_eq!("sse".parse::<Isa>(), Err(IsaError::Unknown("sse".into())));
    }

    #[test]
    fn a_forced_level_is_used_or_refused() {
        assert_eq!(choose("portable", Isa::Avx2), Ok(Isa::Portable));
        let refused = choose("amx", Isa::Avx512).unwrap_err();
        assert_eq!(refused, IsaError::Unsupported { requested: Isa::Amx, best: Isa::Avx512 });
        assert_eq!(refused.to_string(), "`MLXLM_ISA` asks for `amx`, but this machine has `avx512` at most");
    }

    #[test]
    fn levels_are_cumulative() {
        let levels: Vec<_> = Isa::available().collect();
        assert_eq!(levels, Isa::ALL[..levels.len()]);
        assert_eq!(levels.last(), Some(&Isa::best()));
    }
}
