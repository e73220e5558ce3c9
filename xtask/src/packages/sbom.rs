//! A bill of materials, CycloneDX 1.5: every crate that is in the program, with its licence, its hash and what it needs. By what cargo
//! says of the build (`cargo metadata`, Cargo.lock): the format asks for little more than those figures under other names. OWASP's
//! own library reads it in CI.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{elsewhere, shell};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// Absent for what is linked; `dev` and `build` else.
    kind: Option<String>,
}

/// The document for a target.
pub(super) fn make(workspace: &Path, target: &str) -> Result<String> {
    let mut command = shell::cargo(workspace);
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
    let metadata = shell::read(&mut command, "cargo must describe the workspace")?;
    let metadata: Metadata = serde_json::from_slice(&metadata).context("cargo's description is not understood")?;
    let lock = std::fs::read_to_string(workspace.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    Ok(serde_json::to_string_pretty(&document(&metadata, &checksums(&lock))?)? + "\n")
}

fn document(metadata: &Metadata, checksums: &HashMap<(String, String), String>) -> Result<Value> {
    let packages: HashMap<_, _> = metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: HashMap<_, _> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let root = metadata.packages.iter().find(|package| package.name == "sockwatch").context("no package sockwatch")?;
    let linked = |id: &str| -> Vec<&str> {
        let deps = nodes.get(id).map_or(&[][..], |node| &node.deps);
        let is_linked = |it: &&Dependency| it.dep_kinds.iter().any(|kind| kind.kind.is_none());
        deps.iter().filter(is_linked).map(|it| it.pkg.as_str()).collect()
    };
    let (mut reached, mut next) = (BTreeSet::from([root.id.as_str()]), vec![root.id.as_str()]);
    while let Some(id) = next.pop() {
        next.extend(linked(id).into_iter().filter(|id| reached.insert(id)));
    }
    // Ordered by name, so that the same build makes the same document.
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in &reached {
        let package = packages.get(id).with_context(|| format!("cargo does not describe {id}"))?;
        let mut needs: Vec<_> = linked(id).iter().filter_map(|id| packages.get(id).map(|it| purl(it))).collect();
        needs.sort();
        needs.dedup();
        dependencies.insert(purl(package), json!({"ref": purl(package), "dependsOn": needs}));
        if package.id != root.id {
            let checksum = checksums.get(&(package.name.clone(), package.version.clone()));
            components.insert(purl(package), component(package, "library", checksum));
        }
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(root, "application", None)},
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

fn component(package: &Package, kind: &str, checksum: Option<&String>) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
        "scope": "required",
    });
    if let Some(description) = &package.description {
        component["description"] = description.trim().into();
    }
    if let Some(license) = &package.license {
        // As crates wrote it before SPDX had expressions.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"))
}

/// The hashes of what came from a registry, by name and version, of Cargo.lock.
fn checksums(lock: &str) -> HashMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    let blocks = lock.split("[[package]]");
    blocks
        .filter_map(|block| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?)))
        .collect()
}

/// Lets OWASP's own library read the document, and look whether each reference leads somewhere.
pub(super) fn check(workspace: &Path, bill: &Path) -> Result<()> {
    let python = elsewhere::python(workspace)?;
    let mut script = Command::new(python);
    script.arg(workspace.join("xtask/src/packages/sbom.py")).arg(bill);
    shell::run(&mut script, "the bill of materials must be valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_is_not() {
        let metadata = r#"{"packages": [
            {"id": "s", "name": "sockwatch", "version": "1.0.0", "license": "MIT", "repository": null, "description": null},
            {"id": "a", "name": "a", "version": "2.0.0+x", "license": "MIT/Apache-2.0", "repository": "https://a", "description": " A\n"},
            {"id": "b", "name": "b", "version": "3.0.0", "license": null, "repository": null, "description": null}],
            "resolve": {"nodes": [
            {"id": "s", "deps": [{"pkg": "a", "dep_kinds": [{"kind": null}]}, {"pkg": "b", "dep_kinds": [{"kind": "dev"}]}]},
            {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": "build"}]}]}, {"id": "b", "deps": []}]}}"#;
        let lock = "[[package]]\nname = \"a\"\nversion = \"2.0.0+x\"\nsource = \"s\"\nchecksum = \"ab12\"\n\n[[package]]\nname = \"b\"\n";
        let document = document(&serde_json::from_str(metadata).unwrap(), &checksums(lock)).unwrap();
        let components = document["components"].as_array().unwrap();
        assert_eq!(components.len(), 1, "{document}");
        assert_eq!(components[0]["purl"], "pkg:cargo/a@2.0.0%2Bx");
        assert_eq!(components[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(components[0]["hashes"][0]["content"], "ab12");
        assert_eq!(document["dependencies"][1]["dependsOn"], json!(["pkg:cargo/a@2.0.0%2Bx"]));
    }
}
