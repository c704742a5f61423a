//! `jitney predict`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use jitney_server::call::Call;
use jitney_server::failure::Failure;
use jitney_server::protocol::predict::{decode_item, encode_item};

use crate::args::predict::PredictArgs;
use crate::cmd::models::Models;
use crate::cmd::{block_on, print};
use crate::exit::Problem;
use crate::settings;

/// The longest item that is read: far more than any model takes, and far less than memory.
const MAX_ITEM_BYTES: u64 = 1 << 30;

/// Loads the model, predicts one item, prints the answer.
pub(crate) fn run(args: PredictArgs) -> Result<(), Problem> {
    let source = settings::source(&args.source)?;
    let settings = settings::load(args.load)?;
    let item = read(&args.input)?;
    print(&block_on(async {
        let models = Models::load(&source, &settings).await?;
        predict(&models, &item).await
    })?)
}

async fn predict(models: &Models, item: &[u8]) -> Result<String, Problem> {
    let lane = models.only()?;
    let inputs = decode_item(item, lane.spec()).map_err(problem)?;
    let deadline = Instant::now() + lane.deadline();
    let outcome = lane
        .infer(Call::new(inputs, deadline))
        .await
        .map_err(problem)?;
    let mut answer = Vec::new();
    encode_item(&mut answer, lane.spec(), &outcome.outputs);
    answer.push(b'\n');
    String::from_utf8(answer).map_err(Problem::failure)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut item = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_ITEM_BYTES)
            .read_to_end(&mut item)
    } else {
        File::open(path).and_then(|file| file.take(MAX_ITEM_BYTES).read_to_end(&mut item))
    };
    match read {
        Ok(_) => Ok(item),
        Err(error) => Err(Problem::failure(format!("{}: {error}", path.display()))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn problem(failure: Failure) -> Problem {
    Problem::failure(format!("{}: {}", failure.code.word(), failure.message))
}
