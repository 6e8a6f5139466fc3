//! `--report FILE.html`: what was measured, as one page to look at, click through, print and send.
//!
//! The page is one file and asks nobody for anything: style, script and data are in it, and its content security policy
//! lets no other script run. Verdicts and their causes are those of the [`Report`]; only for a denial the page also says
//! which rule came nearest to allowing it, which no kernel knows ([`missed::Misses`]).

use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::expect::Differences;
use crate::explain::Explainer;
use crate::plan::Cast;
use crate::report::Report;

mod missed;
mod model;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page shows beside the report.
pub(crate) struct Beside<'a> {
    /// What the user named on the command line, in words.
    pub(crate) subject: &'a str,
    /// What was measured.
    pub(crate) cast: &'a Cast,
    pub(crate) explainer: &'a Explainer,
    /// From what was expected, if anything was.
    pub(crate) differences: Option<&'a Differences>,
}

/// Refuses a file that could not be written in the end, before anything is brought up.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(!path.is_dir(), "--report: {} is a folder: name a file in it", path.display());
    ensure!(folder.is_dir(), "--report: there is no folder {} to write a page into", folder.display());
    Ok(())
}

/// The page's text.
pub(crate) fn render(report: &Report, beside: &Beside<'_>) -> anyhow::Result<String> {
    let data =
        serde_json::to_string(&model::page(report, beside)).context("--report: write down the data")?;
    Ok(fill(&harmless(&data)))
}

/// JSON that ends no script element and begins no comment, whatever names and labels are in it. Outside of strings JSON
/// has none of these characters.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// The template with everything in its place. What is put in is not looked at again.
fn fill(data: &str) -> String {
    let (style_hash, script_hash) = (hash(STYLE), hash(SCRIPT));
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + SCRIPT.len() + data.len());
    let mut rest = TEMPLATE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(before);
        page.push_str(match name {
            "style" => STYLE,
            "style-hash" => &style_hash,
            "script" => SCRIPT,
            "script-hash" => &script_hash,
            "data" => data,
            _ => "",
        });
        rest = after;
    }
    page + rest
}

/// As a content security policy names an inline element that it lets in.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests;
