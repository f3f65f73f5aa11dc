//! Walks the crate's syntax tree, module by module as the compiler would, and reports what breaks
//! the rules of `docs/architecture.md`.
//!
//! It starts at a root file and follows `mod` declarations, so each path is resolved from the
//! module that it really stands in. Code under `#[cfg(test)]` is walked for lint exemptions only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Source files by their path below `src/`.
pub type Sources = BTreeMap<PathBuf, String>;

pub struct Rules<'a> {
    /// Top-level module and its layer.
    pub layers: &'a [(&'a str, u8)],
    /// Crate (as written in code) and the top-level modules that may name it.
    pub confined: &'a [(&'a str, &'a [&'a str])],
    /// Lines of a file outside `#[cfg(test)]`.
    pub longest_file: usize,
}

/// What breaks a rule, one line each: `file:line: what`.
pub fn check(sources: &Sources, roots: &[&str], rules: &Rules<'_>) -> Vec<String> {
    let mut crate_walk = CrateWalk { sources, rules, seen: BTreeSet::new(), found: Vec::new() };
    for root in roots {
        crate_walk.file(Path::new(root), Path::new(""), &[], false);
    }
    for path in sources.keys().filter(|path| !crate_walk.seen.contains(*path)) {
        crate_walk.found.push(format!("{}: no module declares this file", path.display()));
    }
    crate_walk.found
}

struct CrateWalk<'a> {
    sources: &'a Sources,
    rules: &'a Rules<'a>,
    seen: BTreeSet<PathBuf>,
    found: Vec<String>,
}

impl CrateWalk<'_> {
    /// `children` is the folder in which the file's own `mod x;` are looked for.
    fn file(&mut self, path: &Path, children: &Path, module: &[String], test: bool) {
        let Some(text) = self.sources.get(path) else {
            self.found.push(format!("{}: this file is missing", path.display()));
            return;
        };
        self.seen.insert(path.to_owned());
        let tree = match syn::parse_file(text) {
            Ok(tree) => tree,
            Err(error) => {
                let line = error.span().start().line;
                self.found.push(format!("{}:{line}: {error}", path.display()));
                return;
            }
        };
        let mut walk = FileWalk {
            rules: self.rules,
            file: path,
            module: module.to_vec(),
            folder: children.to_owned(),
            test,
            test_lines: 0,
            submodules: Vec::new(),
            found: &mut self.found,
        };
        walk.visit_file(&tree);
        let lines = text.lines().count().saturating_sub(walk.test_lines);
        let submodules = std::mem::take(&mut walk.submodules);
        if !test && lines > self.rules.longest_file {
            self.found.push(format!(
                "{}: {lines} lines outside tests, at most {} are allowed: split it",
                path.display(),
                self.rules.longest_file
            ));
        }
        for submodule in submodules {
            let name = submodule.module.last().cloned().unwrap_or_default();
            let flat = submodule.folder.join(format!("{name}.rs"));
            let nested = submodule.folder.join(&name).join("mod.rs");
            let path = if self.sources.contains_key(&nested) { nested } else { flat };
            self.file(&path, &submodule.folder.join(&name), &submodule.module, submodule.test);
        }
    }
}

struct Submodule {
    module: Vec<String>,
    folder: PathBuf,
    test: bool,
}

struct FileWalk<'a> {
    rules: &'a Rules<'a>,
    file: &'a Path,
    module: Vec<String>,
    folder: PathBuf,
    test: bool,
    test_lines: usize,
    submodules: Vec<Submodule>,
    found: &'a mut Vec<String>,
}

