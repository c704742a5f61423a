//! What must be known of an ONNX file before an engine is let near it: its signature, its operators, and that it is whole.
//!
//! The file is walked once, weights are skipped unread, and nothing is allocated that the file's own length does not cover. What passes
//! here can be truncated or altered no further than inside single values, so an engine's own parser cannot be made to reserve absurd
//! amounts of memory or to recurse without end. Files are read, never executed.

mod signature;
mod wire;

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Seek};
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};

use wire::{Field, Source, Value as Wire};

use crate::LoadError;

/// How deep graphs may lie within graphs, and types within types. Real models stay below five.
const DEPTH: u32 = 32;

/// The most elements a tensor in a file may claim. 2^40 are four terabytes of `FP32`.
const ELEMENTS: u128 = 1 << 40;

/// An integer beyond this is no quantity but the exporters' way to say "to the very end".
const SENTINEL: u64 = 1 << 62;

/// The outline of an ONNX file.
#[derive(Debug, Default)]
pub(crate) struct ModelFile {
    path: PathBuf,
    /// The inputs of the graph, those with a default value in the file included.
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    initializers: BTreeSet<String>,
    /// The operators of all graphs and functions, as `DOMAIN.NAME`, or the name alone for those of the standard.
    pub(crate) operators: BTreeSet<String>,
    /// A tensor constant with 64-bit integers that 32 bits cannot hold.
    pub(crate) wide_integers: Option<String>,
    /// The name of a convolution that leaves the shape of its kernel to be seen from the weights.
    pub(crate) bare_convolution: Option<String>,
    /// How many nodes the file has, those of nested graphs included.
    pub(crate) nodes: usize,
    /// How many nodes the largest nested graph has.
    pub(crate) nested_nodes: usize,
    /// The size of the weights within the file and beside it.
    pub(crate) bytes: u64,
    external: Vec<External>,
    has_graph: bool,
}

/// An input or output of the graph.
#[derive(Clone, Debug, Default)]
struct Value {
    name: String,
    kind: Kind,
    shape: Option<Vec<FileDim>>,
}

/// What an input or output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    /// A tensor of an element type of `TensorProto.DataType`.
    Tensor(u64),
    Other(&'static str),
}

/// A dimension as the file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FileDim {
    Fixed(usize),
    Named(String),
    Unnamed,
}

/// What is of interest in an attribute of a node.
struct Attribute {
    name: String,
    /// Whether it has an integer that 32 bits cannot hold.
    wide: bool,
}

