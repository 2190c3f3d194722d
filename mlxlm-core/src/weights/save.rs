//! Writing safetensors: one file, or shards of at most five gigabytes with an index, as Python mlx-lm saves a model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use mlx_rs::Array;
use safetensors::tensor::TensorInfo;

use super::shard::file_dtype;
use crate::{Error, Result, io, raw};

/// The largest shard that [`save_model`] writes, in bytes; a larger tensor gets a shard of its own.
pub const MAX_SHARD_BYTES: usize = 5 << 30;

/// Who hears of tensors that are written: how many are, and of how many.
type Watcher = Box<dyn FnMut(usize, usize)>;

/// A watcher, with the tensors that the model in the making has and those that are written.
struct Watched {
    watcher: Watcher,
    done: usize,
    total: usize,
}

thread_local! {
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// Does `work`, and lets `watcher` hear of each tensor of a model that [`save_model`] writes on this thread meanwhile: how many are
/// written, and of how many. Packing and casting happen when a tensor is written, so this is where conversions spend their time.
pub fn watch_saving<T>(watcher: impl FnMut(usize, usize) + 'static, work: impl FnOnce() -> T) -> T {
    WATCHED.set(Some(Watched { watcher: Box::new(watcher), done: 0, total: 0 }));
    let done = work();
    WATCHED.set(None);
    done
}

/// Counts tensors that are to be written, and those that are.
fn report(planned: usize, written: usize) {
    WATCHED.with_borrow_mut(|watched| {
        if let Some(Watched { watcher, done, total }) = watched {
            *total += planned;
            *done += written;
            watcher(*done, *total);
        }
    });
}

/// Writes arrays into one safetensors file, in the order of their names, which appears by rename.
///
/// Each array is evaluated when its turn comes.
pub fn save_safetensors(
    path: impl AsRef<Path>,
    arrays: &[(String, Array)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut sorted: Vec<&(String, Array)> = arrays.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let header = header(path, &sorted, metadata)?;
    let mut failed = None;
    let written = io::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, array) in &sorted {
            match raw::with_bytes(array, |bytes| out.write_all(bytes)) {
                Ok(result) => {
                    result?;
                    report(0, 1);
                }
                Err(exception) => {
                    failed = Some(exception);
                    return Err(std::io::Error::other("the array could not be computed"));
                }
            }
        }
        Ok(())
    });
    failed.map_or(written, |exception| Err(Error::Mlx(exception)))
}

/// The JSON header in the order of names, so long that the data that follows is aligned.
fn header(path: &Path, arrays: &[&(String, Array)], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut start = 0;
    let info = |(name, array): &&(String, Array)| {
        let shape = array.shape().iter().map(|&n| n as usize).collect();
        let data_offsets = (start, start + array.nbytes());
        start = data_offsets.1;
        (name.clone(), TensorInfo { dtype: file_dtype(array.dtype()), shape, data_offsets })
    };
    let infos: Vec<_> = arrays.iter().map(info).collect();
    header_of(path, &infos, metadata, 8)
}

/// The JSON header of these tensors, so long that the data begins at a multiple of `align` bytes in the file.
pub(super) fn header_of(
    path: &Path,
    tensors: &[(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
    align: usize,
) -> Result<Vec<u8>> {
    let json = |source| Error::Json { path: path.to_owned(), source };
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::to_value(metadata).map_err(json)?);
    }
    for (name, info) in tensors {
        entries.insert(name.clone(), serde_json::to_value(info).map_err(json)?);
    }
    let mut header = serde_json::to_vec(&entries).map_err(json)?;
    header.resize((8 + header.len()).next_multiple_of(align) - 8, b' ');
    Ok(header)
}

/// Writes the weights of a model into `folder`: `model.safetensors` or numbered shards, and always
/// `model.safetensors.index.json`.
///
/// `total_parameters` counts the model's weights as they were before any packing.
pub fn save_model(folder: impl AsRef<Path>, arrays: Vec<(String, Array)>, total_parameters: u64) -> Result<()> {
    let folder = folder.as_ref();
    report(arrays.len(), 0);
    let total_bytes: usize = arrays.iter().map(|(_, array)| array.nbytes()).sum();
    let shards = shards(arrays, MAX_SHARD_BYTES);
    let count = shards.len();
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        save_safetensors(folder.join(&file), &shard, &metadata)?;
        weight_map.extend(shard.into_iter().map(|(name, _)| (name, file.clone())));
    }
    let index = serde_json::json!({
        "metadata": {"total_size": total_bytes, "total_parameters": total_parameters},
        "weight_map": weight_map,
    });
    io::write_json(folder.join("model.safetensors.index.json"), &index)
}

