//! The steps of `cargo xtask test`, in their order: the quickest to fail first.

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::pythons;
use crate::server;
use crate::setup::{self, Need};
use crate::shell;
use crate::tidy;
use crate::workspace::Workspace;

/// One thing that is checked.
struct Step {
    name: &'static str,
    about: &'static str,
    needs: &'static [Need],
    run: fn(&Workspace) -> Outcome,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "the Rust sources are formatted",
        needs: &[],
        run: |workspace| shell::run(&mut workspace.cargo(&["fmt", "--all", "--check"])),
    },
    Step {
        name: "python",
        about: "the Python sources are formatted, linted and type-checked",
        needs: &[Need::Venv],
        run: python,
    },
    Step {
        name: "lint",
        about: "clippy, with warnings as errors",
        needs: &[],
        run: lint,
    },
    Step {
        name: "docs",
        about: "the documentation of the crates, with warnings as errors",
        needs: &[],
        run: |workspace| {
            let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
            shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
        },
    },
    Step {
        name: "tests",
        about: "unit and integration tests of every crate",
        needs: &[Need::Venv, Need::Pythons, Need::Models, Need::Nextest],
        run: tests,
    },
    Step {
        name: "doctests",
        about: "the examples in the documentation",
        needs: &[],
        run: |workspace| {
            shell::run(&mut workspace.cargo(&["test", "--workspace", "--doc", "--quiet"]))
        },
    },
    Step {
        name: "interleavings",
        about: "the concurrent core under a scheduler that explores its interleavings",
        needs: &[Need::Nextest],
        run: |workspace| {
            let features = ["--features", "model-check"];
            let scope = ["--package", "jitney", "--lib", "interleavings"];
            shell::run(test_command(workspace).args(features).args(scope))
        },
    },
    Step {
        name: "records",
        about: "the example on databases: format, clippy, and its tests on SQLite and PostgreSQL",
        needs: &[Need::Nextest, Need::Postgres],
        run: records,
    },
    Step {
        name: "tidy",
        about: "imports between modules, links, dependencies, generated tables",
        needs: &[],
        run: tidy::check,
    },
    Step {
        name: "licences",
        about: "licences, bans and sources of the dependencies (where cargo-deny is installed)",
        needs: &[],
        run: licences,
    },
    Step {
        name: "digits",
        about: "the accuracy of the digits example over the wire, from ONNX and from Python",
        needs: &[Need::Venv, Need::Jitney],
        run: digits,
    },
    Step {
        name: "filetype",
        about: "the file-type example over the wire, on files whose types are known",
        needs: &[Need::Venv, Need::Jitney],
        run: filetype,
    },
    Step {
        name: "from-fastapi",
        about: "the same answers before and after moving from FastAPI",
        needs: &[Need::Venv, Need::Jitney],
        run: from_fastapi,
    },
    Step {
        name: "stream",
        about: "the results of the streaming example as they come: as events, and on a WebSocket",
        needs: &[Need::Venv, Need::Jitney],
        run: streaming,
    },
    Step {
        name: "guide",
        about: "the commands in the guides print what the guides say",
        needs: &[Need::Venv, Need::Jitney],
        run: guide,
    },
    Step {
        name: "hostile",
        about: "what a hostile client or model file can do to the built server, from the outside",
        needs: &[Need::Jitney],
        run: hostile,
    },
    Step {
        name: "faults",
        about: "what faults of Python models and their processes cost, with real signals on the built server",
        needs: &[Need::Venv, Need::Jitney],
        run: faults,
    },
    Step {
        name: "clients",
        about: "the public clients of the protocols against the built server, unchanged",
        needs: &[Need::Clients, Need::Jitney],
        run: clients,
    },
    Step {
        name: "page",
        about: "the server's page in a headless browser",
        needs: &[Need::Venv, Need::Browser, Need::Jitney],
        run: page,
    },
];

/// Prints what there is to run.
pub(crate) fn list() -> Outcome {
    for step in STEPS {
        println!("{:<14} {}", step.name, step.about);
    }
    Ok(())
}

