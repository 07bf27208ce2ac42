//! Files that fit a few screens, functions that fit one.

/// No file is longer, tests included.
const FILE_LINES_MAX: usize = 800;
/// Functions longer than this must be in the ratchet.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer today. A ratchet: numbers go down, lines go away, nothing is added.
const LONGER_TODAY: &str = include_str!("longer-functions.txt");

#[test]
fn files_fit_a_few_screens() {
    let long: Vec<String> = super::files(".rs")
        .iter()
        .filter_map(|path| {
            let lines = std::fs::read_to_string(path).expect("readable").lines().count();
            (lines > FILE_LINES_MAX).then(|| format!("{} has {lines} lines", super::shown(path)))
        })
        .collect();
    assert!(long.is_empty(), "split these (at most {FILE_LINES_MAX} lines):\n{}", long.join("\n"));
}

/// Names and lengths of the functions of a formatted source file: from `fn` to the closing brace of the same indent.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(at) = code.find("fn ") else { continue };
        let before = &code[..at];
        let is_function =
            before.split_whitespace().all(|w| matches!(w, "pub" | "const" | "async" | "unsafe" | "extern") || w.starts_with("pub("));
        if !is_function || code.starts_with("//") {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[start..].iter().position(|l| *l == closing) {
            let is_declaration = lines[start..start + length].iter().any(|l| l.len() - l.trim_start().len() == indent && l.ends_with(';'));
            if !is_declaration {
                found.push((name, length + 1));
            }
        }
    }
    found
}

#[test]
fn functions_fit_one_screen() {
    let mut wrong = Vec::new();
    let mut used = std::collections::BTreeSet::new();
    for path in super::files(".rs") {
        let file = super::shown(&path);
        // A table of cases in a test may be long; the file's ceiling holds there too.
        if file.starts_with("tests/") || file.contains("/tests/") || file.ends_with("/tests.rs") {
            continue;
        }
        for (name, length) in functions(&std::fs::read_to_string(&path).expect("readable")) {
            if length <= FUNCTION_LINES_MAX {
                continue;
            }
            let key = format!("{file} {name} ");
            let allowed = LONGER_TODAY.lines().find_map(|l| l.strip_prefix(&key)).and_then(|n| n.parse::<usize>().ok());
            used.insert(key.clone());
            if allowed.is_none_or(|max| length > max) {
                wrong.push(format!("{key}{length}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "functions over {FUNCTION_LINES_MAX} lines (shorten them; the ratchet only goes down):\n{}",
        wrong.join("\n")
    );
    let stale: Vec<&str> = LONGER_TODAY.lines().filter(|l| !l.is_empty() && !used.iter().any(|u| l.starts_with(u))).collect();
    assert!(stale.is_empty(), "no longer long: take these lines out of longer-functions.txt:\n{}", stale.join("\n"));
}

#[test]
fn the_measure_measures() {
    let text =
        "fn a() {\n    x();\n}\n\nimpl T {\n    pub async fn b(\n        x: u8,\n    ) {\n        y();\n    }\n    fn c(&self);\n}\n";
    assert_eq!(functions(text), vec![("a".to_owned(), 3), ("b".to_owned(), 5)]);
}
