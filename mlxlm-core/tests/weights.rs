//! Hostile and damaged weight files: each is refused with what is wrong, before MLX sees a byte, and nothing panics.
//!
//! The attacks are those that a header permits (sizes, offsets, shapes, types, names) and those that an index does.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::path::Path;

use mlxlm_core::weights::{Checkpoint, SafetensorsFile, Tensors};
use mlxlm_core::{Hint, io};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A safetensors file of a header, as it is, and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// What reading all of a file says, without its path.
fn read(bytes: &[u8]) -> Result<Tensors, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    io::write(&path, bytes).unwrap();
    let read = SafetensorsFile::open(&path).and_then(|file| file.arrays());
    read.map_err(|e| {
        assert!(e.hint().is_some(), "{e} has no hint");
        let message = e.to_string();
        let start = format!("`{}` is not a valid safetensors file: ", path.display());
        message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}")).to_owned()
    })
}

/// A header with one tensor `a`.
fn one(dtype: &str, shape: impl Into<Value>, offsets: [u64; 2]) -> String {
    json!({"a": {"dtype": dtype, "shape": shape.into(), "data_offsets": offsets}}).to_string()
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    assert_eq!(read(bytes).unwrap_err(), expected);
}

#[test]
fn a_sound_file_is_read() {
    let tensors = read(&file(&one("F32", json!([2]), [0, 8]), &[0, 0, 128, 63, 0, 0, 0, 64])).unwrap();
    assert_eq!(tensors["a"].to_vec_exact::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(read(&file("{}", &[])).unwrap().len(), 0);
    let tensors = read(&file(&one("F32", json!([0, 2_000_000_000]), [0, 0]), &[])).unwrap();
    assert_eq!(tensors["a"].shape(), [0, 2_000_000_000]);
}

#[test]
fn what_is_cut_short_is_refused() {
    let whole = file(&one("F32", json!([2]), [0, 8]), &[0; 8]);
    refused(&[], "header too small");
    refused(&whole[..7], "header too small");
    refused(&whole[..8], "invalid header length");
    refused(&whole[..20], "invalid header length");
    refused(&whole[..whole.len() - 1], "incomplete metadata, file not fully covered");
    refused(&[&whole[..], &[0]].concat(), "incomplete metadata, file not fully covered");
}

#[test]
fn a_header_that_lies_is_refused() {
    refused(&u64::MAX.to_le_bytes(), "header too large");
    refused(&[&100_000_001_u64.to_le_bytes()[..], &[b' '; 64]].concat(), "header too large");
    refused(&[&99_999_999_u64.to_le_bytes()[..], &[b' '; 64]].concat(), "invalid header length");
    let check = |header: String, data: &[u8], part: &str| {
        let message = read(&file(&header, data)).unwrap_err();
        assert!(message.contains(part), "{header}: {message}");
    };
    check("nonsense".into(), &[], "invalid JSON in header");
    check("[]".into(), &[], "invalid JSON in header");
    check("{".repeat(100_000), &[], "invalid JSON in header");
    check(String::from_utf8_lossy(&[0xff]).into_owned(), &[], "invalid JSON in header");
    refused(
        &[&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(),
        "invalid UTF-8 in header: invalid utf-8 sequence of 1 bytes from index 0",
    );
    check(one("F32", json!([2]), [0, 4]), &[0; 4], "invalid shape, data type, or offset");
    check(one("F32", json!([1]), [0, 8]), &[0; 8], "invalid shape, data type, or offset");
    check(one("F32", json!([1]), [4, 8]), &[0; 8], "invalid offset for tensor `a`");
    check(one("F32", json!([1]), [8, 4]), &[0; 8], "invalid offset for tensor `a`");
    check(one("F32", json!([1]), [u64::MAX - 3, u64::MAX]), &[0; 8], "invalid offset for tensor `a`");
    check(one("F32", json!([1_u64 << 40]), [0, 1 << 42]), &[0; 8], "file not fully covered");
    check(one("F32", json!([u64::MAX, u64::MAX]), [0, 8]), &[0; 8], "overflow");
    check(one("F32", json!([-1]), [0, 4]), &[0; 4], "invalid JSON in header");
    check(one("F32", json!([1.5]), [0, 4]), &[0; 4], "invalid JSON in header");
    check(one("F31", json!([1]), [0, 4]), &[0; 4], "invalid JSON in header");
    check(one("F8_E4M3FNUZ", json!([1]), [0, 1]), &[0; 1], "for which MLX has no array");
    check(one("F4", json!([2, 1]), [0, 1]), &[0; 1], "`a` has rows of an odd number of 4-bit floats, [2, 1]");
    check(one("U8", json!([0, 1_u64 << 31]), [0, 0]), &[], "the shape of `a`, [0, 2147483648], is beyond 32 bits");
    check(one("U8", json!(vec![1; 17]), [0, 1]), &[0; 1], "`a` has 17 dimensions, expected 16 at most");
    let long = one("U8", json!([1]), [0, 1]).replace("\"a\"", &format!("\"{}\"", "a.".repeat(501)));
    check(long, &[0; 1], "of a tensor has 1002 bytes");
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let header = json!({
            "a": {"dtype": "U8", "shape": [a[1] - a[0]], "data_offsets": a},
            "b": {"dtype": "U8", "shape": [b[1] - b[0]], "data_offsets": b},
        });
        file(&header.to_string(), &[0; 8])
    };
    assert_eq!(read(&two([0, 4], [4, 8])).unwrap().len(), 2);
    for (a, b) in [([0, 8], [0, 8]), ([0, 5], [4, 8]), ([0, 3], [4, 8]), ([0, 8], [2, 4])] {
        let message = read(&two(a, b)).unwrap_err();
        assert!(message.contains("invalid offset for tensor `"), "{a:?} {b:?}: {message}");
    }
    let twice =
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
    read(&file(twice, &[0; 8])).unwrap_err();
    let again = twice.replace("[4,8]", "[0,4]");
    refused(&file(&again, &[0; 4]), "it has two tensors `a`");
}

#[test]
fn odd_header_lengths_are_no_trouble() {
    for spaces in 0..8 {
        let header = one("F32", json!([1]), [0, 4]) + &" ".repeat(spaces);
        let tensors = read(&file(&header, &1.5_f32.to_le_bytes())).unwrap();
        assert_eq!(tensors["a"].to_vec_exact::<f32>().unwrap(), [1.5], "{spaces} spaces");
    }
}

/// Types of one byte come as bytes, and every other type of MLX as itself.
#[test]
fn every_type_has_its_width() {
    for (dtype, bytes) in [("BOOL", 1), ("F8_E4M3", 1), ("I16", 2), ("BF16", 2), ("U32", 4), ("F64", 8), ("C64", 8)] {
        let tensors = read(&file(&one(dtype, json!([1]), [0, bytes]), &vec![0; bytes as usize])).unwrap();
        assert_eq!(tensors["a"].nbytes() as u64, bytes, "{dtype}");
    }
}

proptest! {
    /// Whatever byte of a sound file is changed, the file is either refused or read within its bounds.
    #[test]
    fn a_changed_byte_is_no_trouble(place in 0_usize..86, byte: u8) {
        let mut bytes = file(&one("F32", json!([2]), [0, 8]), &[0; 8]);
        let last = bytes.len() - 1;
        bytes[place.min(last)] = byte;
        if let Ok(tensors) = read(&bytes) {
            for array in tensors.values() {
                array.eval().unwrap();
                prop_assert!(array.nbytes() <= bytes.len());
            }
        }
    }

    #[test]
    fn noise_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(read(&bytes).is_err());
    }
}

