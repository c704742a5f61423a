//! Running the command to its end.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `jitney` with these arguments and nothing on its standard input.
pub(crate) fn jitney(args: &[&str]) -> Ended {
    jitney_with(args, "")
}

/// Runs `jitney` with this text on its standard input.
pub(crate) fn jitney_with(args: &[&str], stdin: &str) -> Ended {
    let mut child = command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing closes its end, which is no failure here.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    ended(&child.wait_with_output().unwrap())
}

/// The command in the root of the repository, with no settings from the environment, and with the embedded engine: answers of another
/// engine would differ in their last digits.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jitney"));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JITNEY_") {
            command.env_remove(name);
        }
    }
    command.env("JITNEY_ENGINE", "onnx");
    command
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn ended(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
