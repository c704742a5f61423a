//! Who may import whom. Between crates Cargo holds the walls; within a crate this table does.

use std::collections::BTreeSet;
use std::fs;

use super::{Finding, scan};
use crate::Outcome;
use crate::workspace::Workspace;

/// What one module of a crate may name.
struct Module {
    name: &'static str,
    /// Its siblings that it may import. Importing itself is always allowed.
    siblings: &'static [&'static str],
    /// Of the [`Rules::guarded`] foreign crates, those it may name.
    foreign: &'static [&'static str],
}

/// The rules of one crate.
struct Rules {
    crate_name: &'static str,
    source: &'static str,
    /// Foreign crates whose use is confined to the modules that list them.
    guarded: &'static [&'static str],
    modules: &'static [Module],
}

const EVERYTHING: &[&str] = &["*"];
const CONTRACT: &[&str] = &["contract", "spec", "tensor"];
const ENGINE: &[&str] = &["contract", "model_file", "spec", "tensor"];

const CRATES: &[Rules] = &[
    Rules {
        crate_name: "jitney",
        source: "crates/jitney/src/",
        guarded: &[
            "serde",
            "serde_json",
            "hyper",
            "http",
            "jitney_engine",
            "jitney_server",
        ],
        modules: &[
            Module {
                name: "lib",
                siblings: EVERYTHING,
                foreign: &[],
            },
            Module {
                name: "batch",
                siblings: &["clock", "sync", "tree"],
                foreign: &[],
            },
            Module {
                name: "group",
                siblings: &["cancel", "close", "deadline", "lock", "sync", "tree"],
                foreign: &[],
            },
            Module {
                name: "close",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "limiter",
                siblings: &["deadline", "lock", "tree"],
                foreign: &[],
            },
            Module {
                name: "offload",
                siblings: &[
                    "cancel", "deadline", "clock", "group", "limiter", "lock", "tree",
                ],
                foreign: &[],
            },
            Module {
                name: "pool",
                siblings: &["cancel", "deadline", "group", "limiter", "lock", "tree"],
                foreign: &[],
            },
            Module {
                name: "queue",
                siblings: &["deadline", "lock"],
                foreign: &[],
            },
            Module {
                name: "stream",
                siblings: &["cancel", "group"],
                foreign: &[],
            },
            Module {
                name: "outcome",
                siblings: &["cancel", "group"],
                foreign: &[],
            },
            Module {
                name: "gather",
                siblings: &["cancel", "deadline", "group", "lock", "outcome", "tree"],
                foreign: &[],
            },
            Module {
                name: "race",
                siblings: &["gather"],
                foreign: &[],
            },
            Module {
                name: "retry",
                siblings: &["cancel"],
                foreign: &[],
            },
            Module {
                name: "background",
                siblings: &["cancel", "group", "outcome", "tree"],
                foreign: &[],
            },
            Module {
                name: "jobs",
                siblings: &["background", "cancel", "group", "lock", "outcome", "retry"],
                foreign: &[],
            },
            Module {
                name: "cancel",
                siblings: &["deadline", "lock"],
                foreign: &[],
            },
            Module {
                name: "deadline",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "tree",
                siblings: &["cancel", "lock"],
                foreign: &[],
            },
            Module {
                name: "watch",
                siblings: &["tree"],
                foreign: &[],
            },
            Module {
                name: "test",
                siblings: &["batch", "clock", "group", "lock", "tree", "watch"],
                foreign: &[],
            },
            Module {
                name: "process",
                siblings: &["lock"],
                foreign: &[],
            },
            Module {
                name: "clock",
                siblings: &["sync"],
                foreign: &[],
            },
            Module {
                name: "lock",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "sync",
                siblings: &[],
                foreign: &[],
            },
        ],
    },
    Rules {
        crate_name: "jitney-engine",
        source: "crates/jitney-engine/src/",
        guarded: &[
            "serde",
            "serde_json",
            "tokio",
            "hyper",
            "http",
            "rten",
            "rten_tensor",
            "ort",
            "jitney",
            "jitney_server",
        ],
        modules: &[
            Module {
                name: "lib",
                siblings: EVERYTHING,
                foreign: &[],
            },
            Module {
                name: "tensor",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "spec",
                siblings: &["tensor"],
                foreign: &[],
            },
            Module {
                name: "contract",
                siblings: &["spec", "stack", "tensor"],
                foreign: &["jitney"],
            },
            Module {
                name: "stack",
                siblings: CONTRACT,
                foreign: &[],
            },
            Module {
                name: "model_file",
                siblings: CONTRACT,
                foreign: &[],
            },
            Module {
                name: "echo",
                siblings: &["contract", "spec", "stack", "tensor"],
                foreign: &["tokio"],
            },
            Module {
                name: "onnx",
                siblings: ENGINE,
                foreign: &["rten", "rten_tensor"],
            },
            Module {
                name: "ort",
                siblings: ENGINE,
                foreign: &["ort"],
            },
            Module {
                name: "python",
                siblings: &["contract", "spec", "stack", "tensor"],
                foreign: &["jitney", "serde", "serde_json"],
            },
            Module {
                name: "load",
                siblings: &["contract", "spec", "tensor", "onnx", "ort"],
                foreign: &[],
            },
        ],
    },
    Rules {
        crate_name: "jitney-server",
        source: "crates/jitney-server/src/",
        guarded: &[
            "serde",
            "serde_json",
            "toml",
            "hyper",
            "hyper_util",
            "http_body",
            "http_body_util",
            "prometheus_client",
        ],
        modules: &[
            Module {
                name: "lib",
                siblings: EVERYTHING,
                foreign: &[],
            },
            Module {
                name: "failure",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "call",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "memory",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "deflate",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "observe",
                siblings: &["failure"],
                foreign: &["prometheus_client"],
            },
            Module {
                name: "config",
                siblings: &["observe"],
                foreign: &["serde", "serde_json", "toml"],
            },
            Module {
                name: "protocol",
                siblings: &["call", "failure", "observe"],
                foreign: &["serde", "serde_json"],
            },
            Module {
                name: "context",
                siblings: &["call", "protocol"],
                foreign: &[],
            },
            Module {
                name: "access",
                siblings: &["config", "failure", "models", "observe"],
                foreign: &[],
            },
            Module {
                name: "extension",
                siblings: &["config", "failure", "models", "observe", "protocol"],
                foreign: &[],
            },
            Module {
                name: "grpc",
                siblings: &[
                    "access",
                    "admit",
                    "call",
                    "config",
                    "context",
                    "deflate",
                    "extension",
                    "failure",
                    "memory",
                    "models",
                    "observe",
                    "protocol",
                ],
                foreign: &["http_body", "http_body_util", "serde_json"],
            },
            Module {
                name: "models",
                siblings: &["call", "config", "failure", "observe"],
                foreign: &[],
            },
            Module {
                name: "admit",
                siblings: &["failure"],
                foreign: &[],
            },
            Module {
                name: "admin",
                siblings: &["config", "failure", "models", "observe"],
                foreign: &["serde", "serde_json"],
            },
            Module {
                name: "net",
                siblings: &[
                    "access",
                    "admin",
                    "admit",
                    "call",
                    "config",
                    "context",
                    "deflate",
                    "extension",
                    "failure",
                    "grpc",
                    "memory",
                    "models",
                    "observe",
                    "protocol",
                ],
                foreign: &["hyper", "hyper_util", "http_body", "http_body_util"],
            },
            Module {
                name: "server",
                siblings: EVERYTHING,
                foreign: &["hyper", "hyper_util"],
            },
        ],
    },
    Rules {
        crate_name: "jitney-cli",
        source: "crates/jitney-cli/src/",
        guarded: &["clap", "jitney", "serde_json", "hyper"],
        modules: &[
            Module {
                name: "main",
                siblings: EVERYTHING,
                foreign: &["clap"],
            },
            Module {
                name: "args",
                siblings: &[],
                foreign: &["clap"],
            },
            Module {
                name: "settings",
                siblings: &["args", "exit"],
                foreign: &[],
            },
            Module {
                name: "exit",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "logs",
                siblings: &["args", "exit"],
                foreign: &[],
            },
            Module {
                name: "signals",
                siblings: &[],
                foreign: &[],
            },
            Module {
                name: "cmd",
                siblings: &["args", "exit", "settings", "signals"],
                foreign: &["clap", "jitney"],
            },
        ],
    },
];

