//! The generated code of the gRPC services is what their descriptions say. `JITNEY_WRITE=1` writes it anew.

use std::path::Path;
use std::{env, fs};

use prost::Message;

const DESCRIPTIONS: [&str; 4] = [
    "inference.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
];

/// The messages of the older reflection are those of the newer.
const GENERATED: [&str; 4] = [
    "inference.rs",
    "grpc.health.v1.rs",
    "grpc.reflection.v1.rs",
    "descriptors.bin",
];

#[test]
fn the_generated_code_belongs_to_the_descriptions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("../../spec/proto");
    let generated = root.join("src/grpc/generated");
    let out = tempfile::tempdir().unwrap();
    let files = protox::compile(DESCRIPTIONS, [&protos]).unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out.path())
        .compile_fds(files.clone())
        .unwrap();
    let descriptors = out.path().join("descriptors.bin");
    fs::write(&descriptors, files.encode_to_vec()).unwrap();
    for name in GENERATED {
        let (new, kept) = (out.path().join(name), generated.join(name));
        if env::var_os("JITNEY_WRITE").is_some() {
            fs::create_dir_all(&generated).unwrap();
            fs::copy(&new, &kept).unwrap();
        }
        let same = fs::read(&kept).ok() == Some(fs::read(&new).unwrap());
        assert!(
            same,
            "{name} is not what spec/proto says: run this test with JITNEY_WRITE=1"
        );
    }
}
