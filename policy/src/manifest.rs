//! Text in, objects out: YAML and JSON as people write them.
//!
//! Two steps, because the sandbox understands more kinds than the compiler: [`documents`] splits a text into objects of
//! any kind, [`object`] gives those that we watch their type. What a typed object would lose without a word (a field
//! with a slip in its name) is found by writing it out again and comparing.

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::{Kind, Object, ObjectKey};
use crate::warning::Warning;

/// One Kubernetes object of any kind, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file's name.
    pub origin: String,
    /// The line on which it begins, from 1. Items of a `List` have the list's.
    pub line: usize,
    pub kind: String,
    pub api_version: String,
    pub value: Value,
}

impl Document {
    /// One of the items that an API server lists. They do not say of what kind they are, and carry what is not for us:
    /// `managedFields`, and the manifest that kubectl applied last.
    pub fn of_api_server(kind: &str, api_version: &str, text: &str) -> Result<Self, serde_json::Error> {
        let mut value: Value = serde_json::from_str(text)?;
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        value["kind"] = kind.into();
        value["apiVersion"] = api_version.into();
        let origin = "API server".to_owned();
        Ok(Self { origin, line: 1, kind: kind.to_owned(), api_version: api_version.to_owned(), value })
    }
}

impl fmt::Display for Document {
    /// `NetworkPolicy shop/web`, for objects of any kind; the namespace only where the object names one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |field: &str| self.value["metadata"][field].as_str().filter(|text| !text.is_empty());
        let name = text("name").unwrap_or("(no name)");
        match text("namespace") {
            Some(namespace) => write!(f, "{} {namespace}/{name}", self.kind),
            None => write!(f, "{} {name}", self.kind),
        }
    }
}

/// Text that is no list of Kubernetes objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}: {message}")]
pub struct ParseError {
    pub origin: String,
    pub line: usize,
    pub message: String,
}

/// The objects of one text, of any kind; `List` objects are unfolded, empty documents left out.
pub fn documents(origin: &str, text: &str) -> Result<Vec<Document>, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (line, value) in values(origin, text)? {
        unfold(origin, line, value, &mut found)?;
    }
    Ok(found)
}

/// The typed object, and a warning for each field that its type does not have. `None`: a kind that we do not watch.
///
/// A NetworkPolicy survives a field of the wrong type: the field is taken out and warned of like an unknown one, so that
/// the policy goes on isolating. Any other object with such a field is an error.
pub fn object(document: &Document) -> Result<Option<(Object, Vec<Warning>)>, Warning> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == document.kind && kind.api_version() == document.api_version);
    Ok(Some(match kind {
        None => return Ok(None),
        Some(Kind::Namespace) => typed::<Namespace>(document)?,
        Some(Kind::Node) => typed::<Node>(document)?,
        Some(Kind::Pod) => typed::<Pod>(document)?,
        Some(Kind::NetworkPolicy) => typed::<NetworkPolicy>(document)?,
        Some(Kind::Service) => typed::<Service>(document)?,
        Some(Kind::EndpointSlice) => typed::<EndpointSlice>(document)?,
    }))
}

/// Each value of the text with the line on which it begins.
fn values(origin: &str, text: &str) -> Result<Vec<(usize, Value)>, ParseError> {
    // JSON first where it can be JSON: it may be indented with tabs, which YAML forbids.
    if text.trim_start().starts_with('{')
        && let Ok(values) = json(text)
    {
        return Ok(values);
    }
    let mut values = Vec::new();
    for (first, chunk) in chunks(text) {
        match yaml(&chunk) {
            Ok(Value::Null) => {}
            Ok(value) => values.push((first + blank_lines(&chunk), value)),
            Err(_) => {
                // Once more with the lines before it, so that every line in the message is the file's.
                let padded = "\n".repeat(first - 1) + &chunk;
                let error = yaml(&padded).err();
                let line = error.as_ref().and_then(|error| error.location()).map(|location| location.line());
                let message = error.map(|error| one_line(&error.to_string())).unwrap_or_default();
                return Err(ParseError {
                    origin: origin.to_owned(),
                    line: line.and_then(|line| usize::try_from(line).ok()).unwrap_or(first),
                    message: format!("not valid YAML: {message}"),
                });
            }
        }
    }
    Ok(values)
}

fn yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    // A manifest may be long: no budget. `yes` and `on` are text, as for the API server they would be an error.
    let options = serde_saphyr::options! { budget: None, strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
}

fn json(text: &str) -> Result<Vec<(usize, Value)>, serde_json::Error> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut values = Vec::new();
    loop {
        let rest = &text[stream.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        let line = 1 + text[..start].matches('\n').count();
        match stream.next() {
            Some(value) => values.push((line, value?)),
            None => return Ok(values),
        }
    }
}

/// The documents of a YAML text and the line (from 1) of each one's first line. A `---` or `...` at the very left always
/// ends a document, even inside a scalar, so a scan of lines is enough.
pub(crate) fn chunks(text: &str) -> Vec<(usize, String)> {
    let mut chunks = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        let marker = |mark: &str| {
            line.strip_prefix(mark).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        if let Some(rest) = marker("---") {
            // What follows on the same line belongs to the new document, in its own column.
            chunks.push((index + 1, format!("   {rest}\n")));
        } else if marker("...").is_some() {
            chunks.push((index + 2, String::new()));
        } else if let Some((_, chunk)) = chunks.last_mut()
            && !line.starts_with('%')
        {
            chunk.push_str(line);
            chunk.push('\n');
        } else if let Some((_, chunk)) = chunks.last_mut() {
            chunk.push('\n'); // a directive (`%YAML 1.2`); the line numbers stay right
        }
    }
    chunks.retain(|(_, chunk)| chunk.lines().any(|line| !is_blank(line)));
    chunks
}