/// Where the elements of a tensor lie, if not in the file.
#[derive(Debug, Default)]
struct External {
    location: Option<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl ModelFile {
    /// Reads the outline of a file.
    ///
    /// # Errors
    /// When the file cannot be read, is no ONNX file, is cut off or damaged, nests too deeply, or keeps weights outside its folder.
    pub(crate) fn read(path: &Path) -> Result<ModelFile, LoadError> {
        let unreadable = |error| LoadError::new(format!("{}: {error}", path.display()));
        // Before it is opened: opening a pipe waits for somebody to write to it.
        let metadata = path.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            let message = format!(
                "{}: expected a file, got {}",
                path.display(),
                kind(&metadata)
            );
            return Err(LoadError::new(message));
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut model = ModelFile::parse(BufReader::new(file), metadata.len())
            .map_err(|error| damaged(path, &error))?;
        model.path = path.to_path_buf();
        model.bytes = metadata.len() + model.check_external()?;
        Ok(model)
    }

    fn parse(reader: impl BufRead + Seek, length: u64) -> Result<ModelFile, wire::Error> {
        let mut model = ModelFile::default();
        let mut source = Source::new(reader);
        let mut has_version = false;
        while let Some(field) = source.field(length)? {
            match field.number {
                1 => has_version = true,
                7 => model.graph(&mut source, &field, 0)?,
                25 => model.function(&mut source, &field)?,
                _ => {}
            }
            source.finish(&field)?;
        }
        if has_version && model.has_graph {
            Ok(model)
        } else {
            Err(wire::Error::Malformed("it has no graph"))
        }
    }

    fn graph<R>(&mut self, s: &mut Source<R>, graph: &Field, depth: u32) -> Result<(), wire::Error>
    where
        R: BufRead + Seek,
    {
        let depth = deeper(depth)?;
        self.has_graph = true;
        let outer = self.nodes;
        let end = graph.end()?;
        while let Some(field) = s.field(end)? {
            match field.number {
                1 => self.node(s, &field, depth)?,
                5 => {
                    let name = self.tensor(s, &field)?;
                    if depth == 1 {
                        self.initializers.insert(name);
                    }
                }
                11..=13 => {
                    let value = value(s, &field)?;
                    match field.number {
                        11 if depth == 1 => self.inputs.push(value),
                        12 if depth == 1 => self.outputs.push(value),
                        _ => {}
                    }
                }
                15 => self.sparse_tensor(s, &field)?,
                _ => {}
            }
            s.finish(&field)?;
        }
        if depth > 1 {
            self.nested_nodes = self.nested_nodes.max(self.nodes - outer);
        }
        Ok(())
    }

    fn function<R>(&mut self, s: &mut Source<R>, function: &Field) -> Result<(), wire::Error>
    where
        R: BufRead + Seek,
    {
        let end = function.end()?;
        while let Some(field) = s.field(end)? {
            match field.number {
                7 => self.node(s, &field, 1)?,
                11 => {
                    self.attribute(s, &field, 1)?;
                }
                _ => {}
            }
            s.finish(&field)?;
        }
        Ok(())
    }

    fn node<R>(&mut self, s: &mut Source<R>, node: &Field, depth: u32) -> Result<(), wire::Error>
    where
        R: BufRead + Seek,
    {
        self.nodes += 1;
        let (mut name, mut operator, mut domain) = (String::new(), String::new(), String::new());
        let (mut wide, mut has_kernel_shape) = (false, false);
        let end = node.end()?;
        while let Some(field) = s.field(end)? {
            match field.number {
                3 => name = s.text(&field)?,
                4 => operator = s.text(&field)?,
                5 => {
                    let attribute = self.attribute(s, &field, depth)?;
                    has_kernel_shape |= attribute.name == "kernel_shape";
                    wide |= attribute.wide;
                }
                7 => domain = s.text(&field)?,
                _ => {}
            }
            s.finish(&field)?;
        }
        if wide && operator == "Constant" && self.wide_integers.is_none() {
            self.wide_integers = Some("a Constant node".to_owned());
        }
        let convolves = matches!(operator.as_str(), "Conv" | "ConvInteger" | "ConvTranspose");
        if convolves && !has_kernel_shape && self.bare_convolution.is_none() {
            self.bare_convolution = Some(name);
        }
        if !matches!(domain.as_str(), "" | "ai.onnx") {
            operator = format!("{domain}.{operator}");
        }
        self.operators.insert(operator);
        Ok(())
    }

    /// Walks an attribute of a node.
    fn attribute<R>(
        &mut self,
        s: &mut Source<R>,
        attribute: &Field,
        depth: u32,
    ) -> Result<Attribute, wire::Error>
    where
        R: BufRead + Seek,
    {
        let (mut name, mut wide) = (String::new(), false);
        let end = attribute.end()?;
        while let Some(field) = s.field(end)? {
            match (field.number, &field.value) {
                (1, _) => name = s.text(&field)?,
                (3 | 8, Wire::Varint(value)) => wide |= is_wide(value.cast_signed()),
                (8, _) => wide |= wide_varints(s, &field)?,
                (5 | 10, _) => {
                    self.tensor(s, &field)?;
                }
                (6 | 11, _) => self.graph(s, &field, depth)?,
                (14 | 15, _) => {
                    type_of(s, &field, 0)?;
                }
                (22 | 23, _) => self.sparse_tensor(s, &field)?,
                _ => {}
            }
            s.finish(&field)?;
        }
        Ok(Attribute { name, wide })
    }

    fn sparse_tensor<R>(&mut self, s: &mut Source<R>, field: &Field) -> Result<(), wire::Error>
    where
        R: BufRead + Seek,
    {
        let end = field.end()?;
        while let Some(field) = s.field(end)? {
            if matches!(field.number, 1 | 2) {
                self.tensor(s, &field)?;
            }
            s.finish(&field)?;
        }
        Ok(())
    }

    /// Walks a constant tensor, whose name is returned.
    fn tensor<R>(&mut self, s: &mut Source<R>, tensor: &Field) -> Result<String, wire::Error>
    where
        R: BufRead + Seek,
    {
        let (mut name, mut datatype, mut wide) = (String::new(), 0, false);
        let (mut elements, mut empty) = (1_u128, false);
        let mut external = External::default();
        let mut is_external = false;
        let end = tensor.end()?;
        while let Some(field) = s.field(end)? {
            match (field.number, &field.value) {
                (1, _) => s.varints(&field, |dim| {
                    empty |= dim == 0;
                    elements = elements.saturating_mul(u128::from(dim.max(1)));
                })?,
                (2, Wire::Varint(value)) => datatype = *value,
                (7, _) => wide |= wide_varints(s, &field)?,
                (8, _) => name = s.text(&field)?,
                (9, _) if datatype == signature::INT64 => wide |= wide_words(s, &field)?,
                (13, _) => external.entry(s, &field)?,
                (14, Wire::Varint(location)) => is_external = *location == 1,
                _ => {}
            }
            s.finish(&field)?;
        }
        if elements > ELEMENTS && !empty {
            return Err(wire::Error::Malformed(
                "a tensor claims an impossible shape",
            ));
        }
        if wide && datatype == signature::INT64 && self.wide_integers.is_none() {
            self.wide_integers = Some(format!("the constant \"{name}\""));
        }
        if is_external {
            self.external.push(external);
        }
        Ok(name)
    }

    /// Checks that the weights beside the file are there and whole, and counts their bytes.
    fn check_external(&self) -> Result<u64, LoadError> {
        let mut total = 0_u64;
        for external in &self.external {
            let bytes = external
                .check(&self.path)
                .map_err(|error| LoadError::new(format!("{}: {error}", self.path.display())))?;
            total = total.saturating_add(bytes);
        }
        Ok(total)
    }

    /// Whether the answer for a row can depend on the rows beside it, since values are quantized over the whole batch.
    pub(crate) fn quantizes_dynamically(&self) -> bool {
        self.operators.iter().any(|operator| {
            let name = operator.rsplit('.').next().unwrap_or_default();
            name.starts_with("DynamicQuantize")
        })
    }

    /// The file that was read.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub(crate) fn error(&self, message: impl std::fmt::Display) -> LoadError {
        LoadError::new(format!("{}: {message}", self.path.display()))
    }
}

