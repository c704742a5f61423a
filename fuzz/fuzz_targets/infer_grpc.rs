//! Any bytes as a message of `ModelInfer`, to three models.

#![no_main]

mod specs;

use bytes::Bytes;
use jitney_server::grpc;
use jitney_server::protocol::error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let message = Bytes::copy_from_slice(message);
    for spec in specs::all() {
        match grpc::read_infer(message.clone(), &spec) {
            Ok(inputs) => assert_eq!(spec.check(&inputs).map(|_| ()), Ok(())),
            Err(failure) => assert!(error::body(&failure).len() < 1000, "{failure}"),
        }
    }
});
