//! Whether files have changed, and are done changing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What files looked like at one moment; those that are not there are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(BTreeMap<PathBuf, Trace>);

/// What differs when a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trace {
    modified: Option<SystemTime>,
    length: u64,
    /// Another one where a new file was moved to its place.
    inode: u64,
}

impl Stamp {
    /// Looks at these files, and for one of Python at those beside it, which it may import.
    pub(super) fn of(files: &[PathBuf]) -> Stamp {
        let beside = files.iter().filter(|file| is_python(file));
        let beside = beside.filter_map(|file| file.parent()).flat_map(modules);
        let files = files.iter().cloned().chain(beside);
        Stamp(
            files
                .filter_map(|file| Some((file.clone(), Trace::of(&file)?)))
                .collect(),
        )
    }
}

impl Trace {
    fn of(file: &Path) -> Option<Trace> {
        let metadata = fs::metadata(file).ok()?;
        Some(Trace {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

fn is_python(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "py")
}

fn modules(folder: &Path) -> Vec<PathBuf> {
    // The parent of a bare file name is no name of a folder.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| is_python(path))
        .collect()
}

/// Tells a change that is over from one that goes on.
#[derive(Debug)]
pub(super) struct Changes {
    /// What was loaded, or tried to.
    loaded: Stamp,
    /// What was seen last.
    last: Stamp,
}

impl Changes {
    pub(super) fn new(loaded: Stamp) -> Changes {
        Changes {
            last: loaded.clone(),
            loaded,
        }
    }

    /// Takes in what is seen now. Says whether it is to be loaded, which is then taken for done.
    pub(super) fn settled(&mut self, now: Stamp) -> bool {
        let still = now == self.last;
        let new = still && now != self.loaded;
        if new {
            self.loaded = now.clone();
        }
        self.last = now;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_is_over() {
        let stamp = |length: u64| {
            let trace = Trace {
                modified: None,
                length,
                inode: 1,
            };
            Stamp(BTreeMap::from([("m.py".into(), trace)]))
        };
        let mut changes = Changes::new(stamp(0));
        // What is seen, and whether it is to be loaded.
        let table = [
            (0, false),
            (1, false),
            (2, false),
            (2, true),
            (2, false),
            (3, false),
            // It went back to what it was: nothing to do.
            (2, false),
            (2, false),
            (0, false),
            (0, true),
        ];
        for (step, (length, expected)) in table.into_iter().enumerate() {
            assert_eq!(changes.settled(stamp(length)), expected, "step {step}");
        }
    }

    #[test]
    fn a_stamp_sees_what_matters() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("m.py"), "a").unwrap();
        fs::write(at("notes.txt"), "a").unwrap();
        let files = [at("m.py"), at("model.toml")];
        let mut seen = vec![Stamp::of(&files)];
        let mut step = |change: &dyn Fn()| {
            change();
            let now = Stamp::of(&files);
            let changed = !seen.contains(&now);
            seen.push(now);
            changed
        };
        assert!(!step(&|| fs::write(at("notes.txt"), "b").unwrap()));
        assert!(step(&|| fs::write(at("m.py"), "ab").unwrap()));
        assert!(step(&|| fs::write(at("helper.py"), "").unwrap()));
        assert!(step(&|| fs::write(at("model.toml"), "").unwrap()));
        // As long as the one it replaces, and perhaps as old.
        assert!(step(&|| {
            fs::write(at("new"), "cd").unwrap();
            fs::rename(at("new"), at("m.py")).unwrap();
        }));
        assert!(step(&|| fs::remove_file(at("m.py")).unwrap()));
    }
}
