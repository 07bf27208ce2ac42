//! Path patterns over bytes, and stepping them along a path one name at a time, so that any number of patterns is
//! matched in one walk and every directory is read at most once.
//!
//! Syntax, by component: `*` any bytes, `?` one byte, `[a-z]` `[!a-z]` one byte of a set; a component `**` stands for
//! any number of directories, `**3` for at most three (up to [`DEEP_MAX`] can be asked for) (as the last component: for everything beneath,
//! down to that depth, but not the directory itself). A leading dot is nothing special. `\*` is a star itself; `\xNN`,
//! `\n`, `\t`, `\r` and `\u{NNNN}` are read as the project's own escaped output writes them, so that a shown path can be
//! pasted back.

use std::fmt;

use exhibit_evidence::text::escape_bounded;

/// How many directories a `**` with a number stands for at most.
pub const DEEP_MAX: u8 = 32;

/// A `**` without a number: more than the walk itself goes into, which says so where it stops.
const DEEP_UNBOUNDED: u8 = u8::MAX;

/// Most components of one pattern.
pub const COMPONENTS_MAX: usize = 128;

/// Most bytes of one pattern: the kernel's PATH_MAX.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}': {problem}")]
pub struct BadPattern {
    shown: String,
    problem: String,
}

impl BadPattern {
    pub(super) fn new(text: &str, problem: impl Into<String>) -> Self {
        Self { shown: escape_bounded(text, 120), problem: problem.into() }
    }
}

/// One name of a path, as a pattern asks for it.
#[derive(Clone, PartialEq, Eq)]
pub enum Component {
    /// Exactly this name.
    Literal(Vec<u8>),
    /// Any name that the tokens match.
    Wild(Vec<Token>),
    /// Up to this many names of any kind.
    Deep(u8),
}

/// A piece of a component with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// This byte.
    Byte(u8),
    /// Any one byte.
    One,
    /// Any bytes, none included.
    Many,
    /// One byte of a set (or not of it).
    Set {
        /// True for `[!...]`.
        negated: bool,
        /// Inclusive ranges.
        ranges: Vec<(u8, u8)>,
    },
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(name) => write!(f, "Literal({})", exhibit_evidence::text::escape_bytes(name)),
            Self::Wild(tokens) => f.debug_tuple("Wild").field(tokens).finish(),
            Self::Deep(levels) => write!(f, "Deep({levels})"),
        }
    }
}

impl Component {
    /// True when a name (no slash) matches; `Deep` matches every name.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Wild(tokens) => wild_matches(tokens, name),
            Self::Deep(_) => true,
        }
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(b) => *b == byte,
            Self::One | Self::Many => true,
            Self::Set { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated,
        }
    }
}

/// Greedy match with one point to go back to: the last star. Linear in practice, at most |tokens| x |name|, with no
/// recursion, whatever a hostile name looks like.
fn wild_matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut t, mut n) = (0_usize, 0_usize);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match tokens.get(t) {
            Some(Token::Many) => {
                retry = Some((t, n));
                t = t.saturating_add(1);
            }
            Some(token) if token.takes(*byte) => {
                t = t.saturating_add(1);
                n = n.saturating_add(1);
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                let from = from.saturating_add(1);
                retry = Some((star, from));
                t = star.saturating_add(1);
                n = from;
            }
        }
    }
    tokens.iter().skip(t).all(|token| *token == Token::Many)
}

