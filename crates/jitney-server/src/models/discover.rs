//! From sources to models: what a file, a model's folder or a repository holds.
//!
//! A model's folder has a `model.toml`, or a `model.onnx` (or `model.py`), or versions: folders whose names are whole numbers without a
//! leading zero, each with a model file. With versions, a model file beside them is not looked at, and the policy says which of them are
//! served. A repository is a folder of models' folders; other folders in it, and those whose names begin with a dot, are passed over.
//!
//! What the command line says wrongly is an error. What the disk holds wrongly is a model that failed, so that the others are served.
//!
//! A folder speaks only of what is in it: where a link leads a model file or a file of labels out of the folder that was named as the
//! source, the model fails. Names from requests never reach the disk; they are looked up among the models found here.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::files::Scope;
use crate::config::{
    Control, Engine, Labels, Manifest, ModelSettings, ModelSource, Settings, Sketch, SourceError,
    SourceKind, VersionLabels, check_name, is_version, number,
};

/// What the sources hold.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// In the order of their names and versions.
    pub(super) found: Vec<Found>,
    /// What cannot be meant, and was passed over.
    pub(super) mistakes: Vec<SourceError>,
}

/// One version of one model that is to be served, found but not loaded.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) version: String,
    /// How to load it, or why that cannot even be tried.
    pub(super) plan: Result<Plan, String>,
    /// Words that stand for versions of the model.
    pub(super) labels: VersionLabels,
    /// The files that it is made of.
    pub(super) scope: Scope,
    /// The number of its source.
    pub(super) source: usize,
    /// Whether it stands for a source that held nothing, or that could not be read.
    pub(super) instead: bool,
    /// Its folder or file as a person would name it.
    origin: String,
    /// Versions of one model have the same group; models with the same name must not have different ones.
    group: usize,
}

/// How to load a model.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) file: ModelFile,
    pub(super) settings: ModelSettings,
    pub(super) card: Card,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ModelFile {
    Onnx(PathBuf),
    Python {
        file: PathBuf,
        /// Where none is named, the only one that is a model.
        class: Option<String>,
    },
    Echo(String),
}

/// What a model's folder says about it to people.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Card {
    pub(super) description: Option<String>,
    pub(super) labels: Vec<String>,
    pub(super) sketch: Option<Sketch>,
}

const MANIFEST: &str = "model.toml";
const ONNX_FILE: &str = "model.onnx";
const PYTHON_FILE: &str = "model.py";
/// More text than labels or a `model.toml` have.
const LONGEST_TEXT: u64 = 1024 * 1024;

/// Every version of every model of these sources that is to be served.
pub(super) fn discover(sources: &[ModelSource], settings: &Settings) -> Discovery {
    let mut search = Search {
        settings,
        found: Vec::new(),
        mistakes: Vec::new(),
        source: 0,
        groups: 0,
    };
    for (number, source) in sources.iter().enumerate() {
        search.source = number;
        if let Err(mistake) = search.source(source) {
            search.mistakes.push(mistake);
        }
    }
    search.end()
}

struct Search<'a> {
    settings: &'a Settings,
    found: Vec<Found>,
    mistakes: Vec<SourceError>,
    /// The number of the source that is looked at.
    source: usize,
    groups: usize,
}

/// A model's folder, looked at.
struct Folder {
    path: PathBuf,
    /// What nothing may lead out of.
    root: PathBuf,
    manifest: Result<Manifest, String>,
    /// Empty where the model file lies in the folder itself.
    versions: Vec<String>,
}