/// How many instances of one thread suit a model with so many bytes of weights, of which there is room for `copies`.
///
/// Two instances of one thread beat one instance of two threads: the second thread makes a call 1.1 to 2 times as fast, the second
/// instance does twice the work. A model of a few kilobytes is done before a second instance has woken up, and one instance then gets
/// all rows in larger batches. Beyond eight, the instances wait for the same memory, and batches grow thin.
pub(crate) fn suggested_instances(cores: NonZeroUsize, bytes: u64, copies: u64) -> NonZeroUsize {
    const TINY: u64 = 256 * 1024;
    let copies = usize::try_from(copies).unwrap_or(usize::MAX);
    let instances = if bytes < TINY {
        1
    } else {
        cores.get().min(8).min(copies)
    };
    NonZeroUsize::new(instances).unwrap_or(NonZeroUsize::MIN)
}

impl External {
    fn entry<R>(&mut self, s: &mut Source<R>, entry: &Field) -> Result<(), wire::Error>
    where
        R: BufRead + Seek,
    {
        let (mut key, mut value) = (String::new(), String::new());
        let end = entry.end()?;
        while let Some(field) = s.field(end)? {
            match field.number {
                1 => key = s.text(&field)?,
                2 => value = s.text(&field)?,
                _ => {}
            }
            s.finish(&field)?;
        }
        match key.as_str() {
            "location" => self.location = Some(value),
            "offset" => self.offset = Some(value),
            "length" => self.length = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// The number of bytes, when they are all there and nowhere but in the folder.
    fn check(&self, model: &Path) -> Result<u64, String> {
        let location = self.location.as_deref().unwrap_or_default();
        let plain = Path::new(location);
        let inside = !location.is_empty()
            && (plain.components()).all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(format!(
                "its weights must lie in its own folder, but it asks for \"{location}\""
            ));
        }
        let path = model.with_file_name(plain);
        let file = own_file(model, &path)?;
        let number = |text: &Option<String>| -> Result<Option<u64>, String> {
            let Some(text) = text else { return Ok(None) };
            let wrong = |_| format!("expected a number of bytes, got \"{text}\"");
            text.parse().map(Some).map_err(wrong)
        };
        let offset = number(&self.offset)?.unwrap_or(0);
        let length = number(&self.length)?.unwrap_or(file.len().saturating_sub(offset));
        match offset.checked_add(length) {
            Some(end) if end <= file.len() => Ok(length),
            _ => Err(format!(
                "its weights are cut off: expected {length} bytes at {offset} of {}, which has {}",
                path.display(),
                file.len(),
            )),
        }
    }
}

/// What is known of a file that really is in the model's folder: not elsewhere behind a link, and not a device or a pipe. A model from a
/// stranger must not be able to show what is in other files of the machine.
fn own_file(model: &Path, path: &Path) -> Result<Metadata, String> {
    let missing = |error| format!("its weights are missing: {}: {error}", path.display());
    let file = path.metadata().map_err(missing)?;
    if !file.is_file() {
        let kind = kind(&file);
        return Err(format!(
            "its weights must be a file, but {} is {kind}",
            path.display()
        ));
    }
    let real = path.canonicalize().map_err(missing)?;
    if !real_folders(model).any(|folder| real.starts_with(folder)) {
        return Err(format!(
            "its weights must lie in its own folder, but {} is a link to elsewhere; copy the file there",
            path.display()
        ));
    }
    if links(&file) > 1 {
        return Err(format!(
            "its weights must lie in its own folder only, but {} is a hard link; copy the file there",
            path.display()
        ));
    }
    Ok(file)
}

/// Where a model's folder really is: the folder of its path, and that of the file when its path is a link. Download caches keep a model's
/// files in one folder and links to all of them in another.
fn real_folders(model: &Path) -> impl Iterator<Item = PathBuf> {
    let named = match model.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let linked = model.canonicalize().ok();
    let linked = linked.and_then(|real| real.parent().map(Path::to_path_buf));
    named.canonicalize().into_iter().chain(linked)
}

/// Under how many names the file is known.
fn links(file: &Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::nlink(file);
    #[cfg(not(unix))]
    return 1;
}

/// What something is that is no file.
fn kind(other: &Metadata) -> &'static str {
    if other.is_dir() {
        "a folder"
    } else {
        "a pipe or device"
    }
}

