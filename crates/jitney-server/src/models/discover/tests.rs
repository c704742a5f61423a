use std::num::NonZeroUsize;

use tempfile::TempDir;

use super::*;
use crate::config::ModelOptions;

/// A folder with these files; a name that ends with `/` is a folder.
fn disk(files: &[(&str, &str)]) -> TempDir {
    let disk = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = disk.path().join(file);
        if file.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    disk
}

/// What is found at `[NAME=]PATH` within the disk: name, version, and the file or the beginning of what is wrong. `DISK` stands for the
/// disk's own path.
fn found(disk: &TempDir, sources: &[&str]) -> Result<Vec<(String, String, String)>, String> {
    found_with(disk, sources, &Settings::default())
}

fn found_with(
    disk: &TempDir,
    sources: &[&str],
    settings: &Settings,
) -> Result<Vec<(String, String, String)>, String> {
    let root = disk.path().display().to_string();
    let sources: Vec<ModelSource> = sources
        .iter()
        .map(|text| ModelSource::parse(text).unwrap().beneath(disk.path()))
        .collect();
    let shown = |text: String| text.replace(&root, "DISK");
    let discovery = discover(&sources, settings);
    if let Some(mistake) = discovery.mistakes.first() {
        return Err(shown(mistake.to_string()));
    }
    Ok(discovery
        .found
        .into_iter()
        .map(|found| {
            let file = match found.plan {
                Ok(plan) => match plan.file {
                    ModelFile::Onnx(path) => path.display().to_string(),
                    ModelFile::Echo(text) => text,
                    ModelFile::Python { file, class } => {
                        format!("{}:{}", file.display(), class.unwrap_or_default())
                    }
                },
                Err(why) => format!("FAILED {why}"),
            };
            (found.name, found.version, shown(file))
        })
        .collect())
}

fn check(files: &[(&str, &str)], sources: &[&str], expected: &[(&str, &str, &str)]) {
    let found = found(&disk(files), sources).unwrap();
    let found: Vec<(&str, &str, &str)> = found
        .iter()
        .map(|(name, version, file)| (&**name, &**version, &**file))
        .collect();
    assert_eq!(found, expected, "{sources:?} in {files:?}");
}

#[test]
fn files_and_fakes() {
    let files = [("digits.onnx", ""), ("m.py", "")];
    check(
        &files,
        &["digits.onnx"],
        &[("digits", "1", "DISK/digits.onnx")],
    );
    check(
        &files,
        &["d=digits.onnx"],
        &[("d", "1", "DISK/digits.onnx")],
    );
    // Whether it exists is seen when it is loaded.
    check(&[], &["none.onnx"], &[("none", "1", "DISK/none.onnx")]);
    check(&[], &["echo"], &[("echo", "1", "echo")]);
    check(&[], &["e=echo:FP32[2]"], &[("e", "1", "echo:FP32[2]")]);
    check(&files, &["m.py:Digits"], &[("m", "1", "DISK/m.py:Digits")]);
    check(&files, &["x=m.py"], &[("x", "1", "DISK/m.py:")]);
}

#[test]
fn python_models_in_folders() {
    check(
        &[
            ("models/a/model.py", ""),
            ("models/a/model.toml", "class = \"Net\""),
            ("models/b/net.py", ""),
            ("models/b/model.toml", "file = \"net.py\""),
            ("models/c/3/model.py", ""),
            ("models/d/model.onnx", ""),
            ("models/d/model.py", ""),
            ("models/e/model.onnx", ""),
            ("models/e/model.toml", "class = \"Net\""),
            ("models/f/model.py", ""),
            ("models/f/model.toml", "class = \"a.b\""),
        ],
        &["models"],
        &[
            ("a", "1", "DISK/models/a/model.py:Net"),
            ("b", "1", "DISK/models/b/net.py:"),
            ("c", "3", "DISK/models/c/3/model.py:"),
            ("d", "1", "DISK/models/d/model.onnx"),
            (
                "e",
                "1",
                "FAILED class is for Python models, but the model is DISK/models/e/model.onnx",
            ),
            (
                "f",
                "1",
                "FAILED DISK/models/f/model.toml: class must be the name of a class in the model's file, but is \"a.b\"",
            ),
        ],
    );
}

