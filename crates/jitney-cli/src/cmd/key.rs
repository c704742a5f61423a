//! `jitney key`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use jitney_server::access::Secret;
use jitney_server::config::{Key, Scope};

use crate::args::key::{KeyArgs, KeyCommand, NewArgs, ScopeArg};
use crate::cmd::print;
use crate::exit::Problem;

/// Makes a key.
pub(crate) fn run(args: KeyArgs) -> Result<(), Problem> {
    let KeyCommand::New(args) = args.command;
    let secret = Secret::generate().map_err(Problem::failure)?;
    let key = key(args, &secret);
    Key::check_all([&key]).map_err(Problem::usage)?;
    print(&in_toml(&key))?;
    // Apart from the lines for the file, so that the key does not come into the file with them.
    writeln!(
        io::stderr(),
        "the key of {}, shown this once: {}",
        key.name,
        secret.reveal()
    )
    .map_err(|error| Problem::failure(format!("could not write to standard error: {error}")))
}

fn key(args: NewArgs, secret: &Secret) -> Key {
    let mut scopes: Vec<_> = args.scope.into_iter().map(scope).collect();
    scopes.dedup();
    Key {
        name: args.name,
        digest: secret.digest(),
        scopes,
        models: (!args.model.is_empty()).then_some(args.model),
    }
}

const fn scope(scope: ScopeArg) -> Scope {
    match scope {
        ScopeArg::Infer => Scope::Infer,
        ScopeArg::Admin => Scope::Admin,
    }
}

/// Names were checked, so none needs to be escaped.
fn in_toml(key: &Key) -> String {
    let Key {
        name,
        digest,
        scopes,
        models,
    } = key;
    let scopes = scopes.iter().map(|scope| match scope {
        Scope::Infer => "infer",
        Scope::Admin => "admin",
    });
    let mut text = format!(
        "[[keys]]\nname = \"{name}\"\ndigest = \"{digest}\"\nscopes = {}\n",
        list(scopes)
    );
    if let Some(models) = models {
        let _ = writeln!(text, "models = {}", list(models.iter().map(String::as_str)));
    }
    text
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", words.join(", "))
}
