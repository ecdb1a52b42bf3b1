//! The kernel programs' object, which is committed so that Skein builds with stable Rust alone.
//!
//! Built by Debian's rustc, which has a prebuilt `core` for BPF, and linked by bpf-linker. What is
//! committed has BTF but no debug information, and no path of the machine that built it.

use crate::{
    run::{Step, run, sh},
    setup,
};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

/// The committed object.
fn committed() -> PathBuf {
    crate::root().join("ebpf/skein.bpf.o")
}

/// Rebuilds the committed object; with `check`, only says whether it is what the sources build.
///
/// # Errors
/// The build fails; or, with `check`, the two differ.
pub fn ebpf(check: bool) -> anyhow::Result<()> {
    setup::setup(true)?;
    let step = Step::begin_commands("build the kernel programs");
    let built = build()?;
    step.end("built");
    if !check {
        fs::copy(&built, committed())?;
        println!("wrote {}", committed().display());
        return Ok(());
    }
    let (new, old) = (parts(&built)?, parts(&committed())?);
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let differ: Vec<&str> = names
        .into_iter()
        .filter(|name| new.get(*name) != old.get(*name))
        .map(String::as_str)
        .collect();
    ensure!(
        differ.is_empty(),
        "the committed object is not what the sources build ({}): run `cargo xtask ebpf` and commit ebpf/skein.bpf.o",
        differ.join(", ")
    );
    println!("the committed object is what the sources build");
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let folder = crate::root().join("ebpf");
    let target = crate::target_dir()?.join("ebpf");
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--remap-path-prefix={}=.", folder.display()),
        format!(
            "--remap-path-prefix={}=cargo",
            home.context("HOME is not set")?
        ),
    ];
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC", "/usr/bin/rustc")
        // Debian's stable compiler has what BPF needs, behind the gate of the nightly one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run(&mut cargo)?;
    let built = target.join(TARGET).join("release/skein");
    let stripped = target.join("skein.bpf.o");
    sh(&format!(
        "/usr/lib/llvm-22/bin/llvm-objcopy --strip-debug {} {}",
        built.display(),
        stripped.display()
    ))?;
    Ok(stripped)
}

/// What the kernel is given, part by part: the instructions of each section, what their relocations
/// name, and the definition of each map. Symbol numbers and line tables are not compared: the order in
/// which they come may differ.
fn parts(object: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut parts = definitions(object)?;
    let dump = |option: &str, section: &str| {
        let dump = sh(&format!(
            "/usr/lib/llvm-22/bin/llvm-objdump {option} --section={section} {}",
            object.display()
        ))?;
        // The first lines name the file.
        anyhow::Ok(dump.lines().skip(3).collect::<Vec<_>>().join("\n"))
    };
    for section in [
        "classifier",
        "xdp",
        "cgroup/connect4",
        "cgroup/sendmsg4",
        "cgroup/recvmsg4",
        "cgroup/getpeername4",
        ".text",
    ] {
        let instructions = dump("--full-contents", section)?;
        parts.insert(format!("instructions of {section}"), instructions);
        // By offset: type, and the name of the map or function.
        let relocations = dump("--reloc", section)?;
        parts.insert(format!("relocations of {section}"), relocations);
    }
    Ok(parts)
}

/// The maps' definitions, from BTF: the section `.maps` itself is all zero.
fn definitions(object: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let dump = sh(&format!(
        "bpftool --json btf dump file {} format raw",
        object.display()
    ))?;
    let dump: Value = serde_json::from_str(&dump).context("cannot read bpftool's dump of BTF")?;
    let types = dump["types"].as_array();
    let types = types.context("bpftool's dump of BTF has no types")?;
    let maps = types
        .iter()
        .find(|entry| entry["kind"] == "DATASEC" && entry["name"] == ".maps");
    let maps = maps.and_then(|section| section["vars"].as_array());
    let maps = maps.with_context(|| format!("{} defines no map", object.display()))?;
    let by_id: BTreeMap<u64, &Value> = types
        .iter()
        .filter_map(|entry| Some((entry["id"].as_u64()?, entry)))
        .collect();
    let define = |entry: &Value| {
        let variable = *by_id.get(&entry["type_id"].as_u64()?)?;
        let name = variable["name"].as_str()?;
        let definition = spelled_out(variable, &by_id, &mut Vec::new());
        Some((format!("map {name}"), definition.to_string()))
    };
    let defined: Option<BTreeMap<_, _>> = maps.iter().map(define).collect();
    defined.context("bpftool's dump of BTF has maps without a definition")
}

/// A BTF entry with the types that it names in the place of their numbers, which say nothing.
fn spelled_out(entry: &Value, by_id: &BTreeMap<u64, &Value>, within: &mut Vec<u64>) -> Value {
    match entry {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "id");
            let fields = fields.map(|(name, value)| {
                let id = value.as_u64().filter(|_| name.ends_with("type_id"));
                let value = match id.and_then(|id| Some((id, *by_id.get(&id)?))) {
                    // A type that leads back to itself.
                    Some((id, named)) if within.contains(&id) => named["name"].clone(),
                    Some((id, named)) => {
                        within.push(id);
                        let named = spelled_out(named, by_id, within);
                        within.pop();
                        named
                    }
                    None => spelled_out(value, by_id, within),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|entry| spelled_out(entry, by_id, within));
            Value::Array(entries.collect())
        }
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_what_it_names_whatever_the_numbers() {
        let define = |entries: [u64; 2], count: u64| {
            let array = json!({"id": entries[0], "kind": "ARRAY", "nr_elems": count});
            let map = json!({"id": entries[1], "kind": "STRUCT", "name": "Map", "members": [
                {"name": "max_entries", "type_id": entries[0]},
                {"name": "itself", "type_id": entries[1]},
            ]});
            let by_id = BTreeMap::from([(entries[0], &array), (entries[1], &map)]);
            spelled_out(&json!({"type_id": entries[1]}), &by_id, &mut Vec::new())
        };
        assert_eq!(define([1, 2], 64), define([8, 5], 64));
        assert_ne!(define([1, 2], 64), define([1, 2], 65));
    }
}