/// An absolute path pattern: its components from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<Component>,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPattern`], which names the pattern, what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = |problem: &str| BadPattern::new(text, problem);
        if text.len() > PATTERN_BYTES_MAX {
            return Err(bad("longer than 4,096 bytes; use wildcards, for example '/srv/**/*.conf'"));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(bad("a pattern is an absolute path, for example '/etc/ssh/sshd_config' or '/var/log/**'"));
        };
        if rest.is_empty() {
            return Err(bad("the root itself cannot be taken; write '/*' or '/**' for what is beneath"));
        }
        if rest.ends_with('/') {
            return Err(bad("ends with a slash; write '/x' for a directory itself or '/x/**' for everything beneath it"));
        }
        Self::from_components(parse_components(rest).map_err(|problem| bad(&problem))?).ok_or_else(|| bad("more than 128 components"))
    }

    /// A pattern from ready components; `None` when there are none or more than [`COMPONENTS_MAX`].
    #[must_use]
    pub fn from_components(components: Vec<Component>) -> Option<Self> {
        (1..=COMPONENTS_MAX).contains(&components.len()).then_some(Self { components })
    }

    /// Components from the root.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// True when the pattern can only mean one path.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.components.iter().all(|c| matches!(c, Component::Literal(_)))
    }

    /// The leading names that are literal, without the last component.
    #[must_use]
    pub fn literal_prefix(&self) -> Vec<&[u8]> {
        let inner = self.components.len().saturating_sub(1);
        self.components
            .iter()
            .take(inner)
            .map_while(|c| if let Component::Literal(name) = c { Some(name.as_slice()) } else { None })
            .collect()
    }

    /// The same pattern with its first `names` components replaced by others.
    #[must_use]
    pub fn with_prefix(&self, names: usize, prefix: &[Vec<u8>]) -> Option<Self> {
        let mut components: Vec<Component> = prefix.iter().cloned().map(Component::Literal).collect();
        components.extend(self.components.iter().skip(names).cloned());
        Self::from_components(components)
    }

    /// True when an absolute path matches.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let patterns = std::slice::from_ref(self);
        let mut states = States::start(patterns);
        let mut names = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
        while let Some(name) = names.next() {
            let step = states.step(patterns, name);
            if names.peek().is_none() {
                return !step.hits.is_empty();
            }
            states = step.next;
        }
        false
    }
}

pub(super) fn parse_components(rest: &str) -> Result<Vec<Component>, String> {
    split_components(rest)
        .into_iter()
        .map(|part| match part.strip_prefix("**") {
            Some("") => Ok(Component::Deep(DEEP_UNBOUNDED)),
            Some(levels) if levels.bytes().all(|b| b.is_ascii_digit()) => match levels.parse::<u8>() {
                Ok(levels) if (1..=DEEP_MAX).contains(&levels) => Ok(Component::Deep(levels)),
                _ => Err(format!("'**{levels}': between 1 and {DEEP_MAX} levels are possible, for example '/srv/**4/*.conf'")),
            },
            _ => parse_component(part),
        })
        .collect()
}

/// Splits at slashes; a slash inside `\u{..}` or `[..]` cannot occur in a name anyway and is refused later.
fn split_components(rest: &str) -> Vec<&str> {
    rest.split('/').collect()
}

fn parse_component(part: &str) -> Result<Component, String> {
    if part.is_empty() {
        return Err("two slashes in a row; write one".into());
    }
    if part == "." || part == ".." {
        return Err(format!("'{part}' as a component is not allowed; write the path without it"));
    }
    let mut tokens = Vec::new();
    let mut chars = Chars { rest: part };
    while let Some(c) = chars.next() {
        match c {
            '*' => {
                // Two stars inside a name mean the same as one.
                if tokens.last() != Some(&Token::Many) {
                    tokens.push(Token::Many);
                }
            }
            '?' => tokens.push(Token::One),
            '[' => tokens.push(parse_set(&mut chars)?),
            '\\' => tokens.extend(chars.escape()?.into_iter().map(Token::Byte)),
            c => tokens.extend(c.encode_utf8(&mut [0; 4]).bytes().map(Token::Byte)),
        }
    }
    if tokens.iter().any(|t| *t == Token::Byte(0) || *t == Token::Byte(b'/')) {
        return Err("a name cannot hold NUL or a slash".into());
    }
    let literal: Option<Vec<u8>> = tokens.iter().map(|t| if let Token::Byte(b) = t { Some(*b) } else { None }).collect();
    Ok(match literal {
        Some(name) if name == b"." || name == b".." => return Err("'.' and '..' as components are not allowed".into()),
        Some(name) => Component::Literal(name),
        None => Component::Wild(tokens),
    })
}

