//! Which files a model is made of, and what they looked like at one moment.
//!
//! Files are looked at a few times a second: that works on every file system, with links that are changed as with files that are moved,
//! and costs a few calls of the system for each file.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{ModelSource, is_version};

/// The files that a version of a model is made of, whether they are there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// None: it is no file's.
    Nothing,
    /// This file, and those beside it that belong to it: what a Python model may import, and an ONNX model's weights.
    File(PathBuf),
    /// Everything in this folder of a model but its other versions.
    Folder {
        folder: PathBuf,
        /// Where the folder has versions.
        version: Option<String>,
    },
}

/// What files looked like at one moment; those that are not there are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(BTreeMap<PathBuf, Trace>);

/// What differs when a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trace {
    modified: Option<SystemTime>,
    length: u64,
    /// Others where a new file was moved to its place, or a link leads elsewhere.
    device: u64,
    inode: u64,
}

/// Most files that are looked at in the folder of one model. Models that come in more parts are told apart by the first ones.
const MOST_FILES: usize = 2_000;
/// Folders within folders that are looked at. Links can lead in a circle.
const DEEPEST: usize = 8;

impl Scope {
    /// The model's own folder, where it has one.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Scope::Folder { folder, .. } => Some(folder),
            Scope::Nothing | Scope::File(_) => None,
        }
    }

    fn covers(&self, path: &Path) -> bool {
        match self {
            Scope::Nothing => false,
            Scope::File(file) => belongs(file, path),
            Scope::Folder { folder, version } => {
                let Ok(inside) = path.strip_prefix(folder) else {
                    return false;
                };
                let first = inside.iter().next().and_then(|part| part.to_str());
                let other = |name: &str| is_version(name) && version.as_deref() != Some(name);
                version.is_none() || !first.is_some_and(other)
            }
        }
    }
}

impl Stamp {
    /// Looks at all files of these sources.
    pub(super) fn of(sources: &[ModelSource]) -> Stamp {
        let mut stamp = Stamp::default();
        for path in sources.iter().filter_map(|source| source.kind.path()) {
            if path.is_dir() {
                stamp.look_into(path);
            } else {
                stamp.look_beside(path);
            }
        }
        stamp
    }

    /// What of it concerns one version of a model.
    pub(super) fn within(&self, scope: &Scope) -> Stamp {
        let covered = self.0.iter().filter(|(path, _)| scope.covers(path));
        Stamp(
            covered
                .map(|(path, trace)| (path.clone(), trace.clone()))
                .collect(),
        )
    }

    /// A file that is a source by itself.
    fn look_beside(&mut self, file: &Path) {
        self.look_at(file.to_owned());
        // The parent of a bare file name is no name of a folder.
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        for name in names(folder) {
            let path = file.with_file_name(name);
            if belongs(file, &path) {
                self.look_at(path);
            }
        }
    }

    /// A folder of a model or of models, each of which may have so many files.
    fn look_into(&mut self, root: &Path) {
        for name in names(root) {
            let path = root.join(name);
            if path.is_dir() {
                self.look_through(path);
            } else {
                self.look_at(path);
            }
        }
    }

    /// A folder and what is in it, the nearest files first.
    fn look_through(&mut self, folder: PathBuf) {
        let mut folders = VecDeque::from([(folder, 0)]);
        let mut left = MOST_FILES;
        while let Some((folder, depth)) = folders.pop_front() {
            for name in names(&folder) {
                let path = folder.join(name);
                if left == 0 {
                    return;
                }
                left -= 1;
                if !path.is_dir() {
                    self.look_at(path);
                } else if depth < DEEPEST {
                    folders.push_back((path, depth + 1));
                }
            }
        }
    }

    fn look_at(&mut self, file: PathBuf) {
        if let Some(trace) = Trace::of(&file) {
            self.0.insert(file, trace);
        }
    }
}

