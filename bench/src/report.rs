//! What was measured: printed beside its target, and kept.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::Outcome;
use crate::server::{LOAD_CORE, SERVER_CORE};

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
    facts: serde_json::Map<String, Value>,
}

impl Report {
    /// Prints a result beside its target and keeps it.
    pub(crate) fn row(&mut self, what: &str, value: f64, target: &str, met: bool, raw: Value) {
        println!(
            "{what:<58} {value:>10.3}   {target:<22} {}",
            if met { "ok" } else { "MISSED" }
        );
        let mut row = json!({"what": what, "value": value, "target": target, "met": met});
        row["raw"] = raw;
        self.rows.push(row);
    }

    /// A result that stands beside others and has no target of its own.
    pub(crate) fn mark(&mut self, what: &str, value: f64, raw: Value) {
        self.row(what, value, "", true, raw);
    }

    pub(crate) fn at_least(&mut self, what: &str, value: f64, least: f64, raw: Value) {
        self.row(
            what,
            value,
            &format!("at least {least}"),
            value >= least,
            raw,
        );
    }

    pub(crate) fn at_most(&mut self, what: &str, value: f64, most: f64, raw: Value) {
        self.row(what, value, &format!("at most {most}"), value <= most, raw);
    }

    /// Something that must be known to repeat the run.
    pub(crate) fn fact(&mut self, name: &str, value: Value) {
        self.facts.insert(name.to_owned(), value);
    }

    /// Keeps the raw run, with the machine and the commit it was made on.
    pub(crate) fn keep(self) -> Outcome<()> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs();
        let mut run = json!({
            "unix_time": now,
            "commit": commit(),
            "cpu": cpu()?,
            "server_core": SERVER_CORE,
            "load_core": LOAD_CORE,
            "rows": self.rows,
        });
        for (name, value) in self.facts {
            run[name] = value;
        }
        let path = Path::new("bench/runs").join(format!("{now}.json"));
        fs::create_dir_all("bench/runs")?;
        fs::write(&path, serde_json::to_string_pretty(&run)?)?;
        println!("kept in {}", path.display());
        Ok(())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cpu() -> Outcome<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    Ok(model.trim_start_matches(['\t', ' ', ':']).to_owned())
}