fn damaged(path: &Path, error: &wire::Error) -> LoadError {
    LoadError::new(format!(
        "{}: not a whole ONNX file: {error}",
        path.display()
    ))
    .hint("export or copy it again")
}

fn deeper(depth: u32) -> Result<u32, wire::Error> {
    if depth < DEPTH {
        Ok(depth + 1)
    } else {
        Err(wire::Error::Malformed("it nests too deeply"))
    }
}

fn value<R: BufRead + Seek>(s: &mut Source<R>, field: &Field) -> Result<Value, wire::Error> {
    let mut value = Value::default();
    let end = field.end()?;
    while let Some(field) = s.field(end)? {
        match field.number {
            1 => value.name = s.text(&field)?,
            2 => (value.kind, value.shape) = type_of(s, &field, 0)?,
            _ => {}
        }
        s.finish(&field)?;
    }
    Ok(value)
}

type Type = (Kind, Option<Vec<FileDim>>);

fn type_of<R>(s: &mut Source<R>, field: &Field, depth: u32) -> Result<Type, wire::Error>
where
    R: BufRead + Seek,
{
    let depth = deeper(depth)?;
    let mut found = (Kind::Unknown, None);
    let end = field.end()?;
    while let Some(field) = s.field(end)? {
        match field.number {
            1 => found = tensor_type(s, &field)?,
            4 => found = (Kind::Other("a sequence"), inner_type(s, &field, 1, depth)?),
            5 => found = (Kind::Other("a map"), inner_type(s, &field, 2, depth)?),
            8 => found = (Kind::Other("a sparse tensor"), None),
            9 => found = (Kind::Other("optional"), inner_type(s, &field, 1, depth)?),
            _ => {}
        }
        s.finish(&field)?;
    }
    Ok(found)
}

