//! Models whose ends take their time.

use std::fs;
use std::path::Path;

use super::*;

/// Its end waits until all models of its folder have begun theirs, and notes how many had.
const MODEL: &str = r#"
import time
from pathlib import Path

class Meeting:
    def METHOD

    def close(self):
        folder = Path(__file__).parent
        Path(__file__).with_suffix(".begun").touch()
        begun, end = 0, time.monotonic() + 8
        while begun < 3 and time.monotonic() < end:
            begun = len(list(folder.glob("*.begun")))
            time.sleep(0.005)
        Path(__file__).with_suffix(".met").write_text(str(begun))
"#;

fn write(folder: &Path) -> Vec<String> {
    let methods = [
        ("batch", "predict_batch(self, items): return items"),
        ("item", "predict(self, item): return item"),
        ("stream", "stream(self, item): yield item"),
    ];
    let sources = methods.map(|(name, method)| {
        let file = folder.join(format!("{name}.py"));
        fs::write(&file, MODEL.replace("METHOD", method)).unwrap();
        format!("{name}={}:Meeting", file.display())
    });
    sources.into()
}

#[tokio::test]
async fn models_end_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let sources = write(folder.path());
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let (catalog, ..) = catalog(&sources).await;
    for name in ["batch", "item", "stream"] {
        catalog.model(name, None).unwrap();
    }
    catalog.close();
    catalog.wait_closed().await;
    drop(catalog);
    for name in ["batch", "item", "stream"] {
        let met = fs::read_to_string(folder.path().join(name).with_extension("met"));
        assert_eq!(met.unwrap(), "3", "{name} ended without the others");
    }
}
