//! Whether modules form floors; pure: modules come in, faults go out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::tree::Module;

/// Begins the paragraph in which a module says the floors of its children.
const SAYS: &str = "Floors, from the ground up:";
/// Imports that are shown of a circle.
const SHOWN: usize = 12;

type Modules = BTreeMap<Vec<String>, Module>;

/// One import: who, at which place, of whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// `FILE:LINE`.
    pub at: String,
    /// Path of the module that is named.
    pub of: String,
}

/// What keeps a crate from having floors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The root does not say its floors.
    Unsaid {
        /// File of the root.
        file: String,
    },
    /// A room stands on no floor, or a floor names no room.
    Unknown {
        /// File that says the floors.
        file: String,
        /// Rooms without a floor.
        missing: Vec<String>,
        /// Names without a room.
        unknown: Vec<String>,
    },
    /// A room imports from one that is not below it.
    Upwards {
        /// The room that imports.
        from: String,
        /// From whom.
        to: String,
        /// Where.
        imports: Vec<Import>,
    },
    /// Rooms import from each other.
    Circle {
        /// The rooms.
        rooms: Vec<String>,
        /// Where.
        imports: Vec<Import>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid { file } => {
                write!(f, "{file} does not say the floors of its rooms: add a line `//! {SAYS} `a` < `b`, `c`.`")
            }
            Self::Unknown { file, missing, unknown } => write!(
                f,
                "{file}: the floors in its documentation lack [{}] and name [{}], which is no room: correct the line `{SAYS}`",
                missing.join(", "),
                unknown.join(", ")
            ),
            Self::Upwards { from, to, imports } => {
                write!(
                    f,
                    "`{from}` imports from `{to}`, which does not stand below it: move what both need into a room below both, hand it in \
                     as an argument from above, or, if the floors themselves are wrong, change the line `{SAYS}`"
                )?;
                shown(f, imports)
            }
            Self::Circle { rooms, imports } => {
                write!(
                    f,
                    "circle between `{}`: move what they share into a file below, or split the file that does two jobs",
                    rooms.join("`, `")
                )?;
                shown(f, imports)
            }
        }
    }
}

fn shown(f: &mut fmt::Formatter<'_>, imports: &[Import]) -> fmt::Result {
    for Import { at, of } in imports.iter().take(SHOWN) {
        write!(f, "\n    {at} names {of}")?;
    }
    match imports.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n    and {more} more"),
    }
}

/// Everything that keeps the modules of a crate from forming floors; empty: they do.
#[must_use]
pub fn check(modules: &Modules) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, module) in modules {
        let rooms: BTreeSet<&str> = children(modules, path);
        if rooms.is_empty() {
            continue;
        }
        let arrows = arrows(modules, path);
        match floors(&module.doc) {
            Some(floors) => faults.extend(against(module, path, &rooms, &floors, &arrows)),
            None if path.is_empty() && rooms.len() > 1 => {
                faults.push(Fault::Unsaid { file: module.file.display().to_string() });
            }
            None => {}
        }
        faults.extend(circles(path, &arrows));
    }
    faults
}

/// Names of the rooms directly in a module.
fn children<'a>(modules: &'a Modules, path: &[String]) -> BTreeSet<&'a str> {
    modules
        .keys()
        .filter(|p| p.len() == path.len() + 1 && p.starts_with(path))
        .map(|p| p[path.len()].as_str())
        .collect()
}

/// Between the rooms of one module, and the module's own file, which has the empty name: who imports from whom, and where.
type Arrows<'a> = BTreeMap<(&'a str, &'a str), Vec<Import>>;

fn arrows<'a>(modules: &'a Modules, path: &[String]) -> Arrows<'a> {
    let mut arrows = Arrows::new();
    for (from, module) in modules.iter().filter(|(p, _)| p.starts_with(path)) {
        for (to, line) in module.imports.iter().filter(|(to, _)| to.starts_with(path)) {
            let room = |p: &'a [String]| p.get(path.len()).map_or("", String::as_str);
            let (a, b) = (room(from), room(to));
            if a != b {
                let import = Import { at: format!("{}:{line}", module.file.display()), of: to.join("::") };
                let imports = arrows.entry((a, b)).or_default();
                if !imports.contains(&import) {
                    imports.push(import);
                }
            }
        }
    }
    arrows
}

/// The floors that a documentation says, from the ground up.
fn floors(doc: &str) -> Option<Vec<Vec<String>>> {
    let at = doc.find(SAYS)? + SAYS.len();
    let said = doc[at..].split("\n\n").next()?.split('.').next()?;
    let name = |room: &str| room.trim().trim_matches(['`', '[', ']']).to_owned();
    Some(said.split('<').map(|floor| floor.split(',').map(name).collect()).collect())
}

