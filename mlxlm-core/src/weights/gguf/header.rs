//! The head of a GGUF file: version, metadata, and where each tensor lies.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::cursor::Cursor;
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, TensorType, Value};

/// Limits that no real file comes near.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 20;
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_ELEMENTS: usize = 1 << 25;
const MAX_ALIGNMENT: i64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;

/// Why a head is refused.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    Damaged(String),
    Unsupported(String),
}

impl Fault {
    pub(super) fn damaged(why: impl Display) -> Self {
        Self::Damaged(why.to_string())
    }
}

/// A tensor and where it lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) kind: TensorType,
    /// From the outermost dimension to the innermost, as MLX has it and not as the file has it.
    pub(super) shape: Vec<i32>,
    /// The first byte in the file, and the one after the last.
    pub(super) range: (usize, usize),
}

/// The head of a file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) entries: BTreeMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads and checks the head of a file that is given as a whole.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        check_version(&mut cursor)?;
        let tensor_count = cursor.count(24, "the number of tensors")?;
        let entry_count = cursor.count(13, "the number of metadata entries")?;
        at_most(tensor_count, MAX_TENSORS, "tensors")?;
        at_most(entry_count, MAX_ENTRIES, "metadata entries")?;
        let entries = read_entries(&mut cursor, entry_count)?;
        let alignment = alignment(&entries)?;
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(read_tensor(&mut cursor)?);
        }
        let data_start = cursor.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        place(&mut tensors, alignment, data_start, bytes.len())?;
        Ok(Self { entries, tensors })
    }
}

fn at_most(count: usize, most: usize, what: &str) -> Result<(), Fault> {
    match count <= most {
        true => Ok(()),
        false => Err(Fault::damaged(format!("it has {count} {what}, expected at most {most}"))),
    }
}

/// Reads the magic and the version.
fn check_version(cursor: &mut Cursor) -> Result<(), Fault> {
    let magic: [u8; 4] = cursor.array("the magic")?;
    if magic != MAGIC {
        return Err(Fault::damaged("it does not begin with `GGUF`"));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        // Read from the other end it is a small number.
        version if version > 0xffff && version.swap_bytes() <= 0xffff => {
            Err(Fault::Unsupported(format!("it is big-endian, of version {}", version.swap_bytes())))
        }
        version => Err(Fault::Unsupported(format!("it is GGUF of version {version}"))),
    }
}

fn read_entries(cursor: &mut Cursor, count: usize) -> Result<BTreeMap<String, Value>, Fault> {
    let mut entries = BTreeMap::new();
    let mut elements = MAX_ELEMENTS;
    for _ in 0..count {
        let at = cursor.at();
        let key = cursor.text(MAX_NAME_BYTES, "a metadata key")?;
        let kind = cursor.u32(&format!("the type of `{key}`"))?;
        let value = read_value(cursor, &key, kind, &mut elements)?;
        if entries.insert(key.clone(), value).is_some() {
            return Err(Fault::damaged(format!("`{key}` at byte {at} is in the metadata twice")));
        }
    }
    Ok(entries)
}

/// The numbers of the format for the types of values.
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// One number of the metadata.
enum Number {
    Integer(i64),
    Float32(f32),
    Float64(f64),
}

fn read_number(cursor: &mut Cursor, key: &str, kind: u32) -> Result<Number, Fault> {
    let what = &format!("the value of `{key}`");
    Ok(match kind {
        0 => Number::Integer(i64::from(u8::from_le_bytes(cursor.array(what)?))),
        1 => Number::Integer(i64::from(i8::from_le_bytes(cursor.array(what)?))),
        2 => Number::Integer(i64::from(u16::from_le_bytes(cursor.array(what)?))),
        3 => Number::Integer(i64::from(i16::from_le_bytes(cursor.array(what)?))),
        4 => Number::Integer(i64::from(u32::from_le_bytes(cursor.array(what)?))),
        5 => Number::Integer(i64::from(i32::from_le_bytes(cursor.array(what)?))),
        6 => Number::Float32(f32::from_le_bytes(cursor.array(what)?)),
        10 => {
            let number = cursor.u64(what)?;
            let fits = i64::try_from(number);
            Number::Integer(fits.map_err(|_| Fault::damaged(format!("`{key}` is {number}, beyond 63 bits")))?)
        }
        11 => Number::Integer(i64::from_le_bytes(cursor.array(what)?)),
        12 => Number::Float64(f64::from_le_bytes(cursor.array(what)?)),
        _ => return Err(Fault::damaged(format!("`{key}` is of the type {kind}, which is not known"))),
    })
}

fn read_bool(cursor: &mut Cursor, key: &str) -> Result<bool, Fault> {
    match cursor.array::<1>(&format!("the value of `{key}`"))? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(Fault::damaged(format!("`{key}` is {other}, expected 0 or 1"))),
    }
}

fn read_value(cursor: &mut Cursor, key: &str, kind: u32, elements: &mut usize) -> Result<Value, Fault> {
    Ok(match kind {
        BOOL => Value::Bool(read_bool(cursor, key)?),
        TEXT => Value::Text(cursor.text(usize::MAX, &format!("the value of `{key}`"))?),
        LIST => read_list(cursor, key, elements)?,
        _ => match read_number(cursor, key, kind)? {
            Number::Integer(number) => Value::Integer(number),
            Number::Float64(number) => Value::Float(number),
            // The shortest decimal that means this number: 1e-5 and not 9.999999747378752e-6.
            Number::Float32(number) => Value::Float(number.to_string().parse().unwrap_or_else(|_| number.into())),
        },
    })
}