const SET_EXAMPLE: &str = "write a set of bytes like '[0-9]', '[abc]' or '[!a-z]', or '\\[' for the bracket itself";

/// After `[`: `!` or `^` negates; `]` first in the set is itself; bytes and ranges until `]`.
fn parse_set(chars: &mut Chars<'_>) -> Result<Token, String> {
    let negated = chars.rest.starts_with(['!', '^']);
    if negated {
        chars.next();
    }
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    loop {
        let low = match chars.next() {
            None => return Err(format!("'[' without ']'; {SET_EXAMPLE}")),
            Some(']') if !ranges.is_empty() => return Ok(Token::Set { negated, ranges }),
            Some(c) => chars.set_byte(c)?,
        };
        let mut high = low;
        let mut ahead = Chars { rest: chars.rest };
        if ahead.next() == Some('-') && !ahead.rest.starts_with(']') {
            match ahead.next() {
                None => return Err(format!("'[' without ']'; {SET_EXAMPLE}")),
                Some(c) => high = ahead.set_byte(c)?,
            }
            chars.rest = ahead.rest;
        }
        if high < low {
            return Err(format!("a range runs backwards; {SET_EXAMPLE}"));
        }
        ranges.push((low, high));
    }
}

struct Chars<'a> {
    rest: &'a str,
}

impl Chars<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn set_byte(&mut self, c: char) -> Result<u8, String> {
        let bytes = if c == '\\' { self.escape()? } else { c.to_string().into_bytes() };
        match bytes.as_slice() {
            [byte] => Ok(*byte),
            _ => Err(format!("a set holds single bytes; {SET_EXAMPLE}")),
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<Vec<u8>, String> {
        const HELP: &str =
            "write '\\xNN' with two hexadecimal digits, '\\u{NNNN}', '\\n', '\\t', '\\r', or a backslash before a sign like '*'";
        match self.next() {
            Some('n') => Ok(vec![b'\n']),
            Some('t') => Ok(vec![b'\t']),
            Some('r') => Ok(vec![b'\r']),
            Some('x') => {
                let digits = self.rest.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(HELP)?;
                let byte = u8::from_str_radix(digits, 16).map_err(|_| HELP)?;
                self.rest = self.rest.get(2..).unwrap_or_default();
                Ok(vec![byte])
            }
            Some('u') => {
                let (digits, after) = self.rest.strip_prefix('{').and_then(|r| r.split_once('}')).ok_or(HELP)?;
                let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or(HELP)?;
                self.rest = after;
                Ok(code.to_string().into_bytes())
            }
            Some(c) if !c.is_ascii_alphanumeric() => Ok(c.to_string().into_bytes()),
            _ => Err(HELP.to_owned()),
        }
    }
}

/// Where one pattern stands: its next component, and how many names a `**` has already taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    pattern: u32,
    at: u16,
    taken: u8,
}

/// Where a set of patterns stands in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    /// Sorted by pattern and component; one entry for each, with the least number of names taken.
    list: Vec<State>,
}

/// What a name in a directory means to a set of patterns.
#[derive(Debug, Default)]
pub struct Step {
    /// Patterns that match the path that ends with this name, sorted.
    pub hits: Vec<u32>,
    /// Where the patterns stand inside this name, if it is a directory.
    pub next: States,
    /// A `**` with a number ends with this name: what lies deeper inside is out of its sight.
    pub bounded: bool,
}

impl States {
    /// All patterns at the root.
    #[must_use]
    pub fn start(patterns: &[Pattern]) -> Self {
        let mut states = Self::default();
        for index in 0..patterns.len() {
            states.add(patterns, State { pattern: index as u32, at: 0, taken: 0 });
        }
        states.settle();
        states
    }

    /// True when no pattern can match beneath.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True when a name that is not literal could match, so that the directory has to be read.
    #[must_use]
    pub fn needs_listing(&self, patterns: &[Pattern]) -> bool {
        self.list.iter().any(|s| !matches!(component(patterns, *s), Some(Component::Literal(_))))
    }

