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

/// A file whose weights lie in another one, as it says.
fn beside(location: &str) -> Vec<u8> {
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    let tensor = [&[8, 1, 16, 1][..], &field(13, &entry), &[14 << 3, 1]].concat();
    file(&field(5, &tensor))
}

#[cfg(unix)]
#[test]
fn weights_behind_links_are_not_read() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = elsewhere.path().join("secret");
    std::fs::write(&secret, [0; 64]).unwrap();
    let here = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink(&secret, here("link.data")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", here("device.data")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), here("folder")).unwrap();
    std::fs::hard_link(&secret, here("hard.data")).unwrap();
    std::fs::write(here("own.data"), [0; 64]).unwrap();
    let table = [
        ("link.data", "is a link to elsewhere"),
        ("folder/secret", "is a link to elsewhere"),
        ("device.data", "is a pipe or device"),
        ("folder", "is a folder"),
        ("hard.data", "is a hard link"),
        ("../x", "must lie in its own folder"),
        ("/dev/zero", "must lie in its own folder"),
    ];
    for (location, expected) in table {
        let error = load(folder.path(), &beside(location)).unwrap();
        assert!(error.contains(expected), "{location}: {error}");
    }
    // This graph has no inputs and outputs, and is refused for that.
    let error = load(folder.path(), &beside("own.data")).unwrap();
    assert!(!error.contains("weights"), "{error}");
}

/// Download caches keep files under other names in one folder, and links to them in another.
#[cfg(unix)]
#[test]
fn weights_beside_a_linked_model_are_its_own() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshot"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir(&snapshot).unwrap();
    std::fs::write(blobs.join("1"), beside("w.data")).unwrap();
    std::fs::write(blobs.join("2"), [0; 64]).unwrap();
    std::os::unix::fs::symlink("../blobs/1", snapshot.join("m.onnx")).unwrap();
    std::os::unix::fs::symlink("../blobs/2", snapshot.join("w.data")).unwrap();
    let refused = onnx::load(&snapshot.join("m.onnx"), &LoadOptions::default());
    let error = refused.err().unwrap().to_string();
    assert!(!error.contains("weights"), "{error}");
}

#[cfg(unix)]
#[test]
fn devices_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.onnx");
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    let error = onnx::load(&path, &LoadOptions::default()).err().unwrap();
    assert!(
        error.to_string().contains("got a pipe or device"),
        "{error}"
    );
}