impl FileWalk<'_> {
    fn report(&mut self, line: usize, what: &str) {
        self.found.push(format!("{}:{line}: {what}", self.file.display()));
    }

    /// Judges one path, given as its segments.
    fn path(&mut self, segments: &[String], absolute: bool, line: usize) {
        let Some(first) = segments.first().filter(|_| !self.test) else { return };
        let mut place = match first.as_str() {
            "crate" | "wicketgate" => Vec::new(),
            "self" | "super" if !absolute => self.module.clone(),
            name => return self.foreign(name, line),
        };
        for segment in segments {
            match segment.as_str() {
                "super" => drop(place.pop()),
                "crate" | "wicketgate" | "self" => {}
                name => place.push(name.to_owned()),
            }
        }
        let Some(target) = place.first().cloned() else {
            return self.report(line, "the crate's root is imported whole: name what is used");
        };
        let Some(own) = self.module.first().cloned() else { return };
        if own == target {
            return;
        }
        match (self.layer(&own), self.layer(&target)) {
            (_, None) => {
                self.report(line, &format!("`crate::{target}` is no module with a layer"));
            }
            (Some(here), Some(there)) if there >= here => self.report(
                line,
                &format!("`{own}` (layer {here}) must not use `{target}` (layer {there})"),
            ),
            _ => {}
        }
    }

    fn foreign(&mut self, name: &str, line: usize) {
        let Some((_, owners)) = self.rules.confined.iter().find(|(krate, _)| *krate == name) else {
            return;
        };
        let own = self.module.first().map_or("", String::as_str);
        if !owners.contains(&own) {
            let message = format!("`{name}` belongs in {} only", owners.join("/, ") + "/");
            self.report(line, &message);
        }
    }

    fn layer(&self, module: &str) -> Option<u8> {
        self.rules.layers.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &[String], absolute: bool) {
        let line = tree.span().start().line;
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident), absolute),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix, absolute);
                }
            }
            syn::UseTree::Name(name) => self.path(&with(&name.ident), absolute, line),
            syn::UseTree::Rename(rename) => self.path(&with(&rename.ident), absolute, line),
            syn::UseTree::Glob(_) => self.path(prefix, absolute, line),
        }
    }

    /// Macro input is only tokens: every `a::b` in it is taken for a path.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 || segments.is_empty() {
                        self.token_path(&mut segments, line);
                        line = ident.span().start().line;
                    }
                    segments.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    if colons == 2 && !segments.is_empty() {
                        let what = "a group import inside a macro can't be checked: spell it out";
                        self.report(line, what);
                    }
                    self.token_path(&mut segments, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.token_path(&mut segments, line);
                    colons = 0;
                }
            }
        }
        self.token_path(&mut segments, line);
    }

    fn token_path(&mut self, segments: &mut Vec<String>, line: usize) {
        if segments.len() > 1 {
            self.path(segments, false, line);
        }
        segments.clear();
    }

    fn exemption(&mut self, attribute: &syn::Attribute) {
        let line = attribute.span().start().line;
        let syn::Meta::List(list) = &attribute.meta else { return };
        let is = |names: &[&str]| names.iter().any(|name| list.path.is_ident(name));
        if is(&["allow", "expect"]) && !has_reason(list.tokens.clone()) {
            self.report(line, "an exemption from a lint needs a `reason`");
        }
        if is(&["cfg_attr"]) && names_exemption(list.tokens.clone()) {
            self.report(line, "an exemption from a lint inside `cfg_attr` can't be checked");
        }
    }
}

fn has_reason(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| matches!(token, TokenTree::Ident(name) if name == "reason"))
}

fn names_exemption(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => name == "allow" || name == "expect",
        TokenTree::Group(group) => names_exemption(group.stream()),
        _ => false,
    })
}

/// `#[test]` and `#[cfg(test)]`, also within `all(..)`; not `any(test, ..)`, which ships.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let text: String = list.tokens.to_string().split_whitespace().collect();
            text == "test" || text.starts_with("all(test,")
        }
        _ => false,
    })
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for FileWalk<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let was = self.test;
        if !was && is_test(attributes_of(item)) {
            self.test = true;
            self.test_lines += item.span().end().line - item.span().start().line + 1;
        }
        visit::visit_item(self, item);
        self.test = was;
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let line = item.span().start().line;
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            self.report(line, "`#[path]` hides where a module is");
        }
        self.module.push(name.clone());
        if self.module.len() == 1 && !self.test && self.layer(&name).is_none() {
            self.report(line, &format!("module `{name}` has no layer: give it one"));
        }
        if item.content.is_none() {
            self.submodules.push(Submodule {
                module: self.module.clone(),
                folder: self.folder.clone(),
                test: self.test,
            });
        }
        let outer = self.folder.clone();
        self.folder.push(&name);
        visit::visit_item_mod(self, item);
        self.folder = outer;
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[], item.leading_colon.is_some());
        visit::visit_item_use(self, item);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.report(item.span().start().line, "`extern crate` can rename a crate: use `use`");
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.path(&segments, path.leading_colon.is_some(), path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if item.path.segments.last().is_some_and(|segment| segment.ident == "include") {
            self.report(item.span().start().line, "`include!` hides code from this check");
        }
        if !self.test {
            self.tokens(item.tokens.clone());
        }
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        self.exemption(attribute);
        visit::visit_attribute(self, attribute);
    }
}