fn against(
    module: &Module,
    path: &[String],
    rooms: &BTreeSet<&str>,
    floors: &[Vec<String>],
    arrows: &Arrows<'_>,
) -> Vec<Fault> {
    let floor: BTreeMap<&str, usize> =
        floors.iter().enumerate().flat_map(|(n, floor)| floor.iter().map(move |room| (room.as_str(), n))).collect();
    let missing: Vec<_> = rooms.iter().filter(|r| !floor.contains_key(**r)).map(ToString::to_string).collect();
    let unknown: Vec<_> = floor.keys().filter(|r| !rooms.contains(**r)).map(ToString::to_string).collect();
    let mut faults = Vec::new();
    if !missing.is_empty() || !unknown.is_empty() {
        faults.push(Fault::Unknown { file: module.file.display().to_string(), missing, unknown });
    }
    let upwards = arrows.iter().filter(|((from, to), _)| match (floor.get(from), floor.get(to)) {
        (Some(from), Some(to)) => from <= to,
        _ => false,
    });
    faults.extend(upwards.map(|((from, to), imports)| Fault::Upwards {
        from: name(path, from),
        to: name(path, to),
        imports: imports.clone(),
    }));
    faults
}

/// Rooms that reach each other, each set of them once.
fn circles(path: &[String], arrows: &Arrows<'_>) -> Vec<Fault> {
    let nodes: BTreeSet<&str> = arrows.keys().flat_map(|(a, b)| [*a, *b]).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = nodes.iter().map(|n| (*n, reach(n, arrows))).collect();
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for node in &nodes {
        let circle: BTreeSet<&str> =
            reached[node].iter().filter(|other| reached[*other].contains(node)).copied().collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        let within = arrows.iter().filter(|((a, b), _)| circle.contains(a) && circle.contains(b));
        faults.push(Fault::Circle {
            rooms: circle.iter().map(|room| name(path, room)).collect(),
            imports: within.flat_map(|(_, imports)| imports.clone()).collect(),
        });
    }
    faults
}

/// All that can be reached by at least one arrow.
fn reach<'a>(from: &'a str, arrows: &Arrows<'a>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        let next = arrows.keys().filter(|(a, _)| *a == node).map(|(_, b)| *b);
        open.extend(next.filter(|b| reached.insert(*b)));
    }
    reached
}

fn name(path: &[String], room: &str) -> String {
    let full: Vec<&str> = path.iter().map(String::as_str).chain((!room.is_empty()).then_some(room)).collect();
    if full.is_empty() { "the root".into() } else { full.join("::") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules from lines of `path: imported imported`.
    fn modules(doc: &str, lines: &[&str]) -> Modules {
        let path = |p: &str| p.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let mut all: Modules = lines
            .iter()
            .map(|line| {
                let (from, to) = line
                    .split_once(':')
                    .filter(|_| !line.contains("::"))
                    .unwrap_or_else(|| line.split_once(": ").unwrap());
                let imports = to.split_whitespace().map(|p| (path(p), 1)).collect();
                (
                    path(from),
                    Module { file: format!("{}.rs", from.replace("::", "/")).into(), doc: String::new(), imports },
                )
            })
            .collect();
        let root =
            all.entry(Vec::new()).or_insert(Module { file: "lib.rs".into(), doc: String::new(), imports: Vec::new() });
        root.doc = doc.to_owned();
        all
    }

    const DOC: &str = " A crate.\n\n Floors, from the ground up: `a` < `b`,\n `c` < `d`. And more.";

    #[test]
    fn what_imports_downwards_only_has_no_fault() {
        let good = modules(DOC, &["a: ", "b: a", "c: a", "d: b c a", "d::x: a", "d::y: d::x"]);
        assert_eq!(check(&good), []);
    }

    #[test]
    fn an_arrow_upwards_or_along_a_floor_is_a_fault_that_names_its_line() {
        let bad = modules(DOC, &["a: ", "b: c", "c: a", "d: b"]);
        let [Fault::Upwards { from, to, imports }] = &check(&bad)[..] else { panic!("{:?}", check(&bad)) };
        assert_eq!((from.as_str(), to.as_str(), imports[0].at.as_str()), ("b", "c", "b.rs:1"));
    }

    #[test]
    fn rooms_that_import_from_each_other_through_their_depths_are_a_circle() {
        let bad =
            modules(DOC, &["a: ", "b: a", "c: a", "d: ", "d::x: ", "d::x::p: d::y::q", "d::y: d::x", "d::y::q: "]);
        let [Fault::Circle { rooms, imports }] = &check(&bad)[..] else { panic!("{:?}", check(&bad)) };
        assert_eq!(rooms, &["d::x", "d::y"]);
        assert_eq!(imports.len(), 2);
    }

    #[test]
    fn a_parent_that_hands_on_what_its_child_takes_from_it_is_a_circle() {
        let bad = modules(DOC, &["a: ", "b: b::x", "b::x: b", "c: ", "d: "]);
        let [Fault::Circle { rooms, .. }] = &check(&bad)[..] else { panic!("{:?}", check(&bad)) };
        assert_eq!(rooms, &["b", "b::x"]);
    }

    #[test]
    fn every_room_stands_on_a_floor_and_every_floor_has_rooms() {
        let [Fault::Unknown { missing, unknown, .. }] = &check(&modules(DOC, &["a: ", "b: ", "c: ", "e: "]))[..] else {
            panic!("no fault")
        };
        assert_eq!((&missing[..], &unknown[..]), (&["e".to_owned()][..], &["d".to_owned()][..]));
        assert_eq!(check(&modules("", &["a: ", "b: "])), [Fault::Unsaid { file: "lib.rs".into() }]);
    }
}
