//! Which versions of a model are served, and by which other words requests may name them.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Which of the versions that a model's folder holds are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest, so many of them. Default 1.
    Latest(NonZeroUsize),
    /// All of them.
    All,
    /// These, whether they are there or not: one that is not there has failed.
    Listed(Vec<String>),
}

/// Words that stand for versions, such as `stable`.
pub type VersionLabels = BTreeMap<String, String>;

const EXPECTED: &str =
    "\"latest\", \"latest:2\", \"all\", or a list of versions such as [\"1\", \"3\"]";

impl VersionPolicy {
    /// The versions to serve out of those that are there, lowest first. Versions that have a label are served whatever the policy says.
    ///
    /// ```
    /// use jitney_server::config::{VersionLabels, VersionPolicy};
    ///
    /// let there = ["1", "2", "10"].map(String::from);
    /// let policy: VersionPolicy = "latest:2".parse()?;
    /// assert_eq!(policy.choose(&there, &VersionLabels::new()), ["2", "10"]);
    /// let stable = VersionLabels::from([("stable".to_owned(), "1".to_owned())]);
    /// assert_eq!(VersionPolicy::default().choose(&there, &stable), ["1", "10"]);
    /// # Ok::<(), String>(())
    /// ```
    pub fn choose(&self, there: &[String], labels: &VersionLabels) -> Vec<String> {
        let mut there = there.to_vec();
        there.sort_by_key(|version| number(version));
        let mut chosen = match self {
            VersionPolicy::All => there,
            VersionPolicy::Latest(count) => {
                there.split_off(there.len().saturating_sub(count.get()))
            }
            VersionPolicy::Listed(versions) => versions.clone(),
        };
        chosen.extend(labels.values().cloned());
        chosen.sort_by_key(|version| number(version));
        chosen.dedup();
        chosen
    }
}

impl Default for VersionPolicy {
    fn default() -> VersionPolicy {
        VersionPolicy::Latest(NonZeroUsize::MIN)
    }
}

/// As a person types it: `latest`, `latest:2`, `all`, or versions with commas between them.
impl FromStr for VersionPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<VersionPolicy, String> {
        let wrong = || format!("expected {EXPECTED}, got \"{}\"", text.escape_debug());
        match (text, text.split_once(':')) {
            ("latest", _) => Ok(VersionPolicy::default()),
            ("all", _) => Ok(VersionPolicy::All),
            (_, Some(("latest", count))) => {
                let count = count.parse().map_err(|_| wrong())?;
                Ok(VersionPolicy::Latest(count))
            }
            _ => {
                let versions: Vec<String> = text.split(',').map(str::to_owned).collect();
                let all = versions.iter().all(|version| is_version(version));
                all.then_some(VersionPolicy::Listed(versions))
                    .ok_or_else(wrong)
            }
        }
    }
}

impl<'de> Deserialize<'de> for VersionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VersionPolicy, D::Error> {
        deserializer.deserialize_any(PolicyVisitor)
    }
}

/// Whether a folder of that name is a version: a whole number without a leading zero.
pub(crate) fn is_version(name: &str) -> bool {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    digits && !name.starts_with('0') && name.parse::<u64>().is_ok()
}

/// The number of a version; 0 for what is none.
pub(crate) fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// Checks that requests can tell labels from versions.
pub(super) fn check_labels(labels: &VersionLabels) -> Result<(), String> {
    for (label, version) in labels {
        super::check_name(label).map_err(|_| wrong_label(label))?;
        if label.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong_label(label));
        }
        if !is_version(version) {
            return Err(format!(
                "version_labels.{label} must be a version such as \"3\", but is \"{}\"",
                version.escape_debug()
            ));
        }
    }
    Ok(())
}

fn wrong_label(label: &str) -> String {
    format!(
        "version_labels must have words such as stable for keys, which are no numbers, but has \"{}\"",
        label.escape_debug()
    )
}

/// A version as files and requests write it: as a word or as a number.
#[derive(Clone, Debug)]
pub(super) struct Version(pub(super) String);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        deserializer.deserialize_any(VersionVisitor)
    }
}

struct VersionVisitor;

impl Visitor<'_> for VersionVisitor {
    type Value = Version;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version such as \"3\"")
    }

    fn visit_str<E: de::Error>(self, version: &str) -> Result<Version, E> {
        if is_version(version) {
            return Ok(Version(version.to_owned()));
        }
        Err(E::invalid_value(de::Unexpected::Str(version), &self))
    }

    fn visit_i64<E: de::Error>(self, version: i64) -> Result<Version, E> {
        self.visit_str(&version.to_string())
    }

    fn visit_u64<E: de::Error>(self, version: u64) -> Result<Version, E> {
        self.visit_str(&version.to_string())
    }
}

