//! `weir ingress lint`: what weir-ingress will honour of Ingress objects, and what not. What one that runs has in force is
//! asked in `proxy.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::ingress::compile::{Settings, compile};
use ::ingress::files::Files;
use ::ingress::object::World;
use ::policy::places::Places;
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use crate::agents::unless_closed;
use crate::columns::{Tone, toned};
use crate::format::{Format, count};
use crate::proxy;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name what weir-ingress would not honour of Ingress objects
    #[command(after_help = AFTER)]
    Lint {
        /// File or folder of Kubernetes YAML or JSON. Give the Services, too
        #[arg(short = 'f', long = "filename", value_name = "MANIFESTS", num_args = 1.., required = true)]
        files: Vec<PathBuf>,
        /// `json` is a list with an object for each finding
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Show the rules that a running weir-ingress has in force, in the order in which they are asked
    Routes(proxy::Args),
    /// Show where it sends requests, and how each endpoint is doing
    Backends(proxy::Args),
    /// Show which certificate each host shows
    Certs(proxy::Args),
}

const AFTER: &str = "\
Every object is looked at as if its class were Weir's, whatever class it names. Endpoints and Secrets are not \
looked at: they need not be written anywhere.

Exit status: 0 if nothing is found, 1 if something is, 2 if the manifests cannot be read.";

/// One thing that would not be as it is written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    at: Option<String>,
    object: String,
    field: String,
    message: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Linted {
    ingresses: usize,
    rules: usize,
    findings: Vec<Finding>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let (files, output) = match args.command {
        Command::Lint { files, output } => (files, output),
        Command::Routes(args) => return proxy::routes(&args),
        Command::Backends(args) => return proxy::backends(&args),
        Command::Certs(args) => return proxy::certs(&args),
    };
    let linted = match lint(files) {
        Ok(linted) => linted,
        Err(error) => {
            eprintln!("weir: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    unless_closed(print(&linted, output))?;
    Ok(if linted.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The error is all that is wrong with files that cannot be read, a line each.
fn lint(paths: Vec<PathBuf>) -> Result<Linted, String> {
    let mut files = Files::new(paths);
    let (mut world, mut warnings) =
        files.read(&mut |_| {}).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let unread: Vec<String> = warnings
        .iter()
        .filter(|warning| warning.object.starts_with("file ") || warning.object.starts_with("folder "))
        .map(ToString::to_string)
        .collect();
    if !unread.is_empty() {
        return Err(unread.join("\nweir: "));
    }
    let mut places = Places::default();
    for path in files.paths() {
        // It was read a moment ago; what is gone since has no place.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        places.add(&shown(path), &text);
    }
    let classes = all_classes(&world);
    let settings = Settings { classes, without_class: true, secrets: false, ..Settings::default() };
    world.classes.clear();
    let mut compiled = compile(&world, &settings);
    warnings.append(&mut compiled.warnings);
    let findings: BTreeSet<Finding> = warnings
        .into_iter()
        .map(|warning| Finding {
            at: places.of(&warning.object, &path_of(&warning.field)),
            object: warning.object,
            field: warning.field,
            message: warning.message,
        })
        .collect();
    Ok(Linted {
        ingresses: world.ingresses.len(),
        rules: compiled.table.len(),
        findings: findings.into_iter().collect(),
    })
}

fn shown(path: &Path) -> String {
    path.strip_prefix("./").unwrap_or(path).display().to_string()
}

fn all_classes(world: &World) -> Vec<String> {
    let named = world.ingresses.values().flat_map(|ingress| {
        let annotations = ingress.metadata.annotations.as_ref();
        let annotated = annotations.and_then(|all| all.get("kubernetes.io/ingress.class")).cloned();
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone());
        annotated.into_iter().chain(class)
    });
    named.collect()
}

/// Annotations are named by their key alone; in the text they stand under `metadata`.
fn path_of(field: &str) -> String {
    match field.split_once('/') {
        Some((domain, _)) if domain.ends_with("kubernetes.io") => format!("metadata.annotations.{field}"),
        _ => field.to_owned(),
    }
}

fn print(linted: &Linted, format: Format) -> Result<()> {
    let findings: Vec<_> = linted
        .findings
        .iter()
        .map(|it| json!({ "at": it.at, "object": it.object, "field": it.field, "message": it.message }))
        .collect();
    format.print(&findings, |colour| text(linted, colour))
}

/// As compilers write it, so that editors find the place.
fn text(linted: &Linted, colour: bool) -> String {
    let mut text = String::new();
    for Finding { at, object, field, message } in &linted.findings {
        let at = at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
        text += &format!("{at}{object}: {field}: {}\n", toned(message, Tone::Bad, colour));
    }
    text + &format!(
        "{} in {}, of which {} would be served\n",
        count(linted.findings.len(), "finding", "findings"),
        count(linted.ingresses, "Ingress", "Ingress objects"),
        count(linted.rules, "rule", "rules")
    )
}
