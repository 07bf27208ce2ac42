//! Rules: one line of a pattern list each, with options, and what they mean on this host.
//!
//! `[max_size=1MiB max_total=64MiB newer_than=30d] /tmp/**` is a rule with options; most rules are a pattern alone. A
//! pattern may begin with `%%users.homedir%%`.

use std::collections::BTreeMap;

use super::glob::{BadPattern, Component, Pattern, parse_components};
use super::homes::{HOME_VARIABLE, Homes};
use crate::capture::Params;

/// Most rules of one capture, the default lists of all classes included.
pub const RULES_MAX: usize = 2_000;

/// One line of a pattern list.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The pattern as written.
    pub text: String,
    /// A larger file is recorded but not taken.
    pub max_size: Option<u64>,
    /// Once this rule took so many bytes, further files are recorded but not taken.
    pub max_total: Option<u64>,
    /// Only what changed within this many seconds.
    pub newer_than_s: Option<u64>,
    /// What the pattern is about: the class of a log, empty otherwise.
    pub class: &'static str,
    parsed: Parsed,
}

#[derive(Debug, Clone)]
enum Parsed {
    Absolute(Pattern),
    InHomes(Vec<Component>),
}

const OPTIONS_EXAMPLE: &str = "options stand in front of the pattern, for example '[max_size=1MiB newer_than=30d] /tmp/**'";

impl Rule {
    /// Parses one line.
    ///
    /// # Errors
    /// [`BadPattern`], which names the line, what is wrong and an example.
    pub fn parse(line: &str) -> Result<Self, BadPattern> {
        let (options, text) = match line.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| BadPattern::new(line, format!("'[' without ']'; {OPTIONS_EXAMPLE}")))?,
            None => ("", line),
        };
        let text = text.trim();
        let parsed = match text.strip_prefix(HOME_VARIABLE).map(|rest| rest.strip_prefix('/')) {
            Some(Some(rest)) if !rest.is_empty() && !rest.ends_with('/') => {
                Parsed::InHomes(parse_components(rest).map_err(|problem| BadPattern::new(line, problem))?)
            }
            Some(_) => {
                return Err(BadPattern::new(line, format!("the variable is followed by a path, for example '{HOME_VARIABLE}/.bashrc'")));
            }
            None if text.starts_with("%%") => {
                return Err(BadPattern::new(line, format!("an unknown variable; there is only '{HOME_VARIABLE}'")));
            }
            None => Parsed::Absolute(Pattern::parse(text)?),
        };
        let mut rule = Self { text: text.to_owned(), max_size: None, max_total: None, newer_than_s: None, class: "", parsed };
        for option in options.split_whitespace() {
            rule.option(option).map_err(|problem| BadPattern::new(line, problem))?;
        }
        Ok(rule)
    }

    /// The same rule, marked with a class.
    #[must_use]
    pub const fn of_class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let (key, value) = option.split_once('=').ok_or_else(|| format!("'{option}' is no option; {OPTIONS_EXAMPLE}"))?;
        // The same spelling of sizes and spans as in parameters, with the same errors.
        let values = Params::new("pattern", BTreeMap::from([(key.to_owned(), value.to_owned())]));
        match key {
            "max_size" => self.max_size = values.bytes(key).map_err(|e| e.to_string())?,
            "max_total" => self.max_total = values.bytes(key).map_err(|e| e.to_string())?,
            "newer_than" => self.newer_than_s = values.seconds(key).map_err(|e| e.to_string())?,
            _ => return Err(format!("'{key}' is no option; there are max_size, max_total and newer_than; {OPTIONS_EXAMPLE}")),
        }
        Ok(())
    }

    /// True when the rule names one path, so that its absence is worth an item.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(&self.parsed, Parsed::Absolute(pattern) if pattern.is_literal())
    }

    /// The patterns that the rule means on a host with these homes.
    #[must_use]
    pub fn patterns(&self, homes: &Homes) -> Vec<Pattern> {
        match &self.parsed {
            Parsed::Absolute(pattern) => vec![pattern.clone()],
            Parsed::InHomes(rest) => {
                homes.prefixes.iter().filter_map(|prefix| Pattern::from_components(prefix.iter().chain(rest).cloned().collect())).collect()
            }
        }
    }
}

/// Parses a list of rules.
///
/// # Errors
/// The first line that is none.
pub fn parse_rules<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Rule>, BadPattern> {
    let rules = lines.into_iter().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(Rule::parse);
    let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
    match rules.get(RULES_MAX) {
        Some(rule) => Err(BadPattern::new(&rule.text, format!("more than {RULES_MAX} patterns; use wildcards"))),
        None => Ok(rules),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_variables() {
        let rule = Rule::parse("[max_size=1MiB newer_than=30d max_total=64MiB] /tmp/[a-z]*/**").expect("rule");
        assert_eq!((rule.max_size, rule.newer_than_s, rule.max_total), (Some(1 << 20), Some(30 * 86_400), Some(64 << 20)));
        assert_eq!(rule.text, "/tmp/[a-z]*/**");
        let homes = Homes::from_passwd(b"w:x:1:1::/var/www:/x\n");
        let rule = Rule::parse("%%users.homedir%%/.ssh/*").expect("rule");
        assert!(!rule.is_literal());
        let matched = |path: &str| rule.patterns(&homes).iter().any(|p| p.matches(path.as_bytes()));
        assert!(matched("/home/bob/.ssh/config") && matched("/root/.ssh/x") && matched("/var/www/.ssh/y") && !matched("/etc/.ssh/y"));
        assert!(Rule::parse("/etc/passwd").expect("rule").is_literal());
    }

    #[test]
    fn errors_say_what_to_write() {
        for (line, remedy) in [
            ("[max_size=1MiB /tmp", "[max_size=1MiB newer_than=30d] /tmp/**"),
            ("[size=1] /tmp/x", "max_size"),
            ("[max_size=lots] /tmp/x", "10MiB"),
            ("[big] /tmp/x", "no option"),
            ("%%users.homedir%%", "/.bashrc"),
            ("%%users.homedir%%x", "/.bashrc"),
            ("%%environ_x%%/y", "%%users.homedir%%"),
            ("tmp", "absolute"),
        ] {
            let error = Rule::parse(line).expect_err(line).to_string();
            assert!(error.contains(remedy), "{line}: {error}");
        }
        let many: Vec<String> = (0..=RULES_MAX).map(|n| format!("/x{n}")).collect();
        assert!(parse_rules(many.iter().map(String::as_str)).is_err());
        assert_eq!(parse_rules(["# a comment", "", " /etc/hosts "]).expect("rules").len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled(line: String, options: String) {
            let _ = Rule::parse(&line);
            let _ = Rule::parse(&format!("[{options}] /x"));
            let _ = Rule::parse(&format!("%%users.homedir%%/{line}"));
        }
    }
}