fn read_list(cursor: &mut Cursor, key: &str, elements: &mut usize) -> Result<Value, Fault> {
    let kind = cursor.u32(&format!("the type of the elements of `{key}`"))?;
    let least = match kind {
        0 | 1 | BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    };
    let count = cursor.count(least, &format!("the number of elements of `{key}`"))?;
    *elements = elements.checked_sub(count).ok_or_else(|| {
        Fault::damaged(format!("the lists of the metadata up to `{key}` have more than {MAX_ELEMENTS} elements"))
    })?;
    match kind {
        LIST => Err(Fault::Unsupported(format!("`{key}` in its metadata is a list of lists"))),
        TEXT => {
            let what = format!("an element of `{key}`");
            (0..count).map(|_| cursor.text(usize::MAX, &what)).collect::<Result<_, _>>().map(Value::Texts)
        }
        BOOL => (0..count).map(|_| read_bool(cursor, key)).collect::<Result<_, _>>().map(Value::Bools),
        6 | 12 => {
            let number = |_| {
                read_number(cursor, key, kind).map(|number| match number {
                    Number::Integer(number) => number as f32,
                    Number::Float32(number) => number,
                    Number::Float64(number) => number as f32,
                })
            };
            (0..count).map(number).collect::<Result<_, _>>().map(Value::Floats)
        }
        _ => {
            let number = |_| match read_number(cursor, key, kind)? {
                Number::Integer(number) => Ok(number),
                _ => Err(Fault::damaged(format!("`{key}` has elements of the type {kind}"))),
            };
            (0..count).map(number).collect::<Result<_, _>>().map(Value::Integers)
        }
    }
}

fn alignment(entries: &BTreeMap<String, Value>) -> Result<usize, Fault> {
    match entries.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(&Value::Integer(alignment @ 1..=MAX_ALIGNMENT)) if alignment & (alignment - 1) == 0 => {
            Ok(alignment as usize)
        }
        Some(_) => Err(Fault::damaged(format!("`{ALIGNMENT_KEY}` is not a power of two up to {MAX_ALIGNMENT}"))),
    }
}

/// Reads what is said of a tensor; its range begins at its offset in the data, and ends where it began.
fn read_tensor(cursor: &mut Cursor) -> Result<TensorInfo, Fault> {
    let name = cursor.text(MAX_NAME_BYTES, "the name of a tensor")?;
    let dimensions = cursor.u32(&format!("the number of dimensions of `{name}`"))?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(Fault::damaged(format!("`{name}` has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64(&format!("the shape of `{name}`"))?;
        match i32::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(Fault::damaged(format!("`{name}` has a dimension of {size}, expected 1 to {}", i32::MAX))),
        }
    }
    let kind = TensorType::of(cursor.u32(&format!("the type of `{name}`"))?, &name)?;
    let row = shape.first().map_or(0, |&row| row as usize);
    if !row.is_multiple_of(kind.block()) {
        let (kind, block) = (kind.name(), kind.block());
        return Err(Fault::damaged(format!("`{name}` has rows of {row} {kind}, expected a multiple of {block}")));
    }
    let offset = cursor.u64(&format!("the offset of `{name}`"))?;
    let offset = usize::try_from(offset)
        .map_err(|_| Fault::damaged(format!("`{name}` lies at {offset}, which is beyond the file")))?;
    // In the file the innermost dimension is the first.
    shape.reverse();
    Ok(TensorInfo { name, kind, shape, range: (offset, offset) })
}

impl TensorInfo {
    /// Its size in bytes, if that is a number.
    fn bytes(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size as usize))?;
        (count / self.kind.block()).checked_mul(self.kind.block_bytes())
    }
}

/// Gives the tensors their ranges in the file of `file_bytes`, and refuses those beyond it, those that overlap and those of one
/// name.
fn place(tensors: &mut [TensorInfo], alignment: usize, data_start: usize, file_bytes: usize) -> Result<(), Fault> {
    for tensor in tensors.iter_mut() {
        let offset = tensor.range.0;
        if !offset.is_multiple_of(alignment) {
            let name = &tensor.name;
            return Err(Fault::damaged(format!("`{name}` lies at {offset}, expected a multiple of {alignment}")));
        }
        let start = data_start.checked_add(offset);
        let end = start.zip(tensor.bytes()).and_then(|(start, bytes)| start.checked_add(bytes));
        match start.zip(end) {
            Some(range) if range.1 <= file_bytes => tensor.range = range,
            _ => {
                let (name, kind, shape) = (&tensor.name, tensor.kind.name(), &tensor.shape);
                return Err(Fault::damaged(format!(
                    "`{name}`, {kind} {shape:?} at {offset}, does not end within the {file_bytes} bytes of the file"
                )));
            }
        }
    }
    let mut by_place: Vec<&TensorInfo> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| tensor.range);
    if let Some([a, b]) = by_place.array_windows().find(|[a, b]| a.range.1 > b.range.0) {
        return Err(Fault::damaged(format!("`{}` and `{}` overlap", a.name, b.name)));
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.array_windows().find(|[a, b]| a == b) {
        Some([name, _]) => Err(Fault::damaged(format!("it has two tensors `{name}`"))),
        None => Ok(()),
    }
}