impl Search<'_> {
    fn source(&mut self, source: &ModelSource) -> Result<(), SourceError> {
        match &source.kind {
            SourceKind::Echo(text) => {
                let file = Ok(ModelFile::Echo(text.clone()));
                self.single(source, "echo", file)
            }
            SourceKind::Python { file, class: None } if file.is_dir() => self.path(source, file),
            SourceKind::Python { file, class } => {
                let model = ModelFile::Python {
                    file: file.clone(),
                    class: class.clone(),
                };
                self.single(source, &stem(file), Ok(model))
            }
            SourceKind::Onnx(path) if !path.is_dir() => {
                self.single(source, &stem(path), Ok(ModelFile::Onnx(path.clone())))
            }
            SourceKind::Onnx(path) | SourceKind::Folder(path) => self.path(source, path),
        }
    }

    /// A model that is all its source has.
    fn single(
        &mut self,
        source: &ModelSource,
        fallback: &str,
        file: Result<ModelFile, String>,
    ) -> Result<(), SourceError> {
        let name = source.name.as_deref().unwrap_or(fallback);
        check_name(name).map_err(SourceError::Name)?;
        let path = source.kind.path();
        let scope = path.map_or(Scope::Nothing, |path| Scope::File(path.to_owned()));
        let instead = file.is_err();
        let plan = file.and_then(|file| self.plan(file, &Manifest::default(), Card::default()));
        self.found.push(Found {
            name: name.to_owned(),
            version: "1".to_owned(),
            plan,
            labels: VersionLabels::new(),
            scope,
            source: self.source,
            instead,
            origin: source.origin(),
            group: self.groups,
        });
        self.groups += 1;
        Ok(())
    }

    fn path(&mut self, source: &ModelSource, path: &Path) -> Result<(), SourceError> {
        let entries = match subfolders(path) {
            Ok(entries) => entries,
            Err(why) => return self.single(source, &stem(path), Err(why)),
        };
        if let Some(folder) = Folder::look(path, path) {
            return self.folder(source.name.as_deref(), &folder);
        }
        let folders: Vec<Folder> = entries
            .iter()
            .filter_map(|entry| Folder::look(&path.join(entry), path))
            .collect();
        if folders.is_empty() && self.settings.control != Control::None {
            tracing::warn!(source = %path.display(), "the source holds no model yet");
            return Ok(());
        }
        if folders.is_empty() {
            return self.single(source, &stem(path), Err(no_model(path)));
        }
        if let Some(name) = &source.name {
            return Err(SourceError::Name(format!(
                "{} is a repository of {} models, so it cannot be named \"{name}\"\n  hint: leave the name out, or name one of its folders",
                path.display(),
                folders.len()
            )));
        }
        for folder in &folders {
            if let Err(mistake) = self.folder(None, folder) {
                self.mistakes.push(mistake);
            }
        }
        Ok(())
    }

    fn folder(&mut self, name: Option<&str>, folder: &Folder) -> Result<(), SourceError> {
        let said = folder.manifest.as_ref().ok();
        let said = said.and_then(|manifest| manifest.name.clone());
        let name = name
            .map(str::to_owned)
            .or(said)
            .unwrap_or_else(|| stem(&folder.path));
        check_name(&name).map_err(SourceError::Name)?;
        for version in self.chosen(folder) {
            self.found.push(Found {
                name: name.clone(),
                plan: self.plan_in(folder, &version),
                labels: folder.labels(),
                scope: Scope::Folder {
                    folder: folder.path.clone(),
                    version: (!folder.versions.is_empty()).then(|| version.clone()),
                },
                version,
                source: self.source,
                instead: false,
                origin: folder.path.display().to_string(),
                group: self.groups,
            });
        }
        self.groups += 1;
        Ok(())
    }

    /// The versions that are to be served. Where it cannot be known which, the highest tells why.
    fn chosen(&self, folder: &Folder) -> Vec<String> {
        let only = ["1".to_owned()];
        let there = match &folder.versions[..] {
            [] => &only,
            versions => versions,
        };
        let manifest = folder.manifest.as_ref();
        let said = manifest.map_or_else(|_| Default::default(), |said| said.options.clone());
        let policy = self.settings.for_model(&said);
        let policy = policy.map_or_else(|_| Default::default(), |settings| settings.versions);
        policy.choose(there, &folder.labels())
    }

    fn plan_in(&self, folder: &Folder, version: &str) -> Result<Plan, String> {
        let manifest = folder.manifest.as_ref().map_err(Clone::clone)?;
        let file = folder.model_file(manifest, &folder.place(version)?)?;
        self.plan(file, manifest, folder.card(manifest)?)
    }

    fn plan(&self, file: ModelFile, manifest: &Manifest, card: Card) -> Result<Plan, String> {
        let settings = self
            .settings
            .for_model(&manifest.options)
            .map_err(|error| error.to_string())?;
        match &file {
            ModelFile::Onnx(path) | ModelFile::Python { file: path, .. }
                if settings.engine == Engine::Echo =>
            {
                Err(format!(
                    "engine = \"echo\" runs no files, but the model is {}",
                    path.display()
                ))
            }
            _ => Ok(Plan {
                file,
                settings,
                card,
            }),
        }
    }

    fn end(mut self) -> Discovery {
        let mut groups: HashMap<String, (usize, String)> = HashMap::new();
        let mistakes = &mut self.mistakes;
        self.found.retain(|model| {
            let own = (model.group, model.origin.clone());
            let first = groups.entry(model.name.clone()).or_insert(own);
            if first.0 != model.group {
                mistakes.push(SourceError::Duplicate {
                    name: model.name.clone(),
                    first: first.1.clone(),
                    second: model.origin.clone(),
                });
            }
            first.0 == model.group
        });
        let key = |found: &Found| (found.name.clone(), number(&found.version));
        self.found.sort_by_cached_key(key);
        Discovery {
            found: self.found,
            mistakes: self.mistakes,
        }
    }
}