pub(super) fn check(workspace: &Workspace, files: &[String]) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    for rules in CRATES {
        for file in files.iter().filter(|file| file.ends_with(".rs")) {
            let Some(inside) = file.strip_prefix(rules.source) else {
                continue;
            };
            let source = fs::read_to_string(workspace.path(file))
                .map_err(|error| format!("{file}: {error}"))?;
            findings.extend(in_file(rules, file, inside, &source));
        }
    }
    Ok(findings)
}

/// `inside` is the file's path from the folder of the crate's sources.
fn in_file(rules: &Rules, file: &str, inside: &str, source: &str) -> Vec<Finding> {
    let name = module_of(inside);
    let Some(module) = rules.modules.iter().find(|module| module.name == name) else {
        return vec![format!(
            "{file}: module `{name}` of {} is not in the table of imports (xtask/src/tidy/imports.rs)",
            rules.crate_name
        )];
    };
    let code = scan::code(source);
    let mut findings = Vec::new();
    for sibling in siblings_named(rules, inside, &code) {
        if sibling != name && !allows(module.siblings, &sibling) {
            findings.push(format!("{file}: `{name}` may not import `{sibling}`"));
        }
    }
    for foreign in rules.guarded {
        if !allows(module.foreign, foreign) && !scan::names_after(&code, foreign).is_empty() {
            findings.push(format!(
                "{file}: `{name}` may not use the crate `{foreign}`"
            ));
        }
    }
    findings
}

