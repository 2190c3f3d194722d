//! Safetensors that are written in pieces: what was written comes back, with room that is zeros, and damage is seen.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::io::{self, NewFile};
use mlxlm_core::weights::{
    NewTensor, Rows, SafetensorsFile, SafetensorsPlan, SafetensorsWriter, save_safetensors, verify_safetensors,
};
use mlxlm_core::{Array, Dtype, Result};
use proptest::prelude::*;

const SUMS: &str = "sums";

fn tensor(name: &str, array: Array) -> NewTensor {
    NewTensor { name: name.into(), array, rows: None }
}

/// The numbers from `first` on.
fn count(shape: &[i32], first: i32) -> Array {
    let len: i32 = shape.iter().product();
    Array::from_slice(&(first..first + len).collect::<Vec<i32>>(), shape)
}

fn write(path: &Path, tensors: Vec<NewTensor>, piece: usize) -> Result<()> {
    let metadata = BTreeMap::from([("checksums".to_owned(), SUMS.to_owned())]);
    let plan = SafetensorsPlan::new(tensors, SUMS, &metadata)?;
    let file = NewFile::create(path)?;
    file.set_len(plan.len_bytes())?;
    let mut writer = SafetensorsWriter::new(plan, file);
    while !writer.write(piece)? {
        assert!(!path.exists(), "it appears when it is whole");
    }
    writer.publish()
}

fn read(path: &Path, name: &str) -> Array {
    SafetensorsFile::open_checked(path, "checksums").unwrap().array(name).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_comes_back(
        shape in [1..3_i32, 1..3_i32, 1..70_i32, 1..40_i32],
        held in 0..70_i32,
        room in 0..300_i32,
        piece in 1..20_000_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let held = held.min(shape[2]);
        let array = count(&shape, 1);
        let rows = Some(Rows { held, len: held + room });
        let turned = count(&[7, 5], 3).transpose().unwrap();
        let tensors = vec![
            tensor("turned", turned.clone()),
            NewTensor { rows, ..tensor("rows", array.clone()) },
            tensor("half", array.as_dtype(Dtype::Bfloat16).unwrap()),
            tensor("bytes", Array::from_slice(&[1_u8, 2, 3], &[3])),
            tensor("empty", Array::from_slice::<f32>(&[], &[0])),
            tensor("number", Array::from_int(7)),
        ];
        write(&path, tensors, piece).unwrap();
        verify_safetensors(&path, "checksums").unwrap();
        let got = read(&path, "rows");
        prop_assert_eq!(got.shape(), [shape[0], shape[1], held + room, shape[3]]);
        let (got, all) = (got.to_vec_exact::<i32>().unwrap(), array.to_vec_exact::<i32>().unwrap());
        let (run, used) = (((held + room) * shape[3]) as usize, (held * shape[3]) as usize);
        let old = (shape[2] * shape[3]) as usize;
        for i in 0..(shape[0] * shape[1]) as usize {
            prop_assert_eq!(&got[i * run..i * run + used], &all[i * old..i * old + used]);
            prop_assert!(got[i * run + used..(i + 1) * run].iter().all(|&x| x == 0));
        }
        prop_assert_eq!(read(&path, "turned").to_vec_exact::<i32>().unwrap(), turned.contiguous().unwrap().to_vec_exact::<i32>().unwrap());
        prop_assert_eq!(read(&path, "bytes").to_vec_exact::<u8>().unwrap(), [1, 2, 3]);
        prop_assert_eq!(read(&path, "number").try_item_exact::<i32>().unwrap(), 7);
        prop_assert_eq!(read(&path, "empty").size(), 0);
        // To the eyes of another reader it is sound as well.
        let bytes = io::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(tensors.len(), 7);
    }
}

#[test]
fn any_byte_that_changed_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let large = count(&[64, 100], 0);
    write(&path, vec![tensor("large", large), tensor("small", count(&[10], 0))], 4096).unwrap();
    let whole = io::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in (0..300).chain(header - 20..header).chain((header..whole.len()).step_by(97)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 8;
        io::write(&path, &bytes).unwrap();
        let error = verify_safetensors(&path, "checksums").map(drop);
        assert!(error.is_err(), "byte {at}");
        // Large tensors are not looked at when a file is opened.
        let opened = SafetensorsFile::open_checked(&path, "checksums").is_ok();
        assert_eq!(opened, (header + 8 * 3..header + 8 * 3 + 25_600).contains(&at), "byte {at}");
    }
}

#[test]
fn files_without_checksums_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let save = |arrays: &[(String, Array)], metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        save_safetensors(&path, arrays, &metadata).unwrap();
        verify_safetensors(&path, "checksums").unwrap_err().to_string()
    };
    let one = [("a".to_owned(), Array::from_int(1))];
    let error = save(&one, &[]);
    assert!(error.ends_with("its metadata has no `checksums`, the name of its checksums"), "{error}");
    assert!(save(&one, &[("checksums", "b")]).ends_with("it has no checksums `b`"));
    assert!(save(&one, &[("checksums", "a")]).ends_with("its header is not what was written"));
    let two = [("a", 1), ("b", 2)].map(|(name, number)| (name.to_owned(), Array::from_int(number)));
    assert!(save(&two, &[("checksums", "a")]).ends_with("it has 1 checksums, not 2"));
}

#[test]
fn rows_that_are_not_there_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for rows in [Rows { held: 4, len: 9 }, Rows { held: -1, len: 9 }, Rows { held: 3, len: 2 }] {
        let error = write(&path, vec![NewTensor { rows: Some(rows), ..tensor("a", count(&[3, 2], 0)) }], 10);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`a` of the shape [3, 2] cannot be written as Rows"), "{error}");
    }
    let flat = NewTensor { rows: Some(Rows { held: 1, len: 1 }), ..tensor("a", count(&[3], 0)) };
    assert!(write(&path, vec![flat], 10).is_err());
}
