//! What the steps need that a fresh machine does not have. Everything lands in the target folder, except Debian's packages.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::pythons;
use crate::shell;
use crate::workspace::Workspace;

/// Something a step needs before it can run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The Python environment with the pinned packages.
    Venv,
    /// The public clients of the protocols, in a Python environment of their own and beside it.
    Clients,
    /// The other Pythons of this machine, with numpy.
    Pythons,
    /// The models that tests load beside those committed.
    Models,
    /// A PostgreSQL whose server tests start by themselves.
    Postgres,
    /// A headless browser and its driver.
    Browser,
    /// `cargo nextest`.
    Nextest,
    /// The `jitney` command, built as the tests build it.
    Jitney,
}

impl Need {
    /// Fetches or builds it, unless it is there.
    pub(crate) fn provide(self, workspace: &Workspace) -> Outcome {
        match self {
            Need::Venv => venv(workspace),
            Need::Clients => clients(workspace),
            Need::Pythons => pythons::provide(workspace),
            Need::Models => models(workspace),
            Need::Postgres => postgres(),
            Need::Browser => browser(),
            Need::Nextest => nextest(workspace),
            Need::Jitney => jitney(workspace),
        }
    }
}

/// Whether `cargo nextest` can be used; else the steps use `cargo test`.
pub(crate) fn has_nextest(workspace: &Workspace) -> bool {
    shell::answers(nextest_path(workspace)) || shell::answers("cargo-nextest")
}

/// Where this program installs `cargo-nextest` when the machine has none.
pub(crate) fn tools(workspace: &Workspace) -> PathBuf {
    workspace.target().join("tools")
}

const NEXTEST_VERSION: &str = "0.9.143";

/// The variable that makes a missing PostgreSQL a failure, here and in the tests.
const REQUIRE_POSTGRES: &str = "JITNEY_REQUIRE_POSTGRES";

fn nextest_path(workspace: &Workspace) -> PathBuf {
    tools(workspace).join("bin/cargo-nextest")
}

fn nextest(workspace: &Workspace) -> Outcome {
    if has_nextest(workspace) {
        return Ok(());
    }
    let root = tools(workspace);
    let version = format!("cargo-nextest@{NEXTEST_VERSION}");
    let mut install = workspace.cargo(&["install", "--locked", &version, "--root"]);
    if let Err(error) = shell::run(install.arg(root)) {
        println!("{error}: the tests run under `cargo test` instead, without time limits");
    }
    Ok(())
}

fn venv(workspace: &Workspace) -> Outcome {
    let wanted = requirements(workspace)?;
    install(
        workspace,
        &workspace.venv(),
        "xtask/requirements.txt",
        &wanted,
    )
}

fn clients(workspace: &Workspace) -> Outcome {
    const REQUIREMENTS: &str = "tests/clients/requirements.txt";
    const SCRIPT: &str = "tests/clients/fetch.py";
    let wanted = read(&workspace.path(REQUIREMENTS))?;
    install(
        workspace,
        &workspace.clients().join("venv"),
        REQUIREMENTS,
        &wanted,
    )?;
    let tools = workspace.clients().join("tools");
    let script = read(&workspace.path(SCRIPT))?;
    once(&tools.join("fetched-by"), &script, || {
        let mut fetch = workspace.command(workspace.clients_python());
        shell::run(fetch.arg(SCRIPT).arg(&tools))
    })
}

/// Makes a Python environment with the packages that a file of requirements names. It is made anew when what is wanted has changed.
fn install(workspace: &Workspace, venv: &Path, requirements: &str, wanted: &str) -> Outcome {
    once(&venv.join("requirements.installed"), wanted, || {
        make_venv(venv)?;
        let mut pip = workspace.command(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet"]);
        pip.args([
            "--disable-pip-version-check",
            "--no-compile",
            "--requirement",
            requirements,
        ]);
        shell::run(&mut pip)
    })
}

/// Does what the stamp does not say has been done.
fn once(stamp: &Path, wanted: &str, make: impl FnOnce() -> Outcome) -> Outcome {
    if fs::read_to_string(stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    make()?;
    fs::write(stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn make_venv(venv: &Path) -> Outcome {
    if venv.join("bin/python").exists() {
        return Ok(());
    }
    let make = || shell::run(Command::new("python3").args(["-m", "venv"]).arg(venv));
    // Debian keeps what `venv` needs in a package of its own.
    make().or_else(|error| {
        apt_install(&["python3-venv"]).map_err(|apt| format!("{error}; {apt}"))?;
        make()
    })
}

fn models(workspace: &Workspace) -> Outcome {
    const SCRIPT: &str = "crates/jitney-engine/tests/models.py";
    let wanted = read(&workspace.path(SCRIPT))? + &requirements(workspace)?;
    let folder = workspace.models();
    once(&folder.join("made-by"), &wanted, || {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut make = workspace.command(workspace.python());
        shell::run(make.arg(SCRIPT).arg(&folder))
    })
}

fn browser() -> Outcome {
    if shell::answers("chromium") && shell::answers("chromedriver") {
        return Ok(());
    }
    apt_install(&["chromium", "chromium-driver"])
}

/// Where it is missing and cannot be installed, the tests on it are skipped, loudly, unless `REQUIRE_POSTGRES` asks for them.
fn postgres() -> Outcome {
    if has_postgres() {
        return Ok(());
    }
    let installed = apt_install(&["postgresql"]);
    let required = [REQUIRE_POSTGRES, "CI"].map(env::var_os);
    if required.iter().any(Option::is_some) {
        return installed;
    }
    if let Err(error) = installed {
        println!(
            "\n!!! SKIPPED: PostgreSQL is not installed, so nothing is tested on it: {error}\n"
        );
    }
    Ok(())
}

/// Whether its programs are on the `PATH`, or where Debian puts them.
fn has_postgres() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.flatten().map(|version| version.path().join("bin"));
    env::split_paths(&path)
        .chain(debian)
        .any(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// Everything that is tested. Building all of it at once keeps one set of features, and so one build of each dependency, for every step.
pub(crate) const ALL_TESTS: &[&str] = &["--workspace", "--lib", "--bins", "--tests"];

fn jitney(workspace: &Workspace) -> Outcome {
    let mut build = workspace.cargo(&["test", "--no-run", "--quiet"]);
    shell::run(build.args(ALL_TESTS))
}

fn apt_install(packages: &[&str]) -> Outcome {
    let wanted = packages.join(" ");
    if !is_root() || !shell::answers("apt-get") {
        return Err(format!(
            "please install {wanted} with the system's package manager"
        ));
    }
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    apt.args(packages);
    shell::run(&mut apt).or_else(|_| {
        shell::run(Command::new("apt-get").args(["update", "--quiet"]))?;
        shell::run(&mut apt)
    })
}

fn is_root() -> bool {
    shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The pinned packages, of all the files that name some.
fn requirements(workspace: &Workspace) -> Outcome<String> {
    let files = [
        "crates/jitney-engine/tests/models.txt",
        "examples/digits/requirements.txt",
        "examples/filetype/requirements.txt",
        "examples/from_fastapi/requirements.txt",
        "tests/page/requirements.txt",
        "xtask/requirements.txt",
    ];
    files
        .iter()
        .map(|file| read(&workspace.path(file)))
        .collect()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
