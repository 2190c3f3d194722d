//! What is damaged or not read here is refused, with the file, what is wrong and where, and a hint.

use mlxlm_core::{Hint, io};
use proptest::prelude::*;

use super::builder::{Builder, list, read_all, text, texts};

/// What reading all of a file says, without its path.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    io::write(&path, bytes).unwrap();
    let error = read_all(&path).map(drop).unwrap_err();
    assert!(error.hint().is_some(), "{error} has no hint");
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    message.replace(&format!("`{}`", path.display()), "FILE")
}

#[track_caller]
fn refused(builder: &Builder, expected: &str) {
    assert_eq!(refusal(&builder.bytes()), expected);
}

#[track_caller]
fn damaged(builder: &Builder, expected: &str) {
    refused(builder, &format!("FILE is not a valid GGUF file: {expected}"));
}

#[test]
fn other_files_and_versions_are_refused_by_name() {
    assert_eq!(refusal(b"GGML and more"), "FILE is not a valid GGUF file: it does not begin with `GGUF`");
    for version in [1, 4] {
        let expected = format!("FILE cannot be read: it is GGUF of version {version}");
        refused(&Builder { version, ..Builder::small() }, &expected);
    }
    let big = Builder { version: 3_u32.swap_bytes(), ..Builder::small() };
    refused(&big, "FILE cannot be read: it is big-endian, of version 3");
    let of_type = |kind| Builder::new().tensor("a", &[256], kind, &[0; 512]);
    refused(&of_type(9), "FILE cannot be read: `a` is of the type Q8_1");
    refused(&of_type(20), "FILE cannot be read: `a` is of the type IQ4_NL");
    refused(&of_type(28), "FILE cannot be read: `a` is of the type F64");
    refused(&of_type(77), "FILE cannot be read: `a` is of the type 77, which is not known");
    let lists = Builder::new().entry("a", 9, &list(9, 1, &list(4, 0, &[])));
    refused(&lists, "FILE cannot be read: `a` in its metadata is a list of lists");
}

#[test]
fn counts_are_believed_where_there_is_room_for_them() {
    let whole = Builder::small().bytes();
    let with = |at: usize, number: u64| [&whole[..at], &number.to_le_bytes(), &whole[at + 8..]].concat();
    let message = refusal(&with(8, u64::MAX));
    assert!(
        message.contains("the number of tensors at byte 8 is 18446744073709551615, and there is room for"),
        "{message}"
    );
    let message = refusal(&with(16, 1 << 60));
    assert!(message.contains("the number of metadata entries at byte 16 is"), "{message}");
    let message = refusal(&with(24, u64::MAX - 3));
    assert!(message.contains("the length of a metadata key at byte 24 is 18446744073709551612"), "{message}");
    let long = Builder::new().entry("a", 9, &list(4, 1 << 40, &[]));
    damaged(&long, "the number of elements of `a` at byte 41 is 1099511627776, and there is room for 3");
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let whole = Builder::small().bytes();
    for length in 1..whole.len() - 14 {
        assert!(refusal(&whole[..length]).starts_with("FILE is not a valid GGUF file: "), "{length}");
    }
}

