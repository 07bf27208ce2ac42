//! The picture of a case's custody: one bar per collection over time, one piece per period. SVG 1.1 without scripts, fonts or
//! anything from outside, so that it can be put into a report and is the same in twenty years.

use std::fmt::Write as _;

use super::history::History;
use super::periods::{Period, Storage};
use crate::id::CollectionId;
use crate::log::Checkpoint;
use crate::record::Action;
use crate::text::one_line;
use crate::time::Timestamp;

/// Most collections that are drawn, so that the picture can be looked at; how many are left out is written below.
pub const COLLECTIONS_DRAWN_MAX: usize = 60;

const WIDTH: u64 = 1_120;
/// Where the bars begin and how wide they are.
const LEFT: u64 = 300;
const SPAN: u64 = 780;
const TOP: u64 = 112;
const ROW: u64 = 34;
const BAR: u64 = 18;
/// Fills of custodians, by turns; dark enough for white text, apart from each other for the colour-blind (after Okabe and Ito).
const FILLS: [&str; 6] = ["#0072b2", "#b35000", "#007a5e", "#8a4f7d", "#4d4d4d", "#7a6a00"];

/// Draws what a [`History`] knows, which was read up to the head `of` its log. An open period reaches to `until`, the moment at
/// which it is drawn and the end of the axis. A `warning`, of some 150 characters, stands below the title.
#[must_use]
pub fn picture(history: &History, of: &Checkpoint, until: Timestamp, warning: Option<&str>) -> String {
    let periods = history.periods();
    let mut collections: Vec<&CollectionId> = Vec::new();
    let mut custodians: Vec<&str> = Vec::new();
    for period in periods {
        if !collections.contains(&&period.collection) && collections.len() < COLLECTIONS_DRAWN_MAX {
            collections.push(&period.collection);
        }
        if !custodians.contains(&period.custodian.as_str()) {
            custodians.push(&period.custodian);
        }
    }
    let left_out = periods.iter().map(|p| &p.collection).collect::<std::collections::BTreeSet<_>>().len().saturating_sub(collections.len());
    let axis = Axis::new(history, until);
    let rows = collections.len() as u64;
    let legend = TOP + rows * ROW + 52;
    let height = legend + 22 * (custodians.len() as u64 + 2) + 30;
    let mut out = head(history, (of, until), height);
    if let Some(warning) = warning {
        let _ = writeln!(out, r##"<text x="20" y="87" font-size="11" fill="#b00020">WARNING: {}</text>"##, xml(warning, 180));
    }
    axis.draw(&mut out, rows);
    for (i, collection) in collections.iter().enumerate() {
        let y = TOP + i as u64 * ROW;
        label(&mut out, history, collection, y);
        for period in periods.iter().filter(|p| p.collection == **collection) {
            let fill =
                custodians.iter().position(|c| *c == period.custodian).and_then(|n| FILLS.get(n % FILLS.len())).unwrap_or(&"#4d4d4d");
            bar(&mut out, &axis, period, y, fill);
        }
    }
    marks(&mut out, &axis, history, rows);
    key(&mut out, &custodians, legend, left_out);
    out.push_str("</svg>\n");
    out
}

/// Time to place. The ends are those of what is drawn; a moment outside is drawn at the end.
struct Axis {
    from: i64,
    to: i64,
}

impl Axis {
    fn new(history: &History, until: Timestamp) -> Self {
        let starts = history.periods().iter().map(|p| p.from.at.unix_ns());
        let ends = history.periods().iter().filter_map(|p| p.to).map(|m| m.at.unix_ns());
        let from = starts.min().unwrap_or_else(|| until.unix_ns());
        let to = ends.chain([until.unix_ns()]).max().unwrap_or(from);
        Self { from, to: to.max(from.saturating_add(1)) }
    }

    fn x(&self, at: Timestamp) -> u64 {
        let at = i128::from(at.unix_ns().clamp(self.from, self.to));
        let part = (at - i128::from(self.from)) * i128::from(SPAN) / (i128::from(self.to) - i128::from(self.from));
        LEFT + u64::try_from(part).unwrap_or(0)
    }

    fn draw(&self, out: &mut String, rows: u64) {
        let bottom = TOP + rows * ROW;
        for tick in 0..=4_i128 {
            let ns = i128::from(self.from) + (i128::from(self.to) - i128::from(self.from)) * tick / 4;
            let at = Timestamp::from_unix_ns(i64::try_from(ns).unwrap_or(i64::MAX));
            let (x, anchor) = (
                self.x(at),
                if tick == 4 {
                    "end"
                } else if tick == 0 {
                    "start"
                } else {
                    "middle"
                },
            );
            let text = at.to_string();
            let text = text.get(..19).unwrap_or(&text).replace('T', " ");
            let _ = writeln!(out, r##"<line x1="{x}" y1="{}" x2="{x}" y2="{bottom}" stroke="#cccccc"/>"##, TOP - 8);
            let _ = writeln!(out, r#"<text x="{x}" y="{}" text-anchor="{anchor}" font-size="11">{text}</text>"#, TOP - 14);
        }
    }
}

/// What the picture is of, when it was drawn, and from which head of the log: a picture says nothing of what came later.
fn head(history: &History, (of, drawn): (&Checkpoint, Timestamp), height: u64) -> String {
    let (case, title) = history.case().map(|c| (c.case.to_string(), c.title.clone())).unwrap_or_default();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <defs><pattern id=\"hold\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <rect width=\"3\" height=\"8\" fill=\"#ffffff\" fill-opacity=\"0.55\"/></pattern></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let _ = writeln!(out, r#"<text x="20" y="30" font-size="18">Custody of case {}</text>"#, xml(&case, 40));
    let _ = writeln!(out, r##"<text x="20" y="52" fill="#444444">{} · times are UTC, as stated in the records</text>"##, xml(&title, 90));
    let _ = writeln!(
        out,
        r##"<text x="20" y="72" font-size="11" fill="#444444">generated at {drawn} from checkpoint {}:{} of {}</text>"##,
        of.size,
        of.root,
        xml(&of.origin, 100)
    );
    out
}

fn label(out: &mut String, history: &History, collection: &CollectionId, y: u64) {
    let host = history.host(collection).unwrap_or("host not known");
    let _ = writeln!(out, r#"<text x="20" y="{}">{}</text>"#, y + 12, xml(host, 32));
    let _ = writeln!(out, r##"<text x="20" y="{}" font-size="10" fill="#444444">{}</text>"##, y + 25, xml(collection.as_str(), 40));
}

fn bar(out: &mut String, axis: &Axis, period: &Period, y: u64, fill: &str) {
    let (from, to) = (axis.x(period.from.at), period.to.map_or(LEFT + SPAN, |m| axis.x(m.at)));
    // What is too short to be seen is drawn one unit wide; it is in the table.
    let width = to.saturating_sub(from).max(1);
    let (opacity, dash) = match period.storage {
        Storage::Arriving => ("0.45", ""),
        Storage::Sealed => ("1", ""),
        Storage::Condemned => ("0.25", r#" stroke-dasharray="4 2""#),
    };
    let until = period.retained_until.map_or_else(|| "no retention".to_owned(), |t| format!("kept until {t}"));
    let end = period.to.map_or_else(|| "now".to_owned(), |m| format!("record {} ({})", m.n, m.at));
    let held = if period.held { ", on hold" } else { "" };
    let title = format!(
        "{}: {} by {}{held}, {until}; from record {} ({}) to {end}",
        period.collection,
        period.storage.as_str(),
        period.custodian,
        period.from.n,
        period.from.at
    );
    let _ = writeln!(
        out,
        r#"<g><title>{}</title><rect x="{from}" y="{y}" width="{width}" height="{BAR}" fill="{fill}" fill-opacity="{opacity}" stroke="{fill}"{dash}/>"#,
        xml(&title, 600)
    );
    if period.held {
        let _ = writeln!(out, r#"<rect x="{from}" y="{y}" width="{width}" height="{BAR}" fill="url(#hold)"/>"#);
    }
    out.push_str("</g>\n");
}

/// Accesses, retention, transfers and destructions below the bars.
fn marks(out: &mut String, axis: &Axis, history: &History, rows: u64) {
    let y = TOP + rows * ROW + 6;
    for row in history.rows().iter().filter(|r| r.problem.is_none()) {
        let x = axis.x(row.at);
        let shape = match row.event {
            "access" => format!(r##"<line x1="{x}" y1="{y}" x2="{x}" y2="{}" stroke="#000000"/>"##, y + 9),
            "transfer" => format!(r##"<path d="M{x} {y} l5 9 l-10 0 z" fill="#b35000"/>"##),
            "retention" => format!(r##"<circle cx="{x}" cy="{}" r="4" fill="none" stroke="#007a5e" stroke-width="2"/>"##, y + 5),
            "destruction" => format!(r##"<path d="M{} {y} l9 9 m0 -9 l-9 9" stroke="#b00020" stroke-width="2"/>"##, x.saturating_sub(4)),
            _ => continue,
        };
        let title = format!("record {}: {} by {}, {}", row.n, row.event, row.by, row.what);
        let _ = writeln!(out, "<g><title>{}</title>{shape}</g>", xml(&title, 600));
    }
}

fn key(out: &mut String, custodians: &[&str], top: u64, left_out: usize) {
    let mut y = top;
    for (n, custodian) in custodians.iter().enumerate() {
        let fill = FILLS.get(n % FILLS.len()).unwrap_or(&"#4d4d4d");
        let _ = writeln!(out, r#"<rect x="20" y="{}" width="22" height="12" fill="{fill}"/>"#, y - 10);
        let _ = writeln!(out, r#"<text x="50" y="{y}">custody of {}</text>"#, xml(custodian, 100));
        y += 22;
    }
    let _ = writeln!(out, r##"<rect x="20" y="{}" width="22" height="12" fill="#4d4d4d"/>"##, y - 10);
    let _ = writeln!(out, r#"<rect x="20" y="{}" width="22" height="12" fill="url(#hold)"/>"#, y - 10);
    let _ = writeln!(out, r#"<text x="50" y="{y}">striped: on hold · pale: not sealed yet · dashed: destruction approved</text>"#);
    y += 22;
    let actions = Action::ALL.map(Action::as_str).join(", ");
    let _ = writeln!(
        out,
        r#"<text x="50" y="{y}">below the bars: stroke = access ({actions}) · ring = retention set · triangle = transfer · cross = destruction</text>"#
    );
    if left_out > 0 {
        let _ = writeln!(out, r#"<text x="50" y="{}">{left_out} more collections are not drawn; the table has them</text>"#, y + 22);
    }
}

/// Text for XML: escaped as everywhere, then for the markup.
fn xml(text: &str, chars_max: usize) -> String {
    // Names and rows were escaped when they were taken; what XML has no place for is left out.
    let escaped = one_line(text, chars_max).replace(['\u{fffe}', '\u{ffff}'], "?");
    escaped.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
