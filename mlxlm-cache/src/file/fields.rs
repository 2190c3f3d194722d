//! Looking things up in a prompt-cache file, with every answer checked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use mlxlm_core::weights::SafetensorsFile;
use mlxlm_core::{Array, Dtype, Exception};

use super::problem;
use crate::{Error, FileProblem, Result};

/// Which of the two layouts a file has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// mlx-lm 0.32.
    Current,
    /// mlx-lm 0.31 and before.
    Old,
}

/// An open file.
pub(crate) struct Reader {
    file: SafetensorsFile,
    names: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
    pub layout: Layout,
    /// The arrays that stand for `None`.
    nones: BTreeSet<String>,
    used: RefCell<BTreeSet<String>>,
}

impl Reader {
    pub(super) fn new(file: SafetensorsFile) -> Result<Self> {
        let (names, metadata) = (file.names().into_iter().collect(), file.metadata());
        let layout = match metadata.get("2.0").map(String::as_str) {
            Some("") => Layout::Current,
            Some(_) => Layout::Old,
            None => return Err(problem(file.path(), FileProblem::NoMetadata { key: "2.0".into() })),
        };
        let mut reader = Self { file, names, metadata, layout, nones: BTreeSet::new(), used: RefCell::default() };
        if layout == Layout::Current {
            reader.nones = reader.read_nones()?;
        }
        Ok(reader)
    }

    /// Goes through the list of arrays that are none.
    fn read_nones(&self) -> Result<BTreeSet<String>> {
        let mut nones = BTreeSet::new();
        for n in 1.. {
            let key = format!("2.{n}.1");
            let Some(kind) = self.metadata.get(&key) else { break };
            let array = self.metadata(&format!("2.{n}.0"))?;
            match kind.as_str() {
                "scalar" | "string" => {}
                "none" => drop(nones.insert(array.to_owned())),
                _ => {
                    let expected = "scalar, string or none";
                    return Err(self.fail(FileProblem::Metadata { key, got: kind.clone(), expected }));
                }
            }
        }
        Ok(nones)
    }

    pub(crate) fn fail(&self, what: FileProblem) -> Error {
        problem(self.file.path(), what)
    }

    pub(crate) fn metadata(&self, key: &str) -> Result<&str> {
        let value = self.metadata.get(key).map(String::as_str);
        value.ok_or_else(|| self.fail(FileProblem::NoMetadata { key: key.to_owned() }))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.names.contains(key)
    }

    /// An array over the mapped file. What goes into a cache is taken once: MLX may write the update of a buffer into its memory, which
    /// is private to this process and no other array may show.
    pub(crate) fn array(&self, key: &str) -> Result<Array> {
        if !self.has(key) {
            return Err(self.fail(FileProblem::NoArray { key: key.to_owned() }));
        }
        self.used.borrow_mut().insert(key.to_owned());
        Ok(self.file.array(key)?)
    }

    /// Checks that every array was asked for of those that belong to the first `layers` caches, or to anything if that is not given.
    pub(super) fn check_all_used(&self, layers: Option<usize>) -> Result<()> {
        let used = self.used.borrow();
        let index = |key: &str| key.split('.').next().and_then(|first| first.parse::<usize>().ok());
        let ours = |key: &str| layers.is_none_or(|layers| index(key).is_none_or(|index| index < layers));
        let left = self.names.iter().filter(|key| !used.contains(*key) && ours(key));
        let keys: Vec<String> = left.cloned().collect();
        if keys.is_empty() { Ok(()) } else { Err(self.fail(FileProblem::LeftOver { keys })) }
    }
}

/// The part of a file that belongs to one cache.
pub(super) struct Fields<'a> {
    pub reader: &'a Reader,
    /// The key of the cache: `{layer}`, and more within a list.
    pub at: String,
    /// The metadata key of its numbers, in the old layout.
    pub meta: String,
}