#[test]
fn nonsense_in_the_metadata_is_named() {
    let with = |kind, value: &[u8]| Builder::small().entry("x", kind, value);
    damaged(&with(7, &[2]), "`x` is 2, expected 0 or 1");
    damaged(&with(13, &[0]), "`x` is of the type 13, which is not known");
    damaged(&with(10, &u64::MAX.to_le_bytes()), "`x` is 18446744073709551615, beyond 63 bits");
    let twice = Builder::small().entry("llama.block_count", 4, &[0; 4]);
    assert!(refusal(&twice.bytes()).ends_with("is in the metadata twice"));
    let broken = with(8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert!(refusal(&broken.bytes()).contains("the value of `x` at byte"));
    for alignment in [0_u32, 3, 1 << 30] {
        let with = Builder::small().entry("general.alignment", 4, &alignment.to_le_bytes());
        damaged(&with, "`general.alignment` is not a power of two up to 1048576");
    }
}

#[test]
fn tensors_lie_within_the_file_and_apart() {
    let change = |change: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::small();
        change(&mut builder);
        builder
    };
    let wide = change(&|b| b.tensors[0].dimensions = vec![1; 5]);
    damaged(&wide, "`a` has 5 dimensions, expected 1 to 4");
    let none = change(&|b| b.tensors[0].dimensions[1] = 0);
    damaged(&none, "`a` has a dimension of 0, expected 1 to 2147483647");
    let large = change(&|b| b.tensors[0].dimensions[1] = 1 << 31);
    damaged(&large, "`a` has a dimension of 2147483648, expected 1 to 2147483647");
    let product = change(&|b| b.tensors[0].dimensions = vec![1 << 30; 4]);
    assert!(refusal(&product.bytes()).contains("does not end within the"));
    let rows = change(&|b| b.tensors[1].dimensions[0] = 31);
    damaged(&rows, "`b` has rows of 31 Q4_0, expected a multiple of 32");
    let odd = change(&|b| b.tensors[1].offset = 33);
    damaged(&odd, "`b` lies at 33, expected a multiple of 32");
    let beyond = change(&|b| b.tensors[1].offset = u64::MAX - 31);
    assert!(refusal(&beyond.bytes()).contains("`b`, Q4_0 [1, 32] at 18446744073709551584, does not end within the"));
    damaged(&change(&|b| b.tensors[1].offset = 0), "`a` and `b` overlap");
    damaged(&change(&|b| b.tensors[1].name = "a".into()), "it has two tensors `a`");
}

#[test]
fn the_parts_of_a_split_file_belong_together() {
    let part = |number: u16, count: u16| {
        let name = format!("t{number}");
        Builder::new()
            .entry("split.no", 2, &number.to_le_bytes())
            .entry("split.count", 2, &count.to_le_bytes())
            .entry("split.tensors.count", 5, &i32::from(count).to_le_bytes())
            .tensor(&name, &[4], 0, &[0; 16])
    };
    let folder = tempfile::tempdir().unwrap();
    let first = part(0, 2).write(folder.path(), "m-00001-of-00002.gguf");
    let message_of = |path| read_all(path).map(drop).unwrap_err().to_string();
    assert!(message_of(&first).ends_with("m-00002-of-00002.gguf` is not there"), "{}", message_of(&first));
    let second = part(1, 2).write(folder.path(), "m-00002-of-00002.gguf");
    assert_eq!(read_all(&first).unwrap().names().collect::<Vec<_>>(), ["t0", "t1"]);
    assert!(message_of(&second).ends_with("m-00002-of-00002.gguf` is part 2 of 2"), "{}", message_of(&second));
    part(5, 2).write(folder.path(), "m-00002-of-00002.gguf");
    assert!(message_of(&first).ends_with("is not part 2 of 2, as its name says"), "{}", message_of(&first));
    let renamed = part(0, 2).write(folder.path(), "m.gguf");
    assert!(
        message_of(&renamed).ends_with("its name does not end in `-00001-of-00002.gguf`"),
        "{}",
        message_of(&renamed)
    );
    part(1, 2).tensor("t0", &[4], 0, &[0; 16]).write(folder.path(), "m-00002-of-00002.gguf");
    assert!(message_of(&first).starts_with("`t0` is in "), "{}", message_of(&first));
}

#[test]
fn strings_may_be_empty_and_long() {
    let long = "x".repeat(100_000);
    let builder = Builder::small().entry("long", 8, &text(&long)).entry("none", 9, &texts(&["", ""]));
    let folder = tempfile::tempdir().unwrap();
    let file = read_all(&builder.write(folder.path(), "a.gguf")).unwrap();
    assert_eq!(file.metadata().text("long").unwrap(), Some(long.as_str()));
    assert_eq!(file.metadata().texts("none").unwrap(), Some(&[String::new(), String::new()][..]));
    damaged(&Builder::new().entry(&long, 7, &[1]), "a metadata key at byte 24 has 100000 bytes, expected at most 1024");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Reading ends in a file or in an error, whatever the bytes; a panic, or an allocation of a size that the bytes only claim,
    /// would end this test.
    #[test]
    fn any_bytes_are_read_or_refused(changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..6), cut in 0_usize..600) {
        let mut bytes = Builder::small().bytes();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        bytes.truncate(cut.max(8));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = read_all(&path) {
            prop_assert!(error.to_string().starts_with('`'), "{error}");
        }
    }
}
