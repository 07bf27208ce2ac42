//! A document as one HTML file: no script, no link, nothing that is loaded.

use std::fmt::Write as _;

use super::{Block, Document, Table, Value, plain};

const STYLE: &str = "body{font:11pt/1.45 'Noto Sans',Arial,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#111}\
h1{font-size:20pt;margin:0 0 .6rem}h2{font-size:13pt;margin:1.6rem 0 .4rem;border-bottom:1px solid #999}\
table{border-collapse:collapse;width:100%;margin:.6rem 0}th,td{border:1px solid #999;padding:.25rem .4rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
th{background:#eee}dl{display:grid;grid-template-columns:14rem 1fr;gap:.2rem .8rem}dt{font-weight:bold}dd{margin:0;overflow-wrap:anywhere}\
code{font:.92em 'Noto Sans Mono',monospace}.line{border-bottom:1px solid #111;min-height:2.2rem;margin-top:.4rem}.line+p{margin:.1rem 0;font-size:9pt}\
.blank{display:block;border-bottom:1px solid #999;min-height:1.2em}footer{margin-top:2rem;font-size:9pt;color:#444}\
@media print{.page{break-before:page}}";

/// Renders a document.
pub fn html(document: &Document) -> String {
    let title = escape(&document.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        document.language.tag()
    );
    for block in &document.blocks {
        let _ = write_block(&mut out, block);
    }
    let _ = writeln!(out, "<footer>{}</footer>\n</body>\n</html>", escape(&document.footer));
    out
}

fn write_block(out: &mut String, block: &Block) -> std::fmt::Result {
    match block {
        Block::Heading(level, text) => writeln!(out, "<h{0}>{1}</h{0}>", if *level < 2 { 2 } else { 3 }, escape(text)),
        Block::Paragraph(text) => writeln!(out, "<p>{}</p>", escape(text)),
        Block::Fields(fields) => {
            out.push_str("<dl>\n");
            for (name, value) in fields {
                writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), shown(value))?;
            }
            out.push_str("</dl>\n");
            Ok(())
        }
        Block::Table(table) => write_table(out, table),
        Block::Lines(lines) => lines.iter().try_for_each(|line| writeln!(out, "<div class=\"line\"></div><p>{}</p>", escape(line))),
        Block::Code(dark, width) => write_code(out, dark, *width),
        Block::NewPage => writeln!(out, "<div class=\"page\"></div>"),
    }
}

fn write_table(out: &mut String, table: &Table) -> std::fmt::Result {
    out.push_str("<table>\n<thead><tr>");
    for (title, share) in &table.columns {
        write!(out, "<th style=\"width:{:.0}%\">{}</th>", share * 100.0, escape(title))?;
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        write!(out, "<tr style=\"height:{:.0}pt\">", table.row_height_min)?;
        for value in row {
            let cell = if matches!(value, Value::Blank) { String::new() } else { shown(value) };
            write!(out, "<td>{cell}</td>")?;
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    Ok(())
}

fn write_code(out: &mut String, dark: &[bool], width: usize) -> std::fmt::Result {
    let size = width + 8;
    write!(out, "<svg viewBox=\"0 0 {size} {size}\" width=\"220\" height=\"220\" shape-rendering=\"crispEdges\" role=\"img\"><path d=\"")?;
    for (n, _) in dark.iter().enumerate().filter(|(_, dark)| **dark) {
        write!(out, "M{} {}h1v1h-1z", n % width + 4, n / width + 4)?;
    }
    out.push_str("\"/></svg>\n");
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => escape(text),
        Value::Exact(text) => format!("<code>{}</code>", escape(text)),
        Value::Blank => "<span class=\"blank\"></span>".to_owned(),
    }
}

fn escape(text: &str) -> String {
    plain(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Language;

    #[test]
    fn nothing_that_a_host_says_becomes_markup() {
        let hostile = "<script>alert('x')</script>\" onload=\u{202e}\u{1b}&";
        let value = || Value::text(hostile);
        let document = Document {
            language: Language::Fr,
            title: hostile.to_owned(),
            footer: hostile.to_owned(),
            made_at_s: 0,
            blocks: vec![
                Block::Heading(1, hostile.to_owned()),
                Block::Paragraph(hostile.to_owned()),
                Block::Fields(vec![(hostile.to_owned(), Value::exact(hostile))]),
                Block::Table(Table { columns: vec![(hostile.to_owned(), 1.0)], rows: vec![vec![value()]], row_height_min: 0.0 }),
                Block::Lines(vec![hostile.to_owned()]),
            ],
        };
        let html = html(&document);
        assert!(
            !html.contains("<script") && !html.contains("\" onload") && !html.contains('\u{202e}') && !html.contains('\u{1b}'),
            "{html}"
        );
        assert_eq!(html.matches("&lt;script&gt;").count(), 10);
    }
}