#[test]
fn a_models_folder() {
    check(
        &[("digits/model.onnx", "")],
        &["digits"],
        &[("digits", "1", "DISK/digits/model.onnx")],
    );
    check(
        &[
            ("digits/model.toml", "file = \"net.onnx\""),
            ("digits/net.onnx", ""),
        ],
        &["digits"],
        &[("digits", "1", "DISK/digits/net.onnx")],
    );
    check(
        &[
            ("digits/model.toml", "name = \"d\""),
            ("digits/model.onnx", ""),
        ],
        &["digits"],
        &[("d", "1", "DISK/digits/model.onnx")],
    );
    check(
        &[
            ("digits/model.toml", "name = \"d\""),
            ("digits/model.onnx", ""),
        ],
        &["x=digits"],
        &[("x", "1", "DISK/digits/model.onnx")],
    );
    check(
        &[("fake/model.toml", "[echo]\ninputs = [\"FP32[2]\"]")],
        &["fake"],
        &[("fake", "1", "echo:FP32[2]")],
    );
    check(
        &[("fake/model.toml", "engine = \"echo\"")],
        &["fake"],
        &[("fake", "1", "echo")],
    );
    // A folder may be called like a file.
    check(
        &[("net.onnx/model.onnx", "")],
        &["net.onnx"],
        &[("net.onnx", "1", "DISK/net.onnx/model.onnx")],
    );
}

#[test]
fn versions() {
    check(
        &[
            ("digits/2/model.onnx", ""),
            ("digits/10/model.onnx", ""),
            ("digits/1/model.onnx", ""),
            // None of these is a version with a model.
            ("digits/007/model.onnx", ""),
            ("digits/3/", ""),
            ("digits/v4/model.onnx", ""),
            ("digits/99999999999999999999/model.onnx", ""),
            ("digits/model.onnx", ""),
            ("digits/model.toml", "versions = \"all\""),
        ],
        &["digits"],
        &[
            ("digits", "1", "DISK/digits/1/model.onnx"),
            ("digits", "2", "DISK/digits/2/model.onnx"),
            ("digits", "10", "DISK/digits/10/model.onnx"),
        ],
    );
    check(
        &[
            (
                "digits/model.toml",
                "file = \"net.onnx\"\nversions = \"all\"",
            ),
            ("digits/1/net.onnx", ""),
            ("digits/2/model.onnx", ""),
        ],
        &["digits"],
        &[
            ("digits", "1", "DISK/digits/1/net.onnx"),
            (
                "digits",
                "2",
                "FAILED DISK/digits/2/net.onnx: No such file or directory (os error 2)",
            ),
        ],
    );
}

#[test]
fn the_policy_chooses_versions() {
    let at = |version: &str, policy: &str| {
        let disk = disk(&[
            ("digits/1/model.onnx", ""),
            ("digits/2/model.onnx", ""),
            ("digits/10/model.onnx", ""),
            ("digits/model.toml", policy),
        ]);
        let mut settings = Settings::default();
        settings.file.versions = Some(version.parse().unwrap());
        let found = found_with(&disk, &["digits"], &settings).unwrap();
        let shown = found.into_iter().map(|(_, version, file)| {
            let failed = file.starts_with("FAILED");
            format!("{version}{}", if failed { "!" } else { "" })
        });
        shown.collect::<Vec<_>>().join(" ")
    };
    let table = [
        ("latest", "", "10"),
        ("latest:2", "", "2 10"),
        ("all", "", "1 2 10"),
        // What is said closest to the model wins.
        ("all", "versions = \"latest\"", "10"),
        ("latest", "versions = [1, 2]", "1 2"),
        ("latest", "versions = { latest = 2 }", "2 10"),
        ("latest", "versions = [1, 7]", "1 7!"),
        ("latest", "version_labels = { stable = \"1\" }", "1 10"),
        ("latest", "version_labels = { stable = \"7\" }", "7! 10"),
        ("all", "version_labels = { stable = \"x\" }", "1! 2! 10!"),
    ];
    for (version, policy, expected) in table {
        assert_eq!(at(version, policy), expected, "{version} {policy}");
    }
    check(
        &[
            ("digits/model.onnx", ""),
            ("digits/model.toml", "versions = [1, 2]"),
        ],
        &["digits"],
        &[
            ("digits", "1", "DISK/digits/model.onnx"),
            (
                "digits",
                "2",
                "FAILED DISK/digits: version 2 is asked for, but there is no folder 2 with a model in it",
            ),
        ],
    );
}

