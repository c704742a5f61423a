//! Damaged files: an error or a model, never a crash. Every test runs in a process of its own, so an abort is seen.

use std::path::Path;

use jitney_engine::{LoadOptions, onnx};

use crate::support::model_path;

/// Loads the bytes as a file; the error message, if any.
fn load(folder: &Path, bytes: &[u8]) -> Option<String> {
    let path = folder.join("damaged.onnx");
    std::fs::write(&path, bytes).unwrap();
    let error = onnx::load(&path, &LoadOptions::default())
        .err()?
        .to_string();
    assert!(error.contains("damaged.onnx"), "{error}");
    Some(error)
}

#[test]
fn flipped_bits_and_missing_ends_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "convolution.onnx",
        "integers.onnx",
        "dynamic_quantization_in_branch.onnx",
    ] {
        let whole = std::fs::read(model_path(name)).unwrap();
        for step in 0..200_usize {
            let bit = step * 7919 % (whole.len() * 8);
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            load(folder.path(), &bytes);
        }
        for part in 0..16 {
            let error = load(folder.path(), &whole[..whole.len() * part / 16]);
            assert!(error.is_some(), "{name} with {part} of 16 parts was loaded");
        }
    }
}

#[test]
fn a_large_model_survives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model_path("ocr_cls.onnx")).unwrap();
    for step in 0..48_usize {
        let mut bytes = whole.clone();
        let bit = step * 104_729 % (whole.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        load(folder.path(), &bytes);
        load(folder.path(), &whole[..step * whole.len() / 48]).unwrap();
    }
}

/// A field of a message: its number and its contents with their length.
fn field(number: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = contents.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, contents].concat()
}

/// A file with this graph.
fn file(graph: &[u8]) -> Vec<u8> {
    [&[8, 8][..], &field(7, graph)].concat()
}

#[test]
fn graphs_within_graphs_within_graphs_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = Vec::new();
    for _ in 0..20_000 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    let error = load(folder.path(), &file(&graph)).unwrap();
    assert!(error.contains("nests too deeply"), "{error}");
}

#[test]
fn types_within_types_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut kind = Vec::new();
    for _ in 0..20_000 {
        kind = field(4, &field(1, &kind));
    }
    let error = load(folder.path(), &file(&field(13, &field(2, &kind)))).unwrap();
    assert!(error.contains("nests too deeply"), "{error}");
}

#[test]
fn absurd_sizes_reserve_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    // A graph, and a constant's data, that claim to be four terabytes long.
    for start in [&[8_u8, 8, 0x3a][..], &[8, 8, 0x3a, 20, 0x2a, 18, 0x4a]] {
        let error = load(folder.path(), &[start, &huge, &[0; 40]].concat()).unwrap();
        assert!(error.contains("cut off or damaged"), "{error}");
    }
    // A constant with two dimensions whose product is 2^64.
    let dims = field(
        1,
        &[0x80, 0x80, 0x80, 0x80, 0x10, 0x80, 0x80, 0x80, 0x80, 0x10],
    );
    let error = load(folder.path(), &file(&field(5, &dims))).unwrap();
    assert!(error.contains("impossible shape"), "{error}");
}

#[test]
fn what_is_no_model_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let table: [&[u8]; 5] = [b"", b"\n", b"<html></html>", b"PK\x03\x04", &[0xff; 64]];
    for bytes in table {
        let error = load(folder.path(), bytes).unwrap();
        assert!(error.contains("not a whole ONNX file"), "{error}");
    }
    let missing = onnx::load(&folder.path().join("none.onnx"), &LoadOptions::default());
    assert!(missing.err().unwrap().to_string().contains("none.onnx"));
    let is_folder = onnx::load(folder.path(), &LoadOptions::default());
    assert!(
        is_folder
            .err()
            .unwrap()
            .to_string()
            .contains("expected a file")
    );
}