impl Folder {
    /// The folder as a model's folder; `None` where it is not one.
    fn look(path: &Path, root: &Path) -> Option<Folder> {
        let text = path.join(MANIFEST);
        let manifest = if text.is_file() {
            Some(read_manifest(&text))
        } else {
            None
        };
        let said = manifest
            .as_ref()
            .and_then(|manifest| manifest.as_ref().ok());
        let file = said.and_then(|manifest| manifest.file.clone());
        let holds_model = |place: &Path| {
            let named = file.iter().map(String::as_str);
            let mut names = named.chain([ONNX_FILE, PYTHON_FILE]);
            names.any(|name| place.join(name).is_file())
        };
        let mut versions = subfolders(path).ok()?;
        versions.retain(|name| is_version(name) && holds_model(&path.join(name)));
        versions.sort_by_key(|version| number(version));
        if manifest.is_none() && versions.is_empty() && !holds_model(path) {
            return None;
        }
        Some(Folder {
            path: path.to_owned(),
            root: root.to_owned(),
            manifest: manifest.unwrap_or_else(|| Ok(Manifest::default())),
            versions,
        })
    }

    /// Where a version lies, if it is there.
    fn place(&self, version: &str) -> Result<PathBuf, String> {
        if self.versions.is_empty() && version == "1" {
            return Ok(self.path.clone());
        }
        if self.versions.iter().any(|there| there == version) {
            return Ok(self.path.join(version));
        }
        Err(format!(
            "{}: version {version} is asked for, but there is no folder {version} with a model in it",
            self.path.display()
        ))
    }

    fn labels(&self) -> VersionLabels {
        let manifest = self.manifest.as_ref();
        manifest.map_or_else(|_| VersionLabels::new(), |said| said.version_labels.clone())
    }

    fn model_file(&self, manifest: &Manifest, place: &Path) -> Result<ModelFile, String> {
        if let Some(echo) = &manifest.echo {
            return Ok(ModelFile::Echo(echo.clone()));
        }
        if let Some(file) = &manifest.file {
            return self.model_at(manifest, &place.join(file));
        }
        for name in [ONNX_FILE, PYTHON_FILE] {
            let path = place.join(name);
            if path.is_file() {
                return self.model_at(manifest, &path);
            }
        }
        if manifest.options.engine == Some(Engine::Echo) {
            return Ok(ModelFile::Echo("echo".to_owned()));
        }
        Err(no_model(place))
    }

    fn model_at(&self, manifest: &Manifest, path: &Path) -> Result<ModelFile, String> {
        let path = self.inside(path)?;
        if path.extension().is_some_and(|extension| extension == "py") {
            return Ok(ModelFile::Python {
                file: path,
                class: manifest.class.clone(),
            });
        }
        if manifest.class.is_some() {
            return Err(format!(
                "class is for Python models, but the model is {}",
                path.display()
            ));
        }
        Ok(ModelFile::Onnx(path))
    }

    fn card(&self, manifest: &Manifest) -> Result<Card, String> {
        let labels = match &manifest.labels {
            None => Vec::new(),
            Some(Labels::List(labels)) => labels.clone(),
            Some(Labels::File(file)) => {
                let path = self.inside(&self.path.join(file))?;
                read_text(&path)?.lines().map(str::to_owned).collect()
            }
        };
        Ok(Card {
            description: manifest.description.clone(),
            labels,
            sketch: manifest.sketch.clone(),
        })
    }

    /// The file, unless a link leads it out of the folder that was named as the source.
    fn inside(&self, file: &Path) -> Result<PathBuf, String> {
        let real = |path: &Path| {
            path.canonicalize()
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        if real(file)?.starts_with(real(&self.root)?) {
            return Ok(file.to_owned());
        }
        Err(format!(
            "{} leads out of {}\n  hint: copy the file there, or serve it by its own path",
            file.display(),
            self.root.display()
        ))
    }
}

/// The names of the folders in a folder, sorted, without the hidden ones.
fn subfolders(path: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if path.is_file() {
        return Err(format!(
            "{}: expected FILE.onnx, FILE.py:Class, a model's folder or a repository, got another file",
            path.display()
        ));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.path().is_dir() {
            continue;
        }
        match entry.file_name().into_string() {
            Ok(name) if !name.starts_with('.') => names.push(name),
            _ => {}
        }
    }
    names.sort();
    Ok(names)
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    Manifest::parse(&read_text(path)?).map_err(|message| format!("{}: {message}", path.display()))
}

pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // Opening a pipe would wait for somebody to write to it.
    if path.exists() && !path.is_file() {
        return Err(format!("{}: expected a file of text", path.display()));
    }
    let read = fs::File::open(path)
        .and_then(|file| file.take(LONGEST_TEXT + 1).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if read as u64 > LONGEST_TEXT {
        return Err(format!(
            "{}: expected at most {LONGEST_TEXT} bytes of text, got more",
            path.display()
        ));
    }
    Ok(text)
}

/// The last part of a path without its ending, the way back from `.` included; empty where there is none.
fn stem(path: &Path) -> String {
    let real = path.canonicalize();
    let path = match path.file_name() {
        Some(_) => path,
        None => real.as_deref().unwrap_or(path),
    };
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn no_model(path: &Path) -> String {
    format!(
        "{}: expected {MANIFEST}, {ONNX_FILE}, {PYTHON_FILE}, or models' folders as in NAME/VERSION/{ONNX_FILE}, found none of them",
        path.display()
    )
}

#[cfg(test)]
mod tests;