/// What waits for ever when it is read, or is no file for another reason, is named instead.
#[test]
fn pipes_and_folders_are_not_read() {
    let index_of = |folder: &Path| index(folder, &json!({"a": "model-1.safetensors"}));
    for with_index in [false, true] {
        let folder = folder(&[("model-2.safetensors", &["b"])]);
        let pipe = folder.path().join("model-1.safetensors");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        if with_index {
            index_of(folder.path());
        }
        assert_eq!(
            open(folder.path()).unwrap_err(),
            "cannot open `model-1.safetensors`: it is a pipe, not a file",
            "{with_index}"
        );
        std::fs::remove_file(&pipe).unwrap();
        std::fs::create_dir(&pipe).unwrap();
        assert!(open(folder.path()).unwrap_err().ends_with("it is a folder, not a file"), "{with_index}");
    }
}

#[test]
fn a_pointer_of_git_lfs_is_named() {
    let folder = folder(&[]);
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9\n", "0".repeat(64));
    io::write(folder.path().join("model.safetensors"), pointer).unwrap();
    assert_eq!(open(folder.path()).unwrap_err(), "`model.safetensors` is a pointer of git-lfs, not the file itself");
}

/// Each file is mapped once and each tensor taken once, over the mapping: nothing is copied, however many shards there are.
#[test]
fn a_hundred_shards_are_mapped_and_not_copied() {
    const BYTES: usize = 1 << 16;
    let folder = tempfile::tempdir().unwrap();
    for shard in 0..100 {
        let header = json!({format!("t{shard}"): {"dtype": "U8", "shape": [BYTES], "data_offsets": [0, BYTES]}});
        let mut header = header.to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        io::write(folder.path().join(format!("model-{shard}.safetensors")), file(&header, &[shard; BYTES])).unwrap();
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((checkpoint.tensors.len(), checkpoint.bytes), (100, 100 * BYTES as u64));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter(|line| line.contains(folder.path().to_str().unwrap())).count();
    if cfg!(target_os = "linux") {
        assert_eq!(mapped, 100);
    }
    for shard in 0..100_u8 {
        let array = &checkpoint.tensors[&format!("t{shard}")];
        assert_eq!(array.to_vec_exact::<u8>().unwrap(), [shard; BYTES]);
    }
}

/// A folder of model files: name and tensors, each one byte.
fn folder(files: &[(&str, &[&str])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, tensors) in files {
        let entry = |i: usize| json!({"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]});
        let header: serde_json::Map<String, Value> =
            tensors.iter().enumerate().map(|(i, tensor)| ((*tensor).to_owned(), entry(i))).collect();
        io::write(folder.path().join(name), file(&Value::Object(header).to_string(), &vec![0; tensors.len()])).unwrap();
    }
    folder
}

/// The tensors of a folder, or what opening it says with the folder left out.
fn open(folder: &Path) -> Result<Vec<String>, String> {
    let opened = Checkpoint::open(folder).map(|checkpoint| checkpoint.tensors.into_keys().collect());
    opened.map_err(|e| {
        assert!(e.hint().is_some() || !matches!(e, mlxlm_core::Error::Weights(_)), "{e} has no hint");
        e.to_string().replace(&format!("{}/", folder.display()), "")
    })
}

fn index(folder: &Path, weight_map: &Value) {
    io::write_json(folder.join("model.safetensors.index.json"), &json!({"weight_map": weight_map})).unwrap();
}

#[test]
fn shards_are_those_of_the_index() {
    let files: [(&str, &[&str]); 3] =
        [("model-1.safetensors", &["a"]), ("model-2.safetensors", &["b"]), ("model-old.safetensors", &["c"])];
    let folder = folder(&files);
    assert_eq!(open(folder.path()).unwrap(), ["a", "b", "c"]);
    index(folder.path(), &json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    assert_eq!(open(folder.path()).unwrap(), ["a", "b"]);
}

#[test]
fn an_index_that_misleads_is_refused() {
    let check = |shard: &str, why: &str| {
        let folder = folder(&[("model-1.safetensors", &["a"])]);
        io::create_dir_all(folder.path().join("sub")).unwrap();
        io::copy(folder.path().join("model-1.safetensors"), folder.path().join("sub/model.safetensors")).unwrap();
        index(folder.path(), &json!({"a": "model-1.safetensors", "b": shard}));
        let expected = format!("`model.safetensors.index.json` names the shard `{shard}`, {why}");
        assert_eq!(open(folder.path()).unwrap_err(), expected);
    };
    check("model-2.safetensors", "which is not in the folder");
    for outside in
        ["../model-1.safetensors", "sub/model.safetensors", "sub/../model-1.safetensors", "/etc/passwd", "..", ""]
    {
        check(outside, "which is not a file name");
    }
    let empty = folder(&[("model-1.safetensors", &["a"])]);
    index(empty.path(), &json!({}));
    assert!(open(empty.path()).unwrap_err().ends_with("has no `model*.safetensors`"));
    index(empty.path(), &json!([1]));
    let message = open(empty.path()).unwrap_err();
    assert!(message.starts_with("`model.safetensors.index.json` is not valid JSON: invalid type"), "{message}");
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let twice = folder(&[("model-1.safetensors", &["a", "b"]), ("model-2.safetensors", &["b"])]);
    assert_eq!(open(twice.path()).unwrap_err(), "`b` is in `model-1.safetensors` and in `model-2.safetensors`");
}

#[test]
fn a_folder_without_weights_is_refused() {
    let message = open(folder(&[("adapters.safetensors", &["a"])]).path()).unwrap_err();
    assert!(message.ends_with("has no `model*.safetensors`"), "{message}");
    let of_pytorch = folder(&[]);
    io::write(of_pytorch.path().join("pytorch_model-00001-of-00002.bin"), b"").unwrap();
    let message = open(of_pytorch.path()).unwrap_err();
    assert!(message.ends_with("has no `model*.safetensors`, only `pytorch_model-00001-of-00002.bin`"), "{message}");
    let message = open(Path::new("no/such/folder")).unwrap_err();
    assert!(message.starts_with("cannot list `no/such/folder`: "), "{message}");
}

#[test]
fn a_stale_index_beside_a_whole_file_is_passed_over() {
    let whole = folder(&[("model.safetensors", &["a"])]);
    index(whole.path(), &json!({"a": "model-00001-of-00002.safetensors"}));
    assert_eq!(open(whole.path()).unwrap(), ["a"]);
}