impl Trace {
    /// Of what a link leads to, not of the link.
    fn of(file: &Path) -> Option<Trace> {
        let metadata = fs::metadata(file).ok()?;
        Some(Trace {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Whether a file beside this one is a part of the same model.
fn belongs(file: &Path, other: &Path) -> bool {
    if file == other {
        return true;
    }
    let beside = file.parent() == other.parent();
    let named = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let weights = || match (named(file), named(other)) {
        (Some(file), Some(other)) => other.starts_with(&file),
        _ => false,
    };
    beside && ((is_python(file) && is_python(other)) || weights())
}

fn is_python(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "py")
}

/// The names in a folder, sorted, without hidden ones and without what Python writes there by itself.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| !name.starts_with('.') && name != "__pycache__")
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new() -> Disk {
            Disk(tempfile::tempdir().unwrap())
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
        }

        fn stamp(&self, source: &str) -> Stamp {
            let source = ModelSource::parse(source).unwrap().beneath(self.0.path());
            Stamp::of(&[source])
        }
    }

    #[test]
    fn a_file_is_seen_with_what_belongs_to_it() {
        let disk = Disk::new();
        disk.write("m.py", "a");
        disk.write("n.onnx", "a");
        let table: [(&str, &str, bool); 8] = [
            ("m.py", "notes.txt", false),
            ("m.py", "m.py", true),
            ("m.py", "helper.py", true),
            ("m.py", "n.onnx", false),
            ("n.onnx", "n.onnx", true),
            ("n.onnx", "n.onnx.data", true),
            ("n.onnx", "other.onnx", false),
            ("n.onnx", "helper.py", false),
        ];
        for (source, file, expected) in table {
            let before = disk.stamp(source);
            disk.write(file, "changed, and longer");
            let changed = disk.stamp(source) != before;
            assert_eq!(changed, expected, "{source} {file}");
            disk.write(file, "a");
        }
    }

    #[test]
    fn in_a_folder_everything_counts_that_is_not_hidden() {
        let disk = Disk::new();
        disk.write("models/a/model.py", "a");
        let table = [
            ("models/a/weights/0.bin", true),
            ("models/a/model.toml", true),
            ("models/b/1/model.onnx", true),
            ("models/README.md", true),
            ("models/.a/model.py", false),
            ("models/a/.model.py.swp", false),
            ("models/a/__pycache__/model.pyc", false),
        ];
        for (file, expected) in table {
            let before = disk.stamp("models");
            disk.write(file, "new");
            assert_eq!(disk.stamp("models") != before, expected, "{file}");
        }
    }

    #[test]
    fn a_version_is_its_folder_and_what_versions_share() {
        let disk = Disk::new();
        disk.write("models/a/1/model.onnx", "a");
        disk.write("models/a/2/model.onnx", "a");
        let scope = Scope::Folder {
            folder: disk.at("models/a"),
            version: Some("2".to_owned()),
        };
        let table = [
            ("models/a/2/model.onnx", true),
            ("models/a/2/more/w.bin", true),
            ("models/a/model.toml", true),
            ("models/a/shared/words.txt", true),
            ("models/a/1/model.onnx", false),
            ("models/a/3/model.onnx", false),
            ("models/b/model.onnx", false),
            ("models/ab/model.onnx", false),
        ];
        for (file, expected) in table {
            let before = disk.stamp("models").within(&scope);
            disk.write(file, "new");
            let now = disk.stamp("models").within(&scope);
            assert_eq!(now != before, expected, "{file}");
        }
    }

    #[test]
    fn files_that_were_moved_or_linked_are_new() {
        let disk = Disk::new();
        disk.write("models/a/model.onnx", "a");
        disk.write("releases/1/model.onnx", "a");
        disk.write("releases/2/model.onnx", "a");
        let mut seen = disk.stamp("models");
        let mut changed = || {
            let now = disk.stamp("models");
            let changed = now != seen;
            seen = now;
            changed
        };
        // As long as the one it replaces, and perhaps as old.
        disk.write("models/.new", "b");
        fs::rename(disk.at("models/.new"), disk.at("models/a/model.onnx")).unwrap();
        assert!(changed());
        symlink(disk.at("releases/1"), disk.at("models/b")).unwrap();
        assert!(changed());
        symlink(disk.at("releases/2"), disk.at("models/.b")).unwrap();
        assert!(!changed());
        fs::rename(disk.at("models/.b"), disk.at("models/b")).unwrap();
        assert!(changed());
        fs::remove_file(disk.at("models/b")).unwrap();
        assert!(changed());
    }

    #[test]
    fn looking_has_an_end() {
        let disk = Disk::new();
        disk.write("models/a/model.onnx", "a");
        symlink(disk.at("models"), disk.at("models/a/circle")).unwrap();
        for number in 0..MOST_FILES {
            disk.write(&format!("models/many/{number}"), "");
        }
        disk.write("models/z/model.onnx", "a");
        let stamp = disk.stamp("models");
        assert!(stamp.0.len() <= 3 * MOST_FILES + 1, "{}", stamp.0.len());
        assert!(stamp.0.contains_key(&disk.at("models/z/model.onnx")));
    }
}