fn blank_lines(chunk: &str) -> usize {
    chunk.lines().take_while(|line| is_blank(line)).count()
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unfold(origin: &str, line: usize, value: Value, found: &mut Vec<Document>) -> Result<(), ParseError> {
    let error = |message: String| ParseError { origin: origin.to_owned(), line, message };
    let Value::Object(mut fields) = value else {
        return Err(error(
            "not a Kubernetes object: expected fields such as `apiVersion` and `kind`".to_owned(),
        ));
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    if kind.is_empty() {
        return Err(error("object without `kind`: expected for example `kind: NetworkPolicy`".to_owned()));
    }
    if api_version.is_empty() {
        return Err(error(format!("{kind} without `apiVersion`: expected for example `apiVersion: v1`")));
    }
    let Some(element) =
        kind.strip_suffix("List").filter(|_| fields.get("items").is_some_and(|v| !v.is_object()))
    else {
        found.push(Document {
            origin: origin.to_owned(),
            line,
            kind,
            api_version,
            value: Value::Object(fields),
        });
        return Ok(());
    };
    let items = match fields.remove("items") {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(error(format!("{kind}: `items` is no list"))),
    };
    for mut item in items {
        // The API server leaves `kind` and `apiVersion` out of the items of a typed list (`PodList`).
        if let Value::Object(item) = &mut item
            && !element.is_empty()
        {
            item.entry("kind").or_insert_with(|| element.into());
            item.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
        }
        unfold(origin, line, item, found)?;
    }
    Ok(())
}

/// An object of a kind that the compiler does not watch, typed, and a warning for each field that its type does not have.
pub fn read<T>(document: &Document) -> Result<(T, Vec<Warning>), Warning>
where
    T: DeserializeOwned + Serialize,
{
    let (typed, fields) = lossless(document)?;
    let object = document.to_string();
    let warning = |(field, message)| Warning { object: object.clone(), field, message };
    Ok((typed, fields.into_iter().map(warning).collect()))
}

fn typed<T>(document: &Document) -> Result<(Object, Vec<Warning>), Warning>
where
    T: DeserializeOwned + Serialize,
    Object: From<T>,
{
    let (typed, fields) = lossless::<T>(document)?;
    let object = Object::from(typed);
    let key: ObjectKey = object.key();
    if key.name.is_empty() {
        return Err(Warning {
            object: format!("{} at {}:{}", document.kind, document.origin, document.line),
            field: "metadata.name".to_owned(),
            message: "missing: every object needs a name".to_owned(),
        });
    }
    let warnings = fields
        .into_iter()
        .map(|(field, message)| Warning { object: key.to_string(), field, message })
        .collect();
    Ok((object, warnings))
}

/// The typed value, and path and reason of each field that it does not hold.
fn lossless<T>(document: &Document) -> Result<(T, Vec<(String, String)>), Warning>
where
    T: DeserializeOwned + Serialize,
{
    let mut value = document.value.clone();
    quantities_as_text(&mut value);
    let mut refused: Vec<(String, String)> = Vec::new();
    let typed: T = loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(typed) => break typed,
            Err(error) => error,
        };
        let path = error.path().to_string();
        let message = format!("{}, so the field is left out", one_line(&error.inner().to_string()));
        let salvaged = document.kind == Kind::NetworkPolicy.as_str()
            && path.starts_with("spec")
            && take_out(&mut value, error.path());
        if !salvaged {
            return Err(Warning {
                object: document.to_string(),
                field: path,
                message: one_line(&error.inner().to_string()),
            });
        }
        refused.push((path, message));
    };
    let mut fields = refused;
    // Into a value and back costs little beside the reading, and needs no list of field names to keep up to date.
    let again = serde_json::to_value(&typed).unwrap_or(Value::Null);
    unknown_fields(&value, &again, "", &mut fields);
    Ok((typed, fields))
}

/// Fields of `given` that did not come back, as paths. A `null` asks for nothing, so nothing is lost with it.
fn unknown_fields(given: &Value, again: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match (given, again) {
        (Value::Object(given), Value::Object(again)) => {
            for (name, value) in given {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match again.get(name) {
                    Some(again) => unknown_fields(value, again, &path, found),
                    None if value.is_null() => {}
                    None => found.push((path, "unknown field".to_owned())),
                }
            }
        }
        (Value::Array(given), Value::Array(again)) => {
            for (index, (given, again)) in given.iter().zip(again).enumerate() {
                unknown_fields(given, again, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Puts `null` where the path leads. `false`: there was nothing to take out.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let mut at = value;
    for segment in path.iter() {
        let next = match segment {
            Segment::Seq { index } => at.get_mut(*index),
            Segment::Map { key } => at.get_mut(key.as_str()),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    !at.take().is_null()
}

/// `cpu: 1` as the API server reads it: quantities may be written as numbers, and their type here takes only text.
fn quantities_as_text(value: &mut Value) {
    const MAPS: [&str; 5] = ["limits", "requests", "capacity", "allocatable", "overhead"];
    const FIELDS: [&str; 2] = ["sizeLimit", "divisor"];
    let as_text = |value: &mut Value| {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if FIELDS.contains(&name.as_str()) {
                    as_text(value);
                } else if let Value::Object(map) = value
                    && MAPS.contains(&name.as_str())
                {
                    map.values_mut().for_each(as_text);
                } else {
                    quantities_as_text(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_as_text),
        _ => {}
    }
}
