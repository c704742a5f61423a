//! A PostgreSQL server of a test's own: in a temporary folder, on a socket in it, and gone with the test.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

pub(crate) struct Cluster {
    server: Child,
    folder: TempDir,
}

impl Cluster {
    /// A server that answers, or `None`, loudly, where PostgreSQL is not installed and nothing requires it.
    pub(crate) async fn start() -> Option<Cluster> {
        let Some(programs) = programs() else {
            let required = ["CI", "JITNEY_REQUIRE_POSTGRES"];
            let required = required.iter().any(|name| std::env::var_os(name).is_some());
            assert!(
                !required,
                "no PostgreSQL found: install the package `postgresql`"
            );
            eprintln!(
                "SKIPPED: no PostgreSQL found, so nothing is tested on it; install the package `postgresql`"
            );
            return None;
        };
        let folder = TempDir::new().unwrap();
        let user = User::of_server();
        user.own(folder.path());
        let data = folder.path().join("data");
        let made = user
            .command(&programs.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args([
                "-U",
                "test",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale",
                "C",
                "--no-sync",
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb failed: {said}");
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let server = user
            .command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "max_wal_size=4GB",
            ])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut cluster = Cluster { server, folder };
        cluster.wait_until_it_answers().await;
        Some(cluster)
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.path())
            .username("test")
            .database("postgres")
    }

    async fn wait_until_it_answers(&mut self) {
        let begun = Instant::now();
        while let Err(error) = self.options().connect().await {
            let ended = self.server.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(self.folder.path().join("log"));
                panic!(
                    "the server does not answer: {error}; {ended:?}\n{}",
                    log.unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGQUIT ends it and all its children at once, without cleaning up what is deleted anyway.
        let id = self.server.id().to_string();
        let asked = Command::new("kill").args(["-QUIT", &id]).status();
        if !asked.is_ok_and(|status| status.success()) {
            drop(self.server.kill());
        }
        drop(self.server.wait());
    }
}

/// The folder of `initdb` and `postgres`: from the path, or the newest that a distribution has installed.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut installed: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    installed.sort();
    installed
        .into_iter()
        .rev()
        .chain(std::env::split_paths(&path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// PostgreSQL refuses to run as root, so root runs it as somebody else.
struct User(Option<(u32, u32)>);

impl User {
    fn of_server() -> User {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        User(root.then(|| id_of("postgres").or_else(|| id_of("nobody")).unwrap()))
    }

    fn own(&self, folder: &Path) {
        if let User(Some((user, group))) = self {
            chown(folder, Some(*user), Some(*group)).unwrap();
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let User(Some((user, group))) = self {
            use std::os::unix::process::CommandExt;
            command.uid(*user).gid(*group);
        }
        command
    }
}

/// The user's and its group's number.
fn id_of(name: &str) -> Option<(u32, u32)> {
    let users: io::Result<String> = fs::read_to_string("/etc/passwd");
    let users = users.ok()?;
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
