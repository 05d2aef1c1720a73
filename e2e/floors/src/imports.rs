//! What one file names of its crate: source text comes in; paths with their lines, and the modules that it declares, go out.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, File, ImplItemFn, ItemConst, ItemEnum, ItemFn, ItemImpl, ItemMod, ItemStatic, ItemStruct, ItemTrait,
    ItemType, ItemUse, Macro, Meta, Path, UseTree, Visibility,
    visit::{self, Visit},
};

/// A path as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its segments, `crate`, `self` and `super` among them.
    pub(crate) segments: Vec<String>,
    /// Inline modules around it; `self` and `super` count from there.
    pub(crate) inline: Vec<String>,
    /// Line, from 1.
    pub(crate) line: usize,
}

/// What a file says of the crate.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Text of the `//!` lines.
    pub(crate) doc: String,
    /// Modules in files of their own, without those for tests.
    pub(crate) modules: Vec<String>,
    /// All that may be paths of the crate.
    pub(crate) names: Vec<Named>,
}

/// Reads a file's text.
pub(crate) fn read(text: &str) -> Result<Contents, syn::Error> {
    let file: File = syn::parse_str(text)?;
    let mut contents = Contents { doc: doc(&file.attrs), ..Contents::default() };
    let mut reader = Reader { contents: &mut contents, inline: Vec::new() };
    reader.visit_file(&file);
    Ok(contents)
}

struct Reader<'a> {
    contents: &'a mut Contents,
    inline: Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, segments: Vec<String>, line: usize) {
        self.contents.names.push(Named { segments, inline: self.inline.clone(), line });
    }

    fn note_use(&mut self, before: &[String], tree: &UseTree) {
        let with = |ident: &syn::Ident| before.iter().cloned().chain([ident.to_string()]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.note_use(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_use(before, tree)),
            UseTree::Name(name) if name.ident == "self" => self.note(before.to_vec(), line(name.ident.span())),
            UseTree::Name(name) => self.note(with(&name.ident), line(name.ident.span())),
            UseTree::Rename(name) if name.ident == "self" => self.note(before.to_vec(), line(name.ident.span())),
            UseTree::Rename(name) => self.note(with(&name.ident), line(name.ident.span())),
            UseTree::Glob(glob) => self.note(before.to_vec(), line(glob.star_token.spans[0])),
        }
    }

    /// Paths in what a macro is given: it is no syntax yet.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path = Loose::default();
        let mut after_dollar = false;
        for token in tokens {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.segments.is_empty() && path.colons < 2 => {
                    path.colons += 1;
                }
                TokenTree::Ident(ident) if path.colons == 2 => {
                    path.segments.push(ident.to_string());
                    path.colons = 0;
                }
                _ => {
                    self.note_loose(std::mem::take(&mut path));
                    if let TokenTree::Ident(ident) = &token {
                        // `$crate` is the crate of the macro, wherever it is used.
                        path = Loose {
                            segments: vec![ident.to_string()],
                            colons: 0,
                            line: line(ident.span()),
                            is_dollar: after_dollar,
                        };
                    }
                }
            }
            after_dollar = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '$');
            if let TokenTree::Group(group) = token {
                self.note_tokens(group.stream());
            }
        }
        self.note_loose(path);
    }

    fn note_loose(&mut self, path: Loose) {
        if path.segments.len() > 1 && !path.is_dollar {
            self.note(path.segments, path.line);
        }
    }
}

/// A path in a macro's tokens, as far as it has been read.
#[derive(Default)]
struct Loose {
    segments: Vec<String>,
    /// Colons since the last segment.
    colons: u8,
    line: usize,
    is_dollar: bool,
}

/// Visits an item unless it is for tests.
macro_rules! outside_tests {
    ($($name:ident: $item:ty),* $(,)?) => {
        $(fn $name(&mut self, item: &'ast $item) {
            if !for_tests(&item.attrs) {
                visit::$name(self, item);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Reader<'_> {
    outside_tests! {
        visit_item_fn: ItemFn,
        visit_item_impl: ItemImpl,
        visit_impl_item_fn: ImplItemFn,
        visit_item_struct: ItemStruct,
        visit_item_enum: ItemEnum,
        visit_item_trait: ItemTrait,
        visit_item_type: ItemType,
        visit_item_const: ItemConst,
        visit_item_static: ItemStatic,
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if for_tests(&item.attrs) {
            return;
        }
        if item.content.is_none() {
            // Declared in an inline module it would lie elsewhere; nobody does that here, and reading the tree fails then.
            self.contents.modules.push(item.ident.to_string());
            return;
        }
        self.inline.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.inline.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !for_tests(&item.attrs) {
            self.note_use(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            self.note(path.segments.iter().map(|s| s.ident.to_string()).collect(), line(path.segments[0].ident.span()));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.note_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    /// `pub(super)` names nothing that is used.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn line(at: Span) -> usize {
    at.start().line
}

/// `#[test]`, `#[cfg(test)]` and `#[cfg(all(test, …))]`.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test") || condition.starts_with("all(test")
        }
        _ => false,
    })
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        read(text).unwrap().names.iter().map(|n| format!("{}:{}", n.line, n.segments.join("::"))).collect()
    }

    #[test]
    fn every_path_outside_tests_is_seen() {
        let text = "use crate::{a::{self, B}, c};\nfn f() -> super::D {\n    say!(\"{}\", crate::e::F);\n    g::h(c)\n}\n\
                    #[cfg(test)]\nmod tests {\n    use crate::x::Y;\n}\n#[test]\nfn t() {\n    crate::z::z();\n}\n";
        assert_eq!(names(text), ["1:crate::a", "1:crate::a::B", "1:crate::c", "2:super::D", "3:crate::e::F", "4:g::h"]);
    }

    #[test]
    fn a_visibility_and_a_macros_own_crate_name_nothing() {
        assert_eq!(names("pub(in crate::a) struct S;\nmacro_rules! m { () => { $crate::b::c() } }\n"), ["2:b::c"; 0]);
    }

    #[test]
    fn modules_of_tests_are_left_out_and_inline_ones_remembered() {
        let contents = read("mod a;\n#[cfg(test)]\nmod tests;\nmod b {\n    use super::c::D;\n}\n").unwrap();
        assert_eq!(contents.modules, ["a"]);
        assert_eq!(contents.names[0].inline, ["b"]);
    }
}
