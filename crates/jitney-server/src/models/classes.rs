//! Which class of a Python file is the model, where nobody said.
//!
//! The file is not run for that, only looked at: a class at the left margin with one of the methods by which a model answers.

/// The only class of this Python text that can be a model.
///
/// # Errors
/// A sentence that says how many there are and what to change.
pub(super) fn only_model(source: &str) -> Result<&str, String> {
    let models = models(source);
    match models.as_slice() {
        [only] => Ok(only),
        [] => Err(
            "no class in it has a method predict, predict_batch or stream\n  hint: write one, or name the class that inherits one, as in FILE.py:Class"
                .to_owned(),
        ),
        many => Err(format!(
            "{} of its classes can be the model: {}\n  hint: say which, as in FILE.py:{}, or as class = \"{}\" in model.toml",
            many.len(),
            many.join(", "),
            many[0],
            many[0],
        )),
    }
}

fn models(source: &str) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    let mut class = None;
    for line in source.lines() {
        if let Some(name) = class_at_margin(line) {
            class = Some(name);
        } else if answers(line)
            && let Some(name) = class.take()
        {
            models.push(name);
        }
    }
    models
}

/// The name in `class Name:` or `class Name(Base):`.
fn class_at_margin(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("class ")?.trim_start();
    let end = rest.find(|char: char| !(char.is_alphanumeric() || char == '_'))?;
    (end > 0).then(|| &rest[..end])
}

/// Whether an indented line defines a method by which a model answers.
fn answers(line: &str) -> bool {
    let code = line.trim_start();
    let code = code.strip_prefix("async ").unwrap_or(code).trim_start();
    let Some(name) = code.strip_prefix("def ") else {
        return false;
    };
    let name = name.split('(').next().unwrap_or_default().trim();
    code.len() < line.len() && ["predict", "predict_batch", "stream"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_model_is_found() {
        let table = [
            "class Net:\n    def predict(self, item): ...\n",
            "import x\n\n@deco\nclass Net(Base):\n\tasync def predict(self, item):\n\t\treturn 1\n",
            "class Other:\n    x = 1\n\nclass Net :\n  def  stream (self, item): yield 1\n",
            "class Helper:\n    def predict_all(self): ...\nclass Net:\n    def predict_batch(self, a): ...\n    def predict(self, a): ...\n",
        ];
        for source in table {
            assert_eq!(only_model(source), Ok("Net"), "{source}");
        }
    }

    #[test]
    fn none_and_many_are_said() {
        let none = only_model("def predict(item): ...\n\nclass Config:\n    pass\n").unwrap_err();
        assert!(none.starts_with("no class in it has a method"), "{none}");
        let two =
            "class A:\n    def predict(self, x): ...\nclass B:\n    def predict(self, x): ...\n";
        let many = only_model(two).unwrap_err();
        assert!(
            many.starts_with("2 of its classes can be the model: A, B\n  hint: say which"),
            "{many}"
        );
    }
}