/// Runs the named steps, or all when none is named, and stops at the first that fails.
pub(crate) fn run(workspace: &Workspace, names: &[&str]) -> Outcome {
    let steps = select(names)?;
    let start = Instant::now();
    let mut provided = Vec::new();
    let mut times = Vec::new();
    for step in &steps {
        let begun = Instant::now();
        println!("\n=== {}: {}", step.name, step.about);
        let outcome = provide(workspace, step, &mut provided).and_then(|()| (step.run)(workspace));
        times.push((step.name, begun.elapsed()));
        if let Err(error) = outcome {
            report(&times, start.elapsed());
            println!("steps: {} passed, 1 failed", times.len() - 1);
            return Err(format!(
                "step `{0}` failed: {error}\nrepeat it with: cargo xtask test --step {0}",
                step.name
            ));
        }
    }
    report(&times, start.elapsed());
    println!("steps: {} passed, 0 failed", times.len());
    Ok(())
}

fn select(names: &[&str]) -> Outcome<Vec<&'static Step>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        return Err(format!(
            "there is no step `{unknown}`; the steps are: {}",
            known.join(", ")
        ));
    }
    let wanted = |step: &&Step| names.is_empty() || names.contains(&step.name);
    Ok(STEPS.iter().filter(wanted).collect())
}

fn provide(workspace: &Workspace, step: &Step, provided: &mut Vec<Need>) -> Outcome {
    for need in step.needs {
        if !provided.contains(need) {
            need.provide(workspace)?;
            provided.push(*need);
        }
    }
    Ok(())
}

fn report(times: &[(&str, Duration)], total: Duration) {
    println!();
    for (name, took) in times {
        println!("{name:<14} {:>7.1} s", took.as_secs_f64());
    }
    println!("{:<14} {:>7.1} s", "total", total.as_secs_f64());
}

fn python(workspace: &Workspace) -> Outcome {
    shell::run(workspace.command("ruff").args(["format", "--check", "."]))?;
    shell::run(workspace.command("ruff").args(["check", "."]))?;
    shell::run(
        workspace
            .command("basedpyright")
            .args(["--level", "warning"]),
    )
}

/// Everything at once; then the crate `jitney` as it is model-checked, and as those see it who take only its default features.
fn lint(workspace: &Workspace) -> Outcome {
    let everything: &[&str] = &["--workspace", "--all-targets"];
    let checked = &["--package", "jitney", "--all-targets", "--all-features"];
    let bare = &["--package", "jitney"];
    [everything, checked, bare]
        .into_iter()
        .try_for_each(|scope| clippy(workspace, scope))
}

fn clippy(workspace: &Workspace, scope: &[&str]) -> Outcome {
    let mut clippy = workspace.cargo(&["clippy", "--quiet"]);
    shell::run(clippy.args(scope).args(["--", "-D", "warnings"]))
}

/// A workspace of its own, which the checks of this one do not reach.
fn records(workspace: &Workspace) -> Outcome {
    let there = |command: &mut Command| {
        command.args(["--manifest-path", "examples/records/Cargo.toml"]);
        command.env("CARGO_TARGET_DIR", workspace.target().join("records"));
    };
    let mut format = workspace.cargo(&["fmt", "--check"]);
    let mut clippy = workspace.cargo(&["clippy", "--quiet", "--all-targets"]);
    let mut tests = test_command(workspace);
    for command in [&mut format, &mut clippy, &mut tests] {
        there(command);
    }
    shell::run(&mut format)?;
    shell::run(clippy.args(["--", "-D", "warnings"]))?;
    shell::run(&mut tests)
}

/// Tests find the models by `JITNEY_TEST_MODELS`, the interpreters by `JITNEY_TEST_PYTHONS`, and ONNX Runtime by the active Python
/// environment.
fn tests(workspace: &Workspace) -> Outcome {
    let mut command = test_command(workspace);
    command.env("JITNEY_TEST_MODELS", workspace.models());
    if let Ok(pythons) = env::join_paths(pythons::find(workspace)) {
        command.env("JITNEY_TEST_PYTHONS", pythons);
    }
    shell::run(command.args(setup::ALL_TESTS))
}

fn test_command(workspace: &Workspace) -> Command {
    let mut command = if setup::has_nextest(workspace) {
        let mut nextest = workspace.cargo(&["nextest", "run", "--profile", profile()]);
        nextest.args(["--config-file", ".config/nextest.toml"]);
        nextest
    } else {
        workspace.cargo(&["test"])
    };
    if let Ok(path) = env::join_paths(tool_paths(workspace, &command)) {
        command.env("PATH", path);
    }
    command
}