struct PolicyVisitor;

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = VersionPolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<VersionPolicy, E> {
        let wrong = |_| E::invalid_value(de::Unexpected::Str(text), &self);
        text.parse().map_err(wrong)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VersionPolicy, A::Error> {
        let mut versions = Vec::new();
        while let Some(Version(version)) = list.next_element()? {
            versions.push(version);
        }
        if versions.is_empty() {
            return Err(de::Error::invalid_length(0, &"one version or more"));
        }
        Ok(VersionPolicy::Listed(versions))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VersionPolicy, A::Error> {
        match map.next_key::<String>()? {
            Some(key) if key == "latest" => Ok(VersionPolicy::Latest(map.next_value()?)),
            Some(key) => Err(de::Error::unknown_field(&key, &["latest"])),
            None => Err(de::Error::missing_field("latest")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(count: usize) -> VersionPolicy {
        VersionPolicy::Latest(NonZeroUsize::new(count).unwrap())
    }

    fn listed(versions: &[&str]) -> VersionPolicy {
        VersionPolicy::Listed(versions.iter().map(|&version| version.into()).collect())
    }

    #[test]
    fn policies_choose() {
        let check = |policy: VersionPolicy, there: &str, labels: &str, expected: &str| {
            let there: Vec<String> = there.split_whitespace().map(str::to_owned).collect();
            let labels = labels.split_whitespace().map(|label| {
                let (label, version) = label.split_once('=').unwrap();
                (label.to_owned(), version.to_owned())
            });
            let chosen = policy.choose(&there, &labels.collect());
            assert_eq!(chosen.join(" "), expected, "{policy:?} {there:?}");
        };
        check(latest(1), "2 10 9", "", "10");
        check(latest(2), "2 10 9", "", "9 10");
        check(latest(9), "2 10 9", "", "2 9 10");
        check(latest(1), "", "", "");
        check(VersionPolicy::All, "2 10 9", "", "2 9 10");
        check(listed(&["3", "1"]), "1 2 3", "", "1 3");
        check(listed(&["7"]), "1", "", "7");
        check(listed(&["2", "2"]), "2", "", "2");
        check(latest(1), "1 2 3", "stable=1", "1 3");
        check(latest(1), "1", "a=1 b=1", "1");
    }

    #[test]
    fn policies_are_written_in_several_ways() {
        let text = |text: &str| text.parse::<VersionPolicy>();
        assert_eq!(text("latest"), Ok(latest(1)));
        assert_eq!(text("latest:3"), Ok(latest(3)));
        assert_eq!(text("all"), Ok(VersionPolicy::All));
        assert_eq!(text("1,3"), Ok(listed(&["1", "3"])));
        for wrong in [
            "",
            "latest:0",
            "latest:-1",
            "latest:",
            "01",
            "1,",
            "v1",
            "ALL",
            "../1",
        ] {
            let error = text(wrong).unwrap_err();
            assert!(error.starts_with("expected \"latest\""), "{wrong}: {error}");
        }

        #[derive(Debug, Deserialize)]
        struct File {
            versions: VersionPolicy,
        }
        let toml = |text: &str| {
            let file: Result<File, _> = toml::from_str(&format!("versions = {text}"));
            file.map(|file| file.versions)
                .map_err(|error| error.message().to_owned())
        };
        assert_eq!(toml("\"latest:2\""), Ok(latest(2)));
        assert_eq!(toml("{ latest = 2 }"), Ok(latest(2)));
        assert_eq!(toml("[1, \"3\"]"), Ok(listed(&["1", "3"])));
        for wrong in [
            "[]",
            "[-1]",
            "[\"../1\"]",
            "{ latest = 0 }",
            "{ newest = 1 }",
            "{}",
            "true",
            "\"none\"",
        ] {
            assert!(toml(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_no_versions() {
        let check = |label: &str, version: &str| {
            check_labels(&VersionLabels::from([(label.into(), version.into())]))
        };
        assert_eq!(check("stable", "3"), Ok(()));
        assert_eq!(check("v2", "2"), Ok(()));
        for (label, version) in [
            ("2", "2"),
            ("", "2"),
            ("a/b", "2"),
            ("..", "2"),
            ("a", "x"),
            ("a", "01"),
        ] {
            assert!(check(label, version).is_err(), "{label} {version}");
        }
    }
}