#[test]
fn one_mistake_hides_nothing_else() {
    let disk = disk(&[
        ("a/digits/model.onnx", ""),
        ("a/my model/model.onnx", ""),
        ("b/digits/model.onnx", ""),
        ("b/spam/model.onnx", ""),
    ]);
    let sources = ["a", "b"].map(|text| ModelSource::parse(text).unwrap().beneath(disk.path()));
    let discovery = discover(&sources, &Settings::default());
    let names: Vec<_> = discovery
        .found
        .iter()
        .map(|found| (&*found.name, found.source))
        .collect();
    assert_eq!(names, [("digits", 0), ("spam", 1)]);
    assert_eq!(discovery.mistakes.len(), 2, "{:?}", discovery.mistakes);
}

#[test]
fn a_repository() {
    check(
        &[
            ("models/b/1/model.onnx", ""),
            ("models/b/2/model.py", ""),
            ("models/b/model.toml", "versions = \"all\""),
            ("models/a/model.onnx", ""),
            ("models/bad/model.toml", "max_batch = 0"),
            ("models/bad/1/model.onnx", ""),
            ("models/empty/model.toml", ""),
            ("models/scripts/train.py", ""),
            ("models/.git/model.onnx", ""),
            ("models/README.md", ""),
        ],
        &["models", "e=echo"],
        &[
            ("a", "1", "DISK/models/a/model.onnx"),
            ("b", "1", "DISK/models/b/1/model.onnx"),
            ("b", "2", "DISK/models/b/2/model.py:"),
            (
                "bad",
                "1",
                "FAILED DISK/models/bad/model.toml: max_batch must be a whole number from 1 to 65536, but is 0",
            ),
            ("e", "1", "echo"),
            (
                "empty",
                "1",
                "FAILED DISK/models/empty: expected model.toml, model.onnx, model.py, or models' folders as in NAME/VERSION/model.onnx, found none of them",
            ),
        ],
    );
}

#[test]
fn what_is_no_model_fails_alone() {
    let none = "expected model.toml, model.onnx, model.py, or models' folders as in NAME/VERSION/model.onnx, found none of them";
    let other =
        "expected FILE.onnx, FILE.py:Class, a model's folder or a repository, got another file";
    check(
        &[("hollow/", ""), ("weights.bin", "")],
        &["gone", "hollow", "weights.bin"],
        &[
            (
                "gone",
                "1",
                "FAILED DISK/gone: No such file or directory (os error 2)",
            ),
            ("hollow", "1", &format!("FAILED DISK/hollow: {none}")),
            ("weights", "1", &format!("FAILED DISK/weights.bin: {other}")),
        ],
    );
}

