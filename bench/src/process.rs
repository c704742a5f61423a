//! Processes as the system lists them: who descends from whom, who is still there, what they hold.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::Outcome;

/// A process, told from a later one with the same id by when it was started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    start: u64,
    pub(crate) parent: u32,
    pub(crate) zombie: bool,
}

impl Process {
    pub(crate) fn alive(&self) -> bool {
        read(self.pid).is_some_and(|now| now.start == self.start && !now.zombie)
    }

    /// Sends a signal, such as `KILL`, unless the process is gone.
    pub(crate) fn signal(&self, name: &str) {
        if self.alive() {
            let pid = self.pid.to_string();
            Command::new("kill").args(["-s", name, &pid]).output().ok();
        }
    }

    pub(crate) fn command_line(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    /// Whether a variable was set when the process was started.
    pub(crate) fn has_variable(&self, name: &str) -> bool {
        let bytes = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let wanted = format!("{name}=");
        bytes
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(wanted.as_bytes()))
    }
}

/// A process and all that descend from it, itself first; nothing where it is gone.
pub(crate) fn tree(root: u32) -> Vec<Process> {
    let mut table = all();
    let mut family = BTreeSet::from([root]);
    let mut tree = Vec::new();
    loop {
        let (found, rest): (Vec<_>, Vec<_>) = table.into_iter().partition(|process| {
            process.pid == root || (process.parent > 0 && family.contains(&process.parent))
        });
        if found.is_empty() {
            return tree;
        }
        family.extend(found.iter().map(|process| process.pid));
        tree.extend(found);
        table = rest;
    }
}

/// Resident memory in megabytes.
pub(crate) fn resident(pid: u32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024.0)
}

/// Processor time that a process has used so far, in seconds.
pub(crate) fn cpu(pid: u32) -> Outcome<f64> {
    /// Linux counts in hundredths of a second, whatever its own clock.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
    let ticks = |field: usize| -> Outcome<f64> {
        let text = fields.split_whitespace().nth(field).ok_or("a short stat")?;
        Ok(text.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

fn read(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process {
        pid,
        start: fields.get(19)?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        zombie: *fields.first()? == "Z",
    })
}
