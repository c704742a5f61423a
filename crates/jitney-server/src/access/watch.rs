//! Files that are read again when they change.

use std::fs;
use std::path::{Path, PathBuf};

use super::secret::digest;
use crate::config::Digest;

/// Tells when files have changed and have stopped changing, so that none is used while it is being written.
///
/// It goes by what is in them: that is right on every file system, and for links that are turned to another file.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    /// What was used last.
    used: Seen,
    /// What was there at the last look.
    last: Seen,
}

/// What is in each file; nothing where it cannot be read.
type Seen = Vec<Option<Digest>>;

impl Watch {
    /// Begins to watch, so it must come before the files are read.
    pub(crate) fn new(files: Vec<PathBuf>) -> Watch {
        let used = look(&files);
        Watch {
            last: used.clone(),
            used,
            files,
        }
    }

    /// Looks at the files. Says whether they are to be read again, which is then taken for done.
    pub(crate) fn changed(&mut self) -> bool {
        let now = look(&self.files);
        let changed = now == self.last && now != self.used;
        if changed {
            self.used.clone_from(&now);
        }
        self.last = now;
        changed
    }
}

fn look(files: &[PathBuf]) -> Seen {
    let content = |file: &PathBuf| Some(digest(&fs::read(file as &Path).ok()?));
    files.iter().map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&first, "1").unwrap();
        let mut watch = Watch::new(vec![first.clone(), second.clone()]);
        let write = |file: &Path, text: &str| fs::write(file, text).unwrap();
        let steps: [(&dyn Fn(), bool); 9] = [
            (&|| (), false),
            (&|| write(&first, "2"), false),
            (&|| write(&first, "23"), false),
            (&|| (), true),
            (&|| (), false),
            // It went back to what it was: nothing to do.
            (&|| write(&first, "2"), false),
            (&|| write(&first, "23"), false),
            (&|| write(&second, "1"), false),
            (&|| (), true),
        ];
        for (step, (change, expected)) in steps.into_iter().enumerate() {
            change();
            assert_eq!(watch.changed(), expected, "step {step}");
        }
    }
}
