use proptest::prelude::*;

use super::glob::{BadPattern, Component, DEEP_MAX, Pattern, States};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|e: BadPattern| panic!("{e}"))
}

#[test]
fn what_matches_and_what_does_not() {
    for (glob, path, expected) in [
        ("/etc/passwd", "/etc/passwd", true),
        ("/etc/passwd", "/etc/passwd-", false),
        ("/etc/*.conf", "/etc/.conf", true),
        ("/etc/*.conf", "/etc/a/b.conf", false),
        ("/etc/**/*.conf", "/etc/b.conf", true),
        ("/etc/**/*.conf", "/etc/a/b.conf", true),
        ("/etc/**/*.conf", "/etc/a/a/a/b.conf", true),
        ("/etc/**2/*.conf", "/etc/a/a/b.conf", true),
        ("/etc/**2/*.conf", "/etc/a/a/a/b.conf", false),
        ("/etc/**", "/etc", false),
        ("/etc/**", "/etc/a", true),
        ("/etc/**", "/etc/a/b/c", true),
        ("/etc/**1", "/etc/a", true),
        ("/etc/**1", "/etc/a/b", false),
        ("/**", "/a", true),
        ("/**/x", "/x", true),
        ("/a/**/b/**/c", "/a/b/c", true),
        ("/a/**/b/**/c", "/a/q/b/b/r/c", true),
        ("/a/**/b/**/c", "/a/q/c", false),
        ("/log/s?slog.[0-9]", "/log/syslog.7", true),
        ("/log/s?slog.[0-9]", "/log/syslog.x", false),
        ("/log/[!a-y]*", "/log/zap", true),
        ("/log/[!a-y]*", "/log/messages", false),
        ("/log/[]x]", "/log/]", true),
        ("/log/[a-]", "/log/-", true),
        ("/a/\\*", "/a/*", true),
        ("/a/\\*", "/a/b", false),
        ("/a/**b", "/a/xxb", true),
        ("/żółć/*", "/żółć/日本", true),
    ] {
        assert_eq!(pattern(glob).matches(path.as_bytes()), expected, "{glob} on {path}");
    }
    assert!(pattern("/a/caf\\xe9\\n").matches(b"/a/caf\xe9\n"));
    assert!(pattern("/a/\\u{17c}").matches("/a/ż".as_bytes()));
    assert!(pattern("/a/[\\x80-\\xff]*").matches(b"/a/\xfe"));
    assert!(pattern("/a/?").matches(b"/a/\xfe"), "one byte, not one character");
}

#[test]
fn errors_name_the_pattern_and_the_remedy() {
    for (text, remedy) in [
        ("etc/passwd", "absolute"),
        ("", "absolute"),
        ("/", "/**"),
        ("/etc/", "/x/**"),
        ("/etc//x", "two slashes"),
        ("/etc/../x", "without it"),
        ("/a/[b", "'[abc]'"),
        ("/a/[z-a]", "backwards"),
        ("/a/[ż]", "single bytes"),
        ("/a/**99/b", "between 1 and 32"),
        ("/a/**0", "between 1 and 32"),
        ("/a/\\q", "\\xNN"),
        ("/a/\\x4", "\\xNN"),
        ("/a/\\", "\\xNN"),
        ("/a/\\x00", "NUL"),
        ("/a/\\x2f", "slash"),
        ("/a/\\x2e\\x2e", "'..'"),
    ] {
        let error = Pattern::parse(text).expect_err(text).to_string();
        assert!(error.contains(remedy), "{text}: {error}");
        assert!(error.contains(&exhibit_evidence::text::escape_bounded(text, 120)), "{text}: {error}");
    }
}

#[test]
fn a_hostile_name_costs_no_more_than_its_length_times_the_pattern() {
    // Exponential for a matcher that backtracks over every star.
    let glob = pattern(&format!("/{}b", "*a".repeat(60)));
    assert!(!glob.matches(&[b"/".as_slice(), &[b'a'; 255]].concat()));
}

#[test]
fn coverage() {
    let patterns = [pattern("/srv/**"), pattern("/mnt/bound/**"), pattern("/home/*/.bashrc")];
    let at = |path: &str| States::at_path(&patterns, path.as_bytes());
    assert!(at("/srv/data").covers(&at("/srv/data/deeper")), "fewer directories taken covers more taken");
    assert!(!at("/srv/data/deeper").covers(&at("/srv/data")));
    assert!(!at("/srv/data").covers(&at("/mnt/bound")), "another pattern");
    let everything = [pattern("/**")];
    assert!(States::at_path(&everything, b"/srv").covers(&States::at_path(&everything, b"/mnt/bound")));
}