#[test]
fn what_cannot_be_meant_is_an_error() {
    let files = [
        ("a/digits/model.onnx", ""),
        ("b/digits/2/model.onnx", ""),
        ("my model.onnx", ""),
        ("c/my model/model.onnx", ""),
    ];
    let table: [(&[&str], &str); 6] = [
        (
            &["a", "b"],
            "two models are named \"digits\": DISK/a/digits and DISK/b/digits\n",
        ),
        (
            &["a", "digits=echo"],
            "two models are named \"digits\": DISK/a/digits and echo\n",
        ),
        (
            &["echo", "echo:FP32[2]"],
            "two models are named \"echo\": echo and echo:FP32[2]\n  hint: name one of them otherwise, as in OTHER=echo:FP32[2]",
        ),
        (
            &["a/digits", "a/digits"],
            "two models are named \"digits\": DISK/a/digits and DISK/a/digits\n",
        ),
        (&["my model.onnx"], "a model's name has 1 to 128 characters"),
        (&["c"], "a model's name has 1 to 128 characters"),
    ];
    let disk = disk(&files);
    for (sources, expected) in table {
        let error = found(&disk, sources).unwrap_err();
        assert!(error.starts_with(expected), "{sources:?}: {error}");
    }
    let named = found(&disk, &["x=a"]).unwrap_err();
    assert!(
        named.starts_with("DISK/a is a repository of 1 models, so it cannot be named \"x\""),
        "{named}"
    );
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_out() {
    use std::os::unix::fs::symlink;
    let disk = disk(&[
        ("secret.onnx", ""),
        ("models/in/real.onnx", ""),
        ("models/out/1/", ""),
        ("models/words/model.onnx", ""),
        ("models/words/model.toml", "labels = \"labels.txt\""),
    ]);
    let at = |path: &str| disk.path().join(path);
    symlink("real.onnx", at("models/in/model.onnx")).unwrap();
    symlink(at("secret.onnx"), at("models/out/1/model.onnx")).unwrap();
    symlink(at("secret.onnx"), at("models/words/labels.txt")).unwrap();
    let found = found(&disk, &["models"]).unwrap();
    let files: Vec<&str> = found.iter().map(|(_, _, file)| file.as_str()).collect();
    assert_eq!(files[0], "DISK/models/in/model.onnx");
    assert!(
        files[1].starts_with("FAILED DISK/models/out/1/model.onnx leads out of DISK/models\n"),
        "{}",
        files[1]
    );
    assert!(
        files[2].starts_with("FAILED DISK/models/words/labels.txt leads out of DISK/models\n"),
        "{}",
        files[2]
    );
}

#[test]
fn a_folder_describes_its_model() {
    let disk = disk(&[
        ("digits/model.onnx", ""),
        ("digits/labels.txt", "zero\none\n"),
        (
            "digits/model.toml",
            "description = \"Digits\"\nlabels = \"labels.txt\"\nmax_batch = 7\npage.sketch = { width = 8, height = 8, max = 16 }",
        ),
    ]);
    let mut settings = Settings::default();
    let source = ModelSource::parse("digits").unwrap().beneath(disk.path());
    let plan = |settings: &Settings| {
        discover(std::slice::from_ref(&source), settings)
            .found
            .remove(0)
            .plan
            .unwrap()
    };
    let first = plan(&settings);
    assert_eq!(first.card.labels, ["zero", "one"]);
    assert_eq!(first.card.description.as_deref(), Some("Digits"));
    assert_eq!(first.card.sketch.unwrap().width, 8);
    assert_eq!(first.settings.max_batch, NonZeroUsize::new(7).unwrap());
    settings.given = ModelOptions {
        max_batch: Some(3),
        ..ModelOptions::default()
    };
    assert_eq!(
        plan(&settings).settings.max_batch,
        NonZeroUsize::new(3).unwrap()
    );
}

#[test]
fn an_engine_without_files_runs_none() {
    let settings = Settings {
        given: ModelOptions {
            engine: Some(Engine::Echo),
            ..ModelOptions::default()
        },
        ..Settings::default()
    };
    let source = [ModelSource::parse("d.onnx").unwrap()];
    let why = discover(&source, &settings)
        .found
        .remove(0)
        .plan
        .unwrap_err();
    assert_eq!(
        why,
        "engine = \"echo\" runs no files, but the model is d.onnx"
    );
}