/// Splits arrays, in their order, into shards of at most `max_bytes`.
fn shards(arrays: Vec<(String, Array)>, max_bytes: usize) -> Vec<Vec<(String, Array)>> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0;
    for (name, array) in arrays {
        if bytes > 0 && bytes + array.nbytes() > max_bytes {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += array.nbytes();
        if let Some(last) = shards.last_mut() {
            last.push((name, array));
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::SafetensorsFile;

    #[test]
    fn tensors_are_counted_as_they_are_written() {
        use std::rc::Rc;
        let folder = tempfile::tempdir().unwrap();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let watcher = Rc::clone(&heard);
        let save = || save_model(folder.path(), vec![("a".into(), zeros(2)), ("b".into(), zeros(3))], 5);
        watch_saving(move |done, total| watcher.borrow_mut().push((done, total)), save).unwrap();
        save().unwrap();
        assert_eq!(*heard.borrow(), [(0, 2), (1, 2), (2, 2)]);
    }

    fn zeros(n: i32) -> Array {
        Array::from_slice(&vec![0_f32; n as usize], &[n])
    }

    #[test]
    fn what_was_saved_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let matrix = Array::from_slice(&[1_f32, 2., 3., 4., 5., 6.], &[2, 3]);
        let arrays = vec![
            ("transposed".to_owned(), matrix.transpose().unwrap()),
            ("half".to_owned(), matrix.as_dtype(crate::Dtype::Bfloat16).unwrap()),
            ("empty".to_owned(), Array::from_slice::<f32>(&[], &[0])),
            ("scalar".to_owned(), Array::from_int(7)),
        ];
        let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
        save_safetensors(&path, &arrays, &metadata).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.metadata(), metadata);
        assert_eq!(file.names(), ["empty", "half", "scalar", "transposed"]);
        assert_eq!(file.array("scalar").unwrap().try_item_exact::<i32>().unwrap(), 7);
        assert_eq!(file.array("empty").unwrap().shape(), [0]);
        let transposed = file.array("transposed").unwrap();
        assert_eq!(transposed.shape(), [3, 2]);
        assert_eq!(transposed.try_as_slice::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
        let half = file.array("half").unwrap().as_dtype(crate::Dtype::Float32).unwrap();
        assert_eq!(half.try_as_slice::<f32>().unwrap(), [1., 2., 3., 4., 5., 6.]);
    }

    #[test]
    fn the_same_arrays_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let metadata: BTreeMap<String, String> = (0..9).map(|i| (format!("key {i}"), i.to_string())).collect();
        let bytes = |name: &str| {
            let path = folder.path().join(name);
            save_safetensors(&path, &[("b".into(), zeros(3)), ("a".into(), zeros(2))], &metadata).unwrap();
            io::read(path).unwrap()
        };
        assert_eq!(bytes("1"), bytes("2"));
    }

    #[test]
    fn a_loaded_tensor_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_safetensors(&path, &[("a".into(), zeros(1 << 20))], &BTreeMap::new()).unwrap();
        let allocated = || mlx_rs::memory::active_memory().unwrap();
        let before = allocated();
        let array = SafetensorsFile::open(&path).unwrap().array("a").unwrap();
        array.eval().unwrap();
        assert_eq!(array.sum(None).unwrap().try_item_exact::<f32>().unwrap(), 0.0);
        // Other tests allocate at the same time, but not as much as this tensor takes.
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            assert!(allocated() < before + (2 << 20), "{} bytes were allocated", allocated() - before);
        }
    }

    #[test]
    fn shards_hold_at_most_the_limit_and_a_large_tensor_alone() {
        let arrays = [10, 10, 100, 10].iter().enumerate().map(|(i, &n)| (i.to_string(), zeros(n))).collect();
        let sizes: Vec<Vec<usize>> =
            shards(arrays, 80).iter().map(|shard| shard.iter().map(|(_, a)| a.size()).collect()).collect();
        assert_eq!(sizes, [vec![10, 10], vec![100], vec![10]]);
    }
}