/// The obvious matcher: recursive, exponential, no shared code with the engine but the parsed components.
fn reference(components: &[Component], names: &[&[u8]]) -> bool {
    match components.split_first() {
        None => names.is_empty(),
        Some((Component::Deep(levels), rest)) => {
            // As the last component it stands for at least one name.
            let least = usize::from(rest.is_empty());
            (least..=usize::from(*levels).min(names.len())).any(|n| reference(rest, &names[n..]))
        }
        Some((component, rest)) => {
            names.split_first().is_some_and(|(name, others)| reference_name(component, name) && reference(rest, others))
        }
    }
}

fn reference_name(component: &Component, name: &[u8]) -> bool {
    use super::glob::Token;
    fn tokens(list: &[Token], name: &[u8]) -> bool {
        match list.split_first() {
            None => name.is_empty(),
            Some((Token::Many, rest)) => (0..=name.len()).any(|n| tokens(rest, &name[n..])),
            Some((token, rest)) => name.split_first().is_some_and(|(byte, others)| {
                let takes = match token {
                    Token::Byte(b) => b == byte,
                    Token::One | Token::Many => true,
                    Token::Set { negated, ranges } => ranges.iter().any(|(l, h)| l <= byte && byte <= h) ^ negated,
                };
                takes && tokens(rest, others)
            }),
        }
    }
    match component {
        Component::Literal(literal) => literal == name,
        Component::Wild(list) => tokens(list, name),
        Component::Deep(_) => unreachable!("handled above"),
    }
}

fn glob_text() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        3 => "[ab]{1,3}",
        4 => "([ab]|\\*|\\?|\\[ab\\]|\\[!a\\]){1,4}",
        2 => Just("**".to_owned()),
        1 => (1..4_u8).prop_map(|n| format!("**{n}")),
    ];
    proptest::collection::vec(name, 1..6).prop_map(|names| format!("/{}", names.join("/")))
}

proptest! {
    #[test]
    fn the_engine_agrees_with_the_reference(globs in proptest::collection::vec(glob_text(), 1..5), names in proptest::collection::vec("[ab]{1,3}", 1..7)) {
        let patterns: Vec<Pattern> = globs.iter().map(|g| pattern(g)).collect();
        let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let (last, folders) = names.split_last().expect("at least one");
        let states = folders.iter().fold(States::start(&patterns), |s, n| s.step(&patterns, n).next);
        let hits = states.step(&patterns, last).hits;
        for (index, pattern) in patterns.iter().enumerate() {
            let expected = reference(pattern.components(), &names);
            prop_assert_eq!(hits.contains(&(index as u32)), expected, "{:?} on {:?}", pattern, names);
        }
    }

    #[test]
    fn any_text_is_handled(text: String, path in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
        if let Ok(pattern) = Pattern::parse(&text) {
            let _ = pattern.matches(&path);
            prop_assert!(!pattern.components().is_empty());
        }
        let _ = Pattern::parse(&format!("/{text}"));
    }

    #[test]
    fn a_shown_name_can_be_pasted_back(name in proptest::collection::vec(proptest::num::u8::ANY.prop_filter("name", |b| *b != 0 && *b != b'/' && !b"*?[".contains(b)), 1..40)) {
        prop_assume!(name != b"." && name != b"..");
        let shown = exhibit_evidence::text::escape_bytes(&name);
        let path = [b"/".as_slice(), &name].concat();
        let glob = pattern(&format!("/{shown}"));
        prop_assert!(glob.matches(&path));
    }

    #[test]
    fn covering_is_sound(globs in proptest::collection::vec(glob_text(), 1..4), here in proptest::collection::vec("[ab]{1,2}", 0..4), there in proptest::collection::vec("[ab]{1,2}", 0..4), rest in proptest::collection::vec("[ab]{1,2}", 1..4)) {
        let patterns: Vec<Pattern> = globs.iter().map(|g| pattern(g)).collect();
        let at = |path: &[String]| States::at_path(&patterns, path.join("/").as_bytes());
        if at(&here).covers(&at(&there)) {
            for p in &patterns {
                let matches = |base: &[String]| p.matches([&[String::new()], base, &rest].concat().join("/").as_bytes());
                prop_assert!(!matches(&there) || matches(&here));
            }
        }
    }

    #[test]
    fn depth_is_bounded(levels in 1_u8..=DEEP_MAX) {
        let path = |n: u8| format!("/a{}", "/d".repeat(usize::from(n)));
        let glob = pattern(&format!("/a/**{levels}"));
        prop_assert!(glob.matches(path(levels).as_bytes()));
        prop_assert!(!glob.matches(path(levels.saturating_add(1)).as_bytes()));
    }
}
