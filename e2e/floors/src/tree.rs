//! The modules of a crate and what each imports from the others: a directory of sources comes in, resolved paths go out.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::imports::{self, Contents, Named};

/// A module in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its file.
    pub file: PathBuf,
    /// Text of its `//!` lines.
    pub doc: String,
    /// Path of each module that it names, the most deeply nested that has a file of its own, with the line.
    pub imports: Vec<(Vec<String>, usize)>,
}

/// A crate's sources cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is neither `lib.rs` nor `main.rs`.
    #[error("{0} has neither lib.rs nor main.rs")]
    NoRoot(PathBuf),
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}; a module lies in NAME.rs in the directory of its parent")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no Rust.
    #[error("{file} cannot be parsed: {source}")]
    Syntax {
        /// Which.
        file: PathBuf,
        /// Why.
        source: syn::Error,
    },
}

/// Reads a crate from its directory of sources; the root has the empty path. Programs beside a library are left out: they stand above it
/// in any case, and nothing can import from them.
///
/// # Errors
/// When a file is missing or no Rust.
pub fn read_crate(sources: &Path) -> Result<BTreeMap<Vec<String>, Module>, ReadError> {
    let root = ["lib.rs", "main.rs"].map(|name| sources.join(name)).into_iter().find(|file| file.exists());
    let root = root.ok_or_else(|| ReadError::NoRoot(sources.into()))?;
    let mut read = BTreeMap::new();
    let mut open = vec![(Vec::new(), root)];
    while let Some((path, file)) = open.pop() {
        let text = fs::read_to_string(&file).map_err(|source| ReadError::File { file: file.clone(), source })?;
        let contents = imports::read(&text).map_err(|source| ReadError::Syntax { file: file.clone(), source })?;
        for child in &contents.modules {
            let path: Vec<_> = path.iter().chain([child]).cloned().collect();
            let file = sources.join(path.join("/")).with_extension("rs");
            open.push((path, file));
        }
        read.insert(path, (file, contents));
    }
    Ok(resolve(read))
}

fn resolve(read: BTreeMap<Vec<String>, (PathBuf, Contents)>) -> BTreeMap<Vec<String>, Module> {
    let is_module = |path: &[String]| read.contains_key(path);
    let module = |(path, (file, contents)): (&Vec<String>, &(PathBuf, Contents))| {
        let targets = contents.names.iter().filter_map(|named| {
            let mut target = absolute(path, named, &contents.modules)?;
            while !is_module(&target) {
                target.pop()?;
            }
            (target != *path).then_some((target, named.line))
        });
        let module = Module { file: file.clone(), doc: contents.doc.clone(), imports: targets.collect() };
        (path.clone(), module)
    };
    read.iter().map(module).collect()
}

/// The path from the crate's root; `None` for what is not of this crate.
fn absolute(at: &[String], named: &Named, children: &[String]) -> Option<Vec<String>> {
    let mut base: Vec<String> = at.iter().chain(&named.inline).cloned().collect();
    let mut segments = named.segments.iter().peekable();
    let first = segments.peek()?.as_str();
    match first {
        "crate" => {
            segments.next();
            base.clear();
        }
        "self" => {
            segments.next();
        }
        "super" => {
            while segments.next_if(|s| *s == "super").is_some() {
                base.pop()?;
            }
        }
        child if named.inline.is_empty() && children.iter().any(|c| c == child) => {}
        _ => return None,
    }
    base.extend(segments.cloned());
    Some(base)
}