impl Fields<'_> {
    /// The key of a part.
    pub(super) fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.at)
    }

    /// A part, if there is one.
    pub(super) fn optional(&self, part: &str) -> Result<Option<Array>> {
        let key = self.key(part);
        let array = self.reader.array(&key)?;
        Ok((!self.reader.nones.contains(&key)).then_some(array))
    }

    /// A part.
    pub(super) fn array(&self, part: &str) -> Result<Array> {
        self.reader.array(&self.key(part))
    }

    /// A number among the arrays.
    pub(super) fn int(&self, part: &str, what: &'static str, range: RangeInclusive<i32>) -> Result<i32> {
        let key = self.key(part);
        let array = self.reader.array(&key)?;
        if array.size() != 1 {
            return Err(self.shape(part, &array, "one number"));
        }
        if !matches!(array.dtype(), Dtype::Int32 | Dtype::Int64 | Dtype::Uint32) {
            return Err(self.kind(part, &array, "an integer"));
        }
        let got = array.try_item_cast::<i64>().map_err(|e| Exception::custom(e.to_string()))?;
        self.in_range(key, what, got, &range)
    }

    /// A number among the strings of the old layout.
    pub(super) fn meta_int(&self, part: &str, what: &'static str, range: RangeInclusive<i32>) -> Result<i32> {
        let key = format!("{}.{part}", self.meta);
        let text = self.reader.metadata(&key)?;
        let Ok(got) = text.parse::<i64>() else {
            let got = text.to_owned();
            return Err(self.reader.fail(FileProblem::Metadata { key, got, expected: "an integer" }));
        };
        self.in_range(key, what, got, &range)
    }

    /// True or false, among the arrays.
    pub(super) fn bool(&self, part: &str) -> Result<bool> {
        let array = self.reader.array(&self.key(part))?;
        if array.size() != 1 {
            return Err(self.shape(part, &array, "one truth value"));
        }
        if array.dtype() != Dtype::Bool {
            return Err(self.kind(part, &array, "a truth value"));
        }
        Ok(array.try_item_exact::<bool>().map_err(|e| Exception::custom(e.to_string()))?)
    }

    /// A number for each of `rows` rows.
    pub(super) fn ints(&self, part: &str, rows: i32) -> Result<Vec<i32>> {
        let array = self.reader.array(&self.key(part))?;
        if array.shape() != [rows] {
            return Err(self.shape(part, &array, &format!("[{rows}]")));
        }
        if !matches!(array.dtype(), Dtype::Int32 | Dtype::Int64) {
            return Err(self.kind(part, &array, "integers"));
        }
        Ok(array.to_vec_cast::<i32>().map_err(|e| Exception::custom(e.to_string()))?)
    }

    /// As [`ints`](Self::ints), if there are any; for as many rows as there are, if that is not known.
    pub(super) fn optional_ints(&self, part: &str, rows: Option<i32>) -> Result<Option<Vec<i32>>> {
        match self.optional(part)? {
            None => Ok(None),
            Some(array) => self.ints(part, rows.unwrap_or(array.size() as i32)).map(Some),
        }
    }

    /// A short string, stored as its code points.
    pub(super) fn string(&self, part: &str) -> Result<String> {
        const LONGEST: usize = 64;
        let array = self.reader.array(&self.key(part))?;
        if array.ndim() != 1 || array.size() > LONGEST {
            return Err(self.shape(part, &array, "the characters of a class name"));
        }
        if !matches!(array.dtype(), Dtype::Int32 | Dtype::Int64) {
            return Err(self.kind(part, &array, "characters"));
        }
        let points = array.to_vec_cast::<u32>().map_err(|e| Exception::custom(e.to_string()))?;
        Ok(points.into_iter().map(|point| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    }

    pub(super) fn shape(&self, part: &str, array: &Array, expected: &str) -> Error {
        let (key, got) = (self.key(part), array.shape().to_vec());
        self.reader.fail(FileProblem::Shape { key, got, expected: expected.to_owned() })
    }

    pub(super) fn kind(&self, part: &str, array: &Array, expected: &'static str) -> Error {
        self.reader.fail(FileProblem::Type { key: self.key(part), got: array.dtype(), expected })
    }

    /// A number that contradicts others.
    pub(super) fn value(&self, part: &str, what: &'static str, got: i32, expected: String) -> Error {
        self.reader.fail(FileProblem::Value { key: self.key(part), what, got: got.into(), expected })
    }

    fn in_range(&self, key: String, what: &'static str, got: i64, range: &RangeInclusive<i32>) -> Result<i32> {
        let fits = i32::try_from(got).ok().filter(|got| range.contains(got));
        fits.ok_or_else(|| {
            let expected = format!("{} to {}", range.start(), range.end());
            self.reader.fail(FileProblem::Value { key, what, got, expected })
        })
    }
}
