//! The little XML that is needed of the answers of S3 and Azure, read into a bounded tree. The server is not trusted: depth, nodes and bytes
//! have limits, entities other than XML's own five are refused.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deeper answers are refused; S3's have four levels.
const DEPTH_MAX: usize = 12;
/// A page of 1,000 versions has some 12,000 elements, on Azure some 30,000.
const NODES_MAX: usize = 60_000;

/// An element: its name without a namespace, its text, and what it holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) children: Vec<Node>,
}

impl Node {
    /// The text of the first child of this name; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.children.iter().find(|c| c.name == name).map_or("", |c| c.text.as_str())
    }
}

/// Reads a document; the answer is its root element.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, String> {
    parse_up_to(bytes, NODES_MAX)
}

/// [`parse`] of what may have more elements.
pub(super) fn parse_up_to(bytes: &[u8], nodes_max: usize) -> Result<Node, String> {
    let mut reader = Reader::from_reader(bytes);
    let mut open: Vec<Node> = vec![Node::default()];
    let mut nodes = 0_usize;
    let mut count = |depth: usize| {
        nodes += 1;
        if nodes > nodes_max || depth > DEPTH_MAX { Err("it is larger than any answer of a store".to_owned()) } else { Ok(()) }
    };
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(e) => {
                count(open.len())?;
                let name = String::from_utf8_lossy(e.local_name().as_ref()).into_owned();
                open.push(Node { name, ..Node::default() });
            }
            Event::Empty(e) => {
                count(open.len())?;
                let name = String::from_utf8_lossy(e.local_name().as_ref()).into_owned();
                top(&mut open)?.children.push(Node { name, ..Node::default() });
            }
            Event::Text(e) => top(&mut open)?.text.push_str(&e.decode().map_err(|e| e.to_string())?),
            Event::CData(e) => top(&mut open)?.text.push_str(&e.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(e) => {
                let what = match &*e.decode().map_err(|e| e.to_string())? {
                    // S3 and Google let a name hold it, though no XML may. The page is not to be unreadable for it.
                    "#0" | "#x0" => '\0',
                    "amp" => '&',
                    "lt" => '<',
                    "gt" => '>',
                    "quot" => '"',
                    "apos" => '\'',
                    _ => {
                        let number = e.resolve_char_ref().map_err(|e| e.to_string())?;
                        number.ok_or("it holds an entity that XML does not define")?
                    }
                };
                top(&mut open)?.text.push(what);
            }
            Event::End(_) => {
                let done = open.pop().ok_or("it ends more than it begins")?;
                top(&mut open)?.children.push(done);
            }
            Event::DocType(_) => return Err("it holds a document type".to_owned()),
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    match (open.len(), open.pop().and_then(|mut all| all.children.pop())) {
        (1, Some(root)) => Ok(root),
        _ => Err("it is cut".to_owned()),
    }
}

fn top(open: &mut [Node]) -> Result<&mut Node, String> {
    open.last_mut().ok_or_else(|| "it ends more than it begins".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_hostile_ones_refused() {
        let text = br#"<?xml version="1.0"?><a xmlns="x"><b>1 &amp; &#65;</b><n:c/><b><d>2</d></b></a>"#;
        let root = parse(text).expect("reads");
        assert_eq!((root.name.as_str(), root.get("b"), root.get("c"), root.get("none")), ("a", "1 & A", "", ""));
        assert_eq!(root.children[2].get("d"), "2");
        let odd = parse(b"<a><b>&#0;&#x0;&#1;</b></a>").expect("reads");
        assert_eq!(odd.get("b"), "\0\0\u{1}", "names that XML has no way to write");
        let three = b"<a><b/><b/></a>";
        assert!(parse_up_to(three, 3).is_ok() && parse_up_to(three, 2).is_err());
        let deep = format!("{}{}", "<a>".repeat(20), "</a>".repeat(20));
        let many = format!("<r>{}</r>", "<a/>".repeat(NODES_MAX));
        for bad in ["", "text", "<a>", "<a></b>", "</a>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "<a>&x;</a>", &deep, &many] {
            assert!(parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
    }

    /// Elements of a tree, itself included, and how deep it is.
    fn measure(node: &Node) -> (usize, usize) {
        node.children.iter().map(measure).fold((1, 1), |(n, deep), (more, below)| (n + more, deep.max(below + 1)))
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_server_sends_is_bounded_and_a_cut_answer_refused(
            pieces in proptest::collection::vec(0_usize..9, 0..200),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
            cut in 0_usize..60,
        ) {
            let words = ["<a>", "</a>", "<b/>", "&amp;", "&#x10FFFF;", "<![CDATA[<]]>", "<!--", "]]>", "text"];
            let made = pieces.iter().map(|n| words[*n]).collect::<String>().into_bytes();
            for bytes in [&made, &noise, &[made.clone(), noise.clone()].concat()] {
                if let Ok(root) = parse(bytes) {
                    let (nodes, depth) = measure(&root);
                    proptest::prop_assert!(nodes <= NODES_MAX && depth <= DEPTH_MAX);
                }
            }
            let whole = b"<r><v><k>cases/x</k><i>1</i></v><t>false</t></r>";
            proptest::prop_assert!(parse(&whole[..cut.min(whole.len() - 1)]).is_err());
            proptest::prop_assert!(parse(whole).is_ok());
        }
    }
}