/// The first part of the path: `net` of `net/http.rs`, `call` of `call.rs`.
fn module_of(inside: &str) -> &str {
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The modules of the crate that the code names through `crate::` or through enough `super::` to reach the crate's root.
fn siblings_named(rules: &Rules, inside: &str, code: &str) -> BTreeSet<String> {
    let mut names = scan::names_after(code, "crate");
    names.extend(scan::names_after(
        code,
        &vec!["super"; depth(inside)].join("::"),
    ));
    names.retain(|name| rules.modules.iter().any(|module| module.name == name));
    names.into_iter().collect()
}

/// How many times `super` leads from the file's module to the crate's root.
fn depth(inside: &str) -> usize {
    let folders = inside.matches('/').count();
    if inside.ends_with("/mod.rs") {
        folders
    } else {
        folders + 1
    }
}

fn allows(list: &[&str], name: &str) -> bool {
    list.contains(&"*") || list.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> &'static Rules {
        CRATES
            .iter()
            .find(|rules| rules.crate_name == "jitney-server")
            .unwrap()
    }

    fn findings(inside: &str, source: &str) -> Vec<Finding> {
        in_file(server(), inside, inside, source)
    }

    #[test]
    fn each_breach_is_found() {
        let table = [
            (
                "protocol/infer.rs",
                "use crate::models::Lane;",
                "may not import `models`",
            ),
            (
                "protocol/infer.rs",
                "use super::super::models::Lane;",
                "may not import `models`",
            ),
            ("protocol/mod.rs", "use super::net;", "may not import `net`"),
            (
                "models/lane.rs",
                "use crate::{call::Call, net::Route};",
                "may not import `net`",
            ),
            (
                "call.rs",
                "#[derive(serde::Serialize)] struct X;",
                "may not use the crate `serde`",
            ),
            ("extra/mod.rs", "", "is not in the table"),
        ];
        for (inside, source, expected) in table {
            let found = findings(inside, source).join("\n");
            assert!(found.contains(expected), "{inside}: {source}: {found:?}");
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        let table = [
            (
                "protocol/infer.rs",
                "use crate::failure::Failure; use super::error;",
            ),
            (
                "models/lane.rs",
                "use crate::call::Call;\n#[cfg(test)]\nmod tests { use crate::net; }",
            ),
            (
                "net/http.rs",
                "use crate::protocol::infer; use hyper::Request;",
            ),
        ];
        for (inside, source) in table {
            assert_eq!(findings(inside, source), Vec::<Finding>::new(), "{inside}");
        }
    }
}
