//! A `jitney serve` for the length of one check.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Outcome;
use crate::shell;
use crate::workspace::Workspace;

/// Serves a source on a free port, gives the server's URL to `check`, and expects a clean end.
pub(crate) fn with(
    workspace: &Workspace,
    source: &str,
    check: impl FnOnce(&str) -> Outcome,
) -> Outcome {
    let mut server = start(workspace, source)?;
    let checked = ready_url(&mut server).and_then(|url| check(&url));
    let stopped = stop(server);
    checked.and(stopped)
}

fn start(workspace: &Workspace, source: &str) -> Outcome<Child> {
    workspace
        .command(workspace.jitney())
        .args(["serve", source, "--http", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not start the server: {error}"))
}

/// Reads the line `jitney ready http=127.0.0.1:40123 models=1 in=0.02s`.
fn ready_url(server: &mut Child) -> Outcome<String> {
    let stdout = server.stdout.as_mut().ok_or("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .map_err(|error| format!("could not read the ready line: {error}"))?;
    let address = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http="));
    match address {
        Some(address) => Ok(format!("http://{address}")),
        None => Err(format!(
            "expected a ready line with http=ADDRESS, got {line:?}"
        )),
    }
}

fn stop(mut server: Child) -> Outcome {
    let terminated = shell::output(
        Command::new("kill")
            .arg("-TERM")
            .arg(server.id().to_string()),
    );
    if terminated.is_err() {
        let _ = server.kill();
    }
    let status = server
        .wait()
        .map_err(|error| format!("could not wait for the server: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "expected the server to drain and end with 0 on SIGTERM, but it ended with {status}"
        ))
    }
}