/// The search path of the command with the folder of the tools that this program installed.
fn tool_paths(workspace: &Workspace, command: &Command) -> Vec<std::path::PathBuf> {
    let own = command.get_envs().find(|(name, _)| *name == "PATH");
    let path = own
        .and_then(|(_, value)| value.map(ToOwned::to_owned))
        .or_else(|| env::var_os("PATH"));
    let tools = setup::tools(workspace).join("bin");
    env::split_paths(&path.unwrap_or_default())
        .chain([tools])
        .collect()
}

fn profile() -> &'static str {
    if env::var_os("CI").is_some() {
        "ci"
    } else {
        "default"
    }
}

/// Building cargo-deny takes minutes, so only those who have it run it.
fn licences(workspace: &Workspace) -> Outcome {
    if !shell::answers("cargo-deny") {
        println!("cargo-deny is not installed: nothing was checked");
        return Ok(());
    }
    shell::run(&mut workspace.cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]))
}

fn digits(workspace: &Workspace) -> Outcome {
    const SCRIPT: &str = "examples/digits/client.py";
    const SOURCES: [&str; 2] = ["examples/digits", "digits=examples/digits/model.py:Digits"];
    SOURCES.into_iter().try_for_each(|source| {
        server::with(workspace, source, |url| {
            python_script(workspace, &[SCRIPT, url, "--check"])
        })
    })
}

fn filetype(workspace: &Workspace) -> Outcome {
    const SCRIPT: &str = "examples/filetype/client.py";
    let source = "filetype=examples/filetype/model.py:FileType";
    server::with(workspace, source, |url| {
        python_script(workspace, &[SCRIPT, "--check", "--url", url])
    })
}

fn from_fastapi(workspace: &Workspace) -> Outcome {
    const SCRIPT: &str = "examples/from_fastapi/check.py";
    let source = "flowers=examples/from_fastapi/after.py:Flowers";
    server::with(workspace, source, |url| {
        python_script(workspace, &[SCRIPT, url])
    })
}

fn streaming(workspace: &Workspace) -> Outcome {
    let source = "words=examples/stream/model.py:Words";
    server::with(workspace, source, |url| {
        python_script(
            workspace,
            &["examples/stream/client.py", "--check", "--url", url],
        )?;
        python_script(workspace, &["examples/stream/chat.py", "--url", url])
    })
}

fn guide(workspace: &Workspace) -> Outcome {
    let mut test = workspace.command(workspace.python());
    test.args(["tests/guide/test_guide.py", "docs/guide/python-models.md"]);
    test.env("JITNEY_BIN", workspace.jitney());
    shell::run(&mut test)
}

fn python_script(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    shell::run(workspace.command(workspace.python()).args(arguments))
}

fn hostile(workspace: &Workspace) -> Outcome {
    let mut test = workspace.command("python3");
    test.arg("tests/hostile/test_hostile.py");
    test.env("JITNEY_BIN", workspace.jitney());
    shell::run(&mut test)
}

fn faults(workspace: &Workspace) -> Outcome {
    let mut test = workspace.command(workspace.python());
    test.arg("tests/faults/test_faults.py");
    test.env("JITNEY_BIN", workspace.jitney());
    shell::run(&mut test)
}

/// The clients find the programs among them by `JITNEY_CLIENTS`. One of them is a suite of conformance tests that wants an echo, which is an
/// example; that of the whole workspace has the features that everything else is built with.
fn clients(workspace: &Workspace) -> Outcome {
    const ECHO: &str = "websocket_echo";
    shell::run(&mut workspace.cargo(&["build", "--quiet", "--workspace", "--example", ECHO]))?;
    let mut test = workspace.command(workspace.clients_python());
    test.arg("tests/clients/test_clients.py");
    test.env("JITNEY_BIN", workspace.jitney());
    test.env("JITNEY_CLIENTS", workspace.clients().join("tools"));
    let echo = workspace.target().join("debug/examples").join(ECHO);
    test.env("JITNEY_WEBSOCKET_ECHO", echo);
    shell::run(&mut test)
}

/// The pictures it takes are left in `target/screenshots`, for a person to look at.
fn page(workspace: &Workspace) -> Outcome {
    let mut test = workspace.command(workspace.python());
    test.arg("tests/page/test_page.py");
    test.env("JITNEY_BIN", workspace.jitney());
    test.env("SCREENSHOTS", workspace.target().join("screenshots"));
    shell::run(&mut test)
}