/// Walks the type within a type, only to bound its depth.
fn inner_type<R>(
    s: &mut Source<R>,
    field: &Field,
    number: u64,
    depth: u32,
) -> Result<Option<Vec<FileDim>>, wire::Error>
where
    R: BufRead + Seek,
{
    let end = field.end()?;
    while let Some(field) = s.field(end)? {
        if field.number == number {
            type_of(s, &field, depth)?;
        }
        s.finish(&field)?;
    }
    Ok(None)
}

fn tensor_type<R: BufRead + Seek>(s: &mut Source<R>, field: &Field) -> Result<Type, wire::Error> {
    let (mut datatype, mut shape) = (0, None);
    let end = field.end()?;
    while let Some(field) = s.field(end)? {
        match (field.number, &field.value) {
            (1, Wire::Varint(value)) => datatype = *value,
            (2, _) => {
                let mut dims = Vec::new();
                let end = field.end()?;
                while let Some(field) = s.field(end)? {
                    if field.number == 1 {
                        dims.push(dim(s, &field)?);
                    }
                    s.finish(&field)?;
                }
                shape = Some(dims);
            }
            _ => {}
        }
        s.finish(&field)?;
    }
    Ok((Kind::Tensor(datatype), shape))
}

fn dim<R: BufRead + Seek>(s: &mut Source<R>, field: &Field) -> Result<FileDim, wire::Error> {
    let mut found = FileDim::Unnamed;
    let end = field.end()?;
    while let Some(field) = s.field(end)? {
        match (field.number, &field.value) {
            (1, Wire::Varint(value)) => {
                // A negative size, as older exporters write it, is any size.
                let size = usize::try_from(value.cast_signed());
                found = size.map_or(FileDim::Unnamed, FileDim::Fixed);
            }
            (2, _) => {
                let name = s.text(&field)?;
                found = if signature::is_generated(&name) {
                    FileDim::Unnamed
                } else {
                    FileDim::Named(name)
                };
            }
            _ => {}
        }
        s.finish(&field)?;
    }
    Ok(found)
}

fn wide_varints<R: BufRead + Seek>(s: &mut Source<R>, field: &Field) -> Result<bool, wire::Error> {
    let mut wide = false;
    s.varints(field, |value| wide |= is_wide(value.cast_signed()))?;
    Ok(wide)
}

fn wide_words<R: BufRead + Seek>(s: &mut Source<R>, field: &Field) -> Result<bool, wire::Error> {
    let mut wide = false;
    s.words(field, |value| wide |= is_wide(value))?;
    Ok(wide)
}

fn is_wide(value: i64) -> bool {
    i32::try_from(value).is_err() && value.unsigned_abs() < SENTINEL
}