    /// The literal names that are asked for, each with the patterns that end there and whether all of the pattern is
    /// literal, sorted by name.
    #[must_use]
    pub fn literals<'p>(&self, patterns: &'p [Pattern]) -> Vec<&'p [u8]> {
        let mut names: Vec<&[u8]> = self
            .list
            .iter()
            .filter_map(|s| if let Some(Component::Literal(name)) = component(patterns, *s) { Some(name.as_slice()) } else { None })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The patterns whose next component is the literal `name`.
    #[must_use]
    pub fn waiting_for(&self, patterns: &[Pattern], name: &[u8]) -> Vec<u32> {
        let waits = |s: &&State| matches!(component(patterns, **s), Some(Component::Literal(literal)) if literal == name);
        self.list.iter().filter(waits).map(|s| s.pattern).collect()
    }

    /// The patterns that have anything left to match here.
    pub fn patterns(&self) -> impl Iterator<Item = u32> + '_ {
        self.list.iter().map(|s| s.pattern)
    }

    /// True when some pattern that asks for this name here asks with something else than `**`.
    #[must_use]
    pub fn asks_for(&self, patterns: &[Pattern], name: &[u8]) -> bool {
        self.list.iter().any(|s| match component(patterns, *s) {
            Some(Component::Deep(_)) | None => false,
            Some(c) => c.matches(name),
        })
    }

    /// Takes one name.
    #[must_use]
    pub fn step(&self, patterns: &[Pattern], name: &[u8]) -> Step {
        let mut step = Step::default();
        for state in &self.list {
            let Some(pattern) = patterns.get(state.pattern as usize) else { continue };
            let last = usize::from(state.at).saturating_add(1) >= pattern.components.len();
            match component(patterns, *state) {
                Some(Component::Deep(levels)) if state.taken < *levels => {
                    if last {
                        step.hits.push(state.pattern);
                    }
                    step.bounded |= state.taken.saturating_add(1) >= *levels;
                    step.next.add(patterns, State { taken: state.taken.saturating_add(1), ..*state });
                }
                Some(c @ (Component::Literal(_) | Component::Wild(_))) if c.matches(name) => {
                    if last {
                        step.hits.push(state.pattern);
                    } else {
                        step.next.add(patterns, State { at: state.at.saturating_add(1), taken: 0, ..*state });
                    }
                }
                _ => {}
            }
        }
        step.hits.sort_unstable();
        step.hits.dedup();
        step.next.settle();
        step
    }

    /// Adds a state, and the ones that it implies because a `**` may stand for nothing.
    fn add(&mut self, patterns: &[Pattern], state: State) {
        let mut state = state;
        loop {
            let Some(component) = component(patterns, state) else { return };
            match component {
                // A `**` that has taken all it may still stands before its successor.
                Component::Deep(levels) => {
                    if state.taken < *levels {
                        self.list.push(state);
                    }
                    state = State { at: state.at.saturating_add(1), taken: 0, ..state };
                }
                Component::Literal(_) | Component::Wild(_) => {
                    self.list.push(state);
                    return;
                }
            }
        }
    }

    fn settle(&mut self) {
        self.list.sort_unstable_by_key(|s| (s.pattern, s.at, s.taken));
        self.list.dedup_by_key(|s| (s.pattern, s.at));
    }

    /// Where the patterns stand in the directory `path` (absolute).
    #[must_use]
    pub fn at_path(patterns: &[Pattern], path: &[u8]) -> Self {
        path.split(|b| *b == b'/').filter(|n| !n.is_empty()).fold(Self::start(patterns), |states, name| states.step(patterns, name).next)
    }

    /// True when everything that would be matched from `other` is also matched from here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.list.iter().all(|o| self.list.iter().any(|s| s.pattern == o.pattern && s.at == o.at && s.taken <= o.taken))
    }
}

fn component(patterns: &[Pattern], state: State) -> Option<&Component> {
    patterns.get(state.pattern as usize)?.components.get(usize::from(state.at))
}
