//! Request bodies, the same for every system.

use std::fmt::Write;

/// `n` numbers in `[0, 1)` of four digits, the same in every run.
pub(crate) fn numbers(n: usize) -> String {
    let mut state = 7u64;
    let mut text = String::with_capacity(n * 7);
    for i in 0..n {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if i > 0 {
            text.push(',');
        }
        write!(text, "0.{:04}", (state >> 33) % 10_000).ok();
    }
    text
}

/// An Open Inference Protocol request with one row of FP32.
pub(crate) fn infer(input: &str, row: &[usize]) -> String {
    let shape: Vec<String> = std::iter::once(1)
        .chain(row.iter().copied())
        .map(|n| n.to_string())
        .collect();
    let data = numbers(row.iter().product());
    format!(
        r#"{{"inputs":[{{"name":"{input}","shape":[{}],"datatype":"FP32","data":[{data}]}}]}}"#,
        shape.join(",")
    )
}

/// The whole HTTP request.
pub(crate) fn post(path: &str, body: &str, headers: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}
