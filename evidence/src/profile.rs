//! Profiles: named lists of captures with limits. They are data (`profiles/*.json` beside this file), so that the
//! responder's program can print one and expand it into an order, and the agent can run the same one offline.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{CaptureSpec, Limits};

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name: `[a-z0-9-]`.
    pub name: String,
    /// Raised whenever the definition changes; an order carries the expanded captures, so old orders keep their meaning.
    pub version: u32,
    /// What it is for, in one sentence.
    pub summary: String,
    /// What it captures. The agent runs captures in order of volatility, whatever their order here.
    pub captures: Vec<ProfileCapture>,
    /// Limits of each collection; an order may narrow or widen them.
    #[serde(default)]
    pub limits: Limits,
}

/// One capture of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileCapture {
    /// The capture's name.
    pub name: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
}

/// The value of a parameter: text, or a list, which an order holds with one entry per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// One text.
    Text(String),
    /// One text per line.
    List(Vec<String>),
}

const BUILT_IN: &[&str] = &[include_str!("profiles/triage.json"), include_str!("profiles/memory.json")];

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// A sentence that names line and column.
    pub fn parse(json: &str) -> Result<Self, String> {
        let profile: Self = serde_json::from_str(json).map_err(|e| format!("not a profile: {e}"))?;
        let name_is_plain =
            |n: &str| (1..=32).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !name_is_plain(&profile.name) {
            return Err(format!("profile name '{}': expected 1 to 32 of a-z 0-9 -", crate::text::escape_bounded(&profile.name, 40)));
        }
        if profile.captures.is_empty() {
            return Err(format!("profile '{}' captures nothing", profile.name));
        }
        for (i, capture) in profile.captures.iter().enumerate() {
            if profile.captures.iter().take(i).any(|c| c.name == capture.name) {
                return Err(format!("profile '{}' lists capture '{}' twice", profile.name, crate::text::escape_bounded(&capture.name, 40)));
            }
            for (name, value) in &capture.params {
                if matches!(value, Value::List(entries) if entries.iter().any(|e| e.contains('\n'))) {
                    return Err(format!("parameter '{}' has an entry with a line break", crate::text::escape_bounded(name, 40)));
                }
            }
        }
        Ok(profile)
    }

    /// The profiles that come with this version.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        BUILT_IN.iter().filter_map(|json| Self::parse(json).ok()).collect()
    }

    /// A built-in profile by name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::built_in().into_iter().find(|p| p.name == name)
    }

    /// The captures as an order holds them.
    #[must_use]
    pub fn captures(&self) -> Vec<CaptureSpec> {
        self.captures
            .iter()
            .map(|c| CaptureSpec {
                name: c.name.clone(),
                params: c.params.iter().map(|(name, value)| (name.clone(), value.to_text())).collect(),
            })
            .collect()
    }
}

impl Value {
    fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(entries) => entries.join("\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_reads() {
        for json in BUILT_IN {
            Profile::parse(json).expect("a built-in profile");
        }
        let names: Vec<String> = Profile::find("triage").expect("there").captures().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["network", "process", "system", "logs", "files"]);
    }

    #[test]
    fn lists_become_lines_and_mistakes_are_named() {
        let json = |captures: &str| format!(r#"{{"name":"x","version":1,"summary":"s","captures":{captures}}}"#);
        let p = Profile::parse(&json(r#"[{"name":"files","params":{"a":["1","2"],"b":"3"}}]"#)).expect("reads");
        let spec = &p.captures()[0];
        assert_eq!((spec.params["a"].as_str(), spec.params["b"].as_str()), ("1\n2", "3"));
        for bad in [r"[]", r#"[{"name":"a"},{"name":"a"}]"#, r#"[{"name":"a","param":{}}]"#, r#"[{"name":"a","params":{"k":["x\ny"]}}]"#] {
            assert!(Profile::parse(&json(bad)).is_err(), "{bad}");
        }
    }
}
