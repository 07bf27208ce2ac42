//! Breaking blocks into lines and pages: A4, three fonts, tables whose head is repeated. Sizes are in points.

use skrifa::MetadataProvider as _;
use skrifa::instance::{LocationRef, Size};

use super::{Block, Document, Table, Value, plain};

/// A4.
pub const WIDTH: f32 = 595.28;
/// A4.
pub const HEIGHT: f32 = 841.89;
const MARGIN: f32 = 56.0;
/// Where the footer's text stands.
pub const FOOTER_Y: f32 = HEIGHT - 34.0;
const BOTTOM: f32 = HEIGHT - 62.0;
const TEXT: f32 = 9.5;
const EXACT: f32 = 8.0;
const CELL: f32 = 3.0;
/// What is higher is divided between pages, although it would better stay together.
const KEPT_MAX: f32 = 300.0;
/// Width that blocks may take.
pub const INNER: f32 = WIDTH - 2.0 * MARGIN;
/// Where blocks begin.
pub const LEFT: f32 = MARGIN;

/// Which font.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Noto Sans.
    Regular,
    /// Noto Sans Bold.
    Bold,
    /// Noto Sans Mono.
    Mono,
}

/// The font files: subsets of Noto (SIL Open Font License 1.1, `fonts/OFL.txt`), made as `fonts/README.md` says.
pub const FONTS: [&[u8]; 3] = [
    include_bytes!("fonts/NotoSans-Regular.subset.ttf"),
    include_bytes!("fonts/NotoSans-Bold.subset.ttf"),
    include_bytes!("fonts/NotoSansMono-Regular.subset.ttf"),
];

/// What is drawn.
#[derive(Debug, Clone)]
pub enum Mark {
    /// A line of text whose baseline begins at (x, y).
    Text { x: f32, y: f32, size: f32, face: Face, text: String },
    /// A thin line.
    Line { from: (f32, f32), to: (f32, f32) },
    /// A filled rectangle: left, top, width, height; grey (true) or black.
    Box { at: (f32, f32), size: (f32, f32), grey: bool },
}

/// One glyph of a text: its number in the font, its width in ems, and its bytes in the text.
#[derive(Debug, Clone)]
pub struct Shaped {
    pub glyph: u32,
    pub width: f32,
    pub bytes: std::ops::Range<usize>,
}

/// The measures of the fonts.
pub struct Faces<'a>([skrifa::FontRef<'a>; 3]);

impl Faces<'static> {
    /// Reads the fonts; `None` when one is none, which a test excludes.
    pub fn read() -> Option<Self> {
        let [a, b, c] = FONTS.map(skrifa::FontRef::new);
        Some(Self([a.ok()?, b.ok()?, c.ok()?]))
    }

    /// Text that every character of it has a glyph for: others show as `\u{...}`.
    fn showable(&self, face: Face, text: &str) -> String {
        let charmap = self.0[face as usize].charmap();
        plain(text).chars().map(|c| if charmap.map(c).is_some() { c.to_string() } else { format!("\\u{{{:x}}}", c as u32) }).collect()
    }

    /// The glyphs of a text, one a character.
    pub fn shape(&self, face: Face, text: &str) -> Vec<Shaped> {
        let font = &self.0[face as usize];
        let (charmap, metrics) = (font.charmap(), font.glyph_metrics(Size::unscaled(), LocationRef::default()));
        let ems = f32::from(font.metrics(Size::unscaled(), LocationRef::default()).units_per_em);
        let one = |(at, c): (usize, char)| {
            let glyph = charmap.map(c).unwrap_or_default();
            Shaped { glyph: glyph.to_u32(), width: metrics.advance_width(glyph).unwrap_or_default() / ems, bytes: at..at + c.len_utf8() }
        };
        text.char_indices().map(one).collect()
    }

    fn width(&self, face: Face, size: f32, text: &str) -> f32 {
        self.shape(face, text).iter().map(|g| g.width).sum::<f32>() * size
    }

    /// Lines of at most `max` points; a word that is longer is broken.
    pub fn wrap(&self, face: Face, size: f32, text: &str, max: f32) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in self.showable(face, text).split(' ').flat_map(|word| self.pieces(face, size, word, max)) {
            let line = lines.last().map(String::as_str).unwrap_or_default();
            let longer = if line.is_empty() { word.clone() } else { format!("{line} {word}") };
            if line.is_empty() || self.width(face, size, &longer) <= max {
                lines.pop();
                lines.push(longer);
            } else {
                lines.push(word);
            }
        }
        lines
    }

    fn pieces(&self, face: Face, size: f32, word: &str, max: f32) -> Vec<String> {
        let (mut pieces, mut piece, mut width) = (Vec::new(), String::new(), 0.0);
        for glyph in self.shape(face, word) {
            let advance = glyph.width * size;
            if width + advance > max && !piece.is_empty() {
                pieces.push(std::mem::take(&mut piece));
                width = 0.0;
            }
            piece.push_str(&word[glyph.bytes]);
            width += advance;
        }
        pieces.push(piece);
        pieces
    }
}

/// Shares of the width that name and value of a field have.
const FIELD: [f32; 2] = [0.3, 0.7];
/// Height of a field at least.
const FIELD_MIN: f32 = 14.0;

/// A height that is kept together; 0 where it is too high for that.
fn kept(height: f32) -> f32 {
    if height > KEPT_MAX { 0.0 } else { height }
}

/// Pages that are being filled.
struct Pages<'a> {
    faces: &'a Faces<'static>,
    pages: Vec<Vec<Mark>>,
    y: f32,
}

/// Lays a document out: the marks of every page, footers not included.
pub fn pages(document: &Document, faces: &Faces<'static>) -> Vec<Vec<Mark>> {
    let mut pages = Pages { faces, pages: vec![Vec::new()], y: MARGIN };
    pages.text(Face::Bold, 18.0, &document.title, 6.0);
    for (n, block) in document.blocks.iter().enumerate() {
        let following = document.blocks.get(n + 1..).unwrap_or_default();
        if matches!(block, Block::Heading(..)) {
            pages.keep_with_next(following);
        }
        let lines = pages.lines_after(following);
        pages.block(block, lines);
    }
    pages.pages
}

impl Pages<'_> {
    fn mark(&mut self, mark: Mark) {
        if let Some(page) = self.pages.last_mut() {
            page.push(mark);
        }
    }

    fn new_page(&mut self) {
        self.pages.push(Vec::new());
        self.y = MARGIN;
    }

    /// Begins a page when so many points are not left.
    fn room(&mut self, height: f32) {
        if self.y + height > BOTTOM && self.pages.last().is_some_and(|page| !page.is_empty()) {
            self.new_page();
        }
    }

    /// Begins a page when a heading and the beginning of what follows it are not left room for: it does not stand alone at the foot.
    fn keep_with_next(&mut self, following: &[Block]) {
        let headings = 1 + following.iter().take_while(|block| matches!(block, Block::Heading(..))).count();
        let begins = match following.get(headings - 1) {
            Some(Block::Table(table)) => self.begin_of(table),
            Some(Block::Lines(lines)) => kept(self.lines_height(lines)),
            Some(Block::Paragraph(text)) => self.with_lines(text, self.lines_after(following.get(headings..).unwrap_or_default())),
            Some(Block::Fields(fields)) => self.first_field(fields, self.lines_after(following.get(headings..).unwrap_or_default())),
            _ => 0.0,
        };
        self.room(33.0 * headings as f32 + begins.max(38.0));
    }

    /// Height of the lines that come next; 0 where something else does. What is signed and who signs it stay on one page.
    fn lines_after(&self, following: &[Block]) -> f32 {
        if let Some(Block::Lines(lines)) = following.first() { self.lines_height(lines) } else { 0.0 }
    }

    fn lines_height(&self, lines: &[String]) -> f32 {
        let label = |line: &String| self.faces.wrap(Face::Regular, 8.0, line, INNER).len() as f32 * 8.0 * 1.4;
        lines.iter().map(|line| (28.0 + label(line) + 4.0).max(44.0)).sum()
    }

    /// Height of a paragraph that stays with the lines below it; 0 where none are, or both are too high.
    fn with_lines(&self, text: &str, lines: f32) -> f32 {
        if lines > 0.0 { kept(self.faces.wrap(Face::Regular, TEXT, text, INNER).len() as f32 * TEXT * 1.4 + 5.0 + lines) } else { 0.0 }
    }

    /// Height of the first field, and of the lines below where it is the only one.
    fn first_field(&self, fields: &[(String, Value)], lines: f32) -> f32 {
        let below = if fields.len() == 1 { lines } else { 0.0 };
        fields.first().map_or(0.0, |field| self.field_height(field, below))
    }

    /// Height of a field that is not divided, with the lines below it; 0 where that is too high.
    fn field_height(&self, (name, value): &(String, Value), lines: f32) -> f32 {
        let below = if lines > 0.0 { lines + 5.0 } else { 0.0 };
        let height = self.height(&FIELD, &[Value::text(name.clone()), value.clone()], FIELD_MIN);
        kept(height.max(FIELD_MIN + 2.0 * CELL + 12.0) + below)
    }

    /// Height of a table's head and first row, as far as they are kept together.
    fn begin_of(&self, table: &Table) -> f32 {
        let shares: Vec<f32> = table.columns.iter().map(|c| c.1).collect();
        let head: Vec<Value> = table.columns.iter().map(|c| Value::text(c.0.clone())).collect();
        let first = table.rows.first().map_or(0.0, |row| self.height(&shares, row, table.row_height_min));
        (self.height(&shares, &head, 0.0) + first).clamp(60.0, 300.0)
    }

    fn text(&mut self, face: Face, size: f32, text: &str, after: f32) {
        for line in self.faces.wrap(face, size, text, INNER) {
            self.room(size * 1.4);
            self.y += size * 1.4;
            let y = self.y - size * 0.35;
            self.mark(Mark::Text { x: LEFT, y, size, face, text: line });
        }
        self.y += after;
    }

    /// Draws a block; `lines` is the height of the lines below it.
    fn block(&mut self, block: &Block, lines: f32) {
        match block {
            Block::Heading(level, text) => {
                self.room(70.0);
                self.y += if *level < 2 { 12.0 } else { 6.0 };
                self.text(Face::Bold, if *level < 2 { 12.5 } else { 10.5 }, text, 3.0);
            }
            Block::Paragraph(text) => {
                self.room(self.with_lines(text, lines));
                self.text(Face::Regular, TEXT, text, 5.0);
            }
            Block::Fields(fields) => {
                for (n, field) in fields.iter().enumerate() {
                    let below = if n + 1 == fields.len() { lines } else { 0.0 };
                    self.room(self.field_height(field, below));
                    let row = vec![Value::text(field.0.clone()), field.1.clone()];
                    self.row(&FIELD, &row, FIELD_MIN, &[Face::Bold, Face::Regular], false);
                }
                self.y += 5.0;
            }
            Block::Table(table) => self.table(table),
            Block::Lines(lines) => {
                self.room(kept(self.lines_height(lines)));
                for line in lines {
                    self.room(44.0);
                    self.y += 28.0;
                    let y = self.y;
                    self.mark(Mark::Line { from: (LEFT, y), to: (LEFT + INNER * 0.75, y) });
                    self.text(Face::Regular, 8.0, line, 4.0);
                }
            }
            Block::Code(dark, width) => self.code(dark, *width),
            Block::NewPage => self.new_page(),
        }
    }

    fn table(&mut self, table: &Table) {
        let shares: Vec<f32> = table.columns.iter().map(|c| c.1).collect();
        let head: Vec<Value> = table.columns.iter().map(|c| Value::text(c.0.clone())).collect();
        let (bold, plain) = (vec![Face::Bold; shares.len()], vec![Face::Regular; shares.len()]);
        self.room(self.begin_of(table));
        self.row(&shares, &head, 0.0, &bold, true);
        for row in &table.rows {
            let page = self.pages.len();
            let height = self.height(&shares, row, table.row_height_min);
            self.room(height);
            if self.pages.len() > page {
                self.row(&shares, &head, 0.0, &bold, true);
            }
            self.row(&shares, row, table.row_height_min, &plain, false);
        }
        self.y += 8.0;
    }

    /// The lines of a cell, with their font and size.
    fn cell(&self, share: f32, value: &Value, face: Face) -> (Vec<String>, Face, f32) {
        let (face, size) = if matches!(value, Value::Exact(_)) { (Face::Mono, EXACT) } else { (face, TEXT - 0.5) };
        (self.faces.wrap(face, size, value.shown(), INNER * share - 2.0 * CELL), face, size)
    }

    fn height(&self, shares: &[f32], row: &[Value], min: f32) -> f32 {
        let cells = shares.iter().zip(row).map(|(share, value)| {
            // As high as the lines of the largest size: so many are left room for when a row is drawn.
            self.cell(*share, value, Face::Bold).0.len() as f32 * TEXT * 1.35
        });
        cells.fold(min, f32::max) + 2.0 * CELL
    }

    /// Draws a row with its frame; one that is higher than a page goes on over the next pages.
    fn row(&mut self, shares: &[f32], row: &[Value], min: f32, faces: &[Face], grey: bool) {
        let cells: Vec<_> = shares.iter().zip(row).zip(faces).map(|((share, value), face)| self.cell(*share, value, *face)).collect();
        let mut done = 0;
        loop {
            self.room(min + 2.0 * CELL + 12.0);
            let fits = ((BOTTOM - self.y - 2.0 * CELL) / (TEXT * 1.35)).max(1.0) as usize;
            let most = cells.iter().map(|(lines, ..)| lines.len()).max().unwrap_or_default();
            let until = most.min(done + fits);
            let tallest = cells.iter().map(|(lines, _, size)| (lines.len().min(until).saturating_sub(done)) as f32 * size * 1.35);
            let height = tallest.fold(min, f32::max) + 2.0 * CELL;
            let top = self.y;
            if grey {
                self.mark(Mark::Box { at: (LEFT, top), size: (INNER, height), grey: true });
            }
            let mut x = LEFT;
            for ((lines, face, size), share) in cells.iter().zip(shares) {
                for (n, line) in lines.iter().take(until).skip(done).enumerate() {
                    let y = top + CELL + (n as f32 + 0.78) * size * 1.35;
                    self.mark(Mark::Text { x: x + CELL, y, size: *size, face: *face, text: line.clone() });
                }
                self.mark(Mark::Line { from: (x, top), to: (x, top + height) });
                x += INNER * share;
            }
            self.mark(Mark::Line { from: (LEFT + INNER, top), to: (LEFT + INNER, top + height) });
            for y in [top, top + height] {
                self.mark(Mark::Line { from: (LEFT, y), to: (LEFT + INNER, y) });
            }
            self.y += height;
            done = until;
            if done >= most {
                return;
            }
            self.new_page();
        }
    }

    fn code(&mut self, dark: &[bool], width: usize) {
        let module = 4.0;
        let side = module * (width + 8) as f32;
        self.room(side);
        let top = self.y;
        for (n, _) in dark.iter().enumerate().filter(|(_, dark)| **dark) {
            let at = (LEFT + module * (n % width + 4) as f32, top + module * (n / width + 4) as f32);
            self.mark(Mark::Box { at, size: (module, module), grey: false });
        }
        self.y += side;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_to_their_width_and_lose_nothing() {
        let faces = Faces::read().expect("fonts");
        let text = "a b cc \u{202e} 日本 é żółć ".to_owned() + &"f".repeat(300);
        let lines = faces.wrap(Face::Mono, 8.0, &text, 120.0);
        assert!(lines.iter().all(|line| faces.width(Face::Mono, 8.0, line) <= 120.0), "{lines:?}");
        let joined = lines.concat();
        assert!(joined.contains("\\u{202e}") && joined.contains("\\u{65e5}") && joined.contains("żółć"), "{joined}");
        assert_eq!(joined.matches('f').count(), 300);
    }

    #[test]
    fn no_heading_stands_alone_at_the_foot_of_a_page() {
        let faces = Faces::read().expect("fonts");
        let long = Value::text("word ".repeat(60));
        let columns = vec![("a".to_owned(), 0.5), ("b".to_owned(), 0.5)];
        let table = Table { columns, rows: vec![vec![long.clone(), long]], row_height_min: 0.0 };
        let follows =
            [Block::Table(table), Block::Lines(vec!["Signature".to_owned()]), Block::Fields(vec![("n".to_owned(), Value::text("v"))])];
        for (lines, next) in (30..60).flat_map(|n| follows.iter().map(move |next| (n, next))) {
            let mut blocks = vec![Block::Paragraph("line".to_owned()); lines];
            blocks.extend([Block::Heading(1, "One".to_owned()), Block::Heading(2, "Two".to_owned()), next.clone()]);
            let document =
                Document { language: crate::document::Language::En, title: "t".to_owned(), footer: String::new(), made_at_s: 0, blocks };
            for page in pages(&document, &faces) {
                let last = page.iter().rev().find_map(|mark| match mark {
                    Mark::Text { size, .. } => Some(*size),
                    _ => None,
                });
                assert!(last.is_none_or(|size| size < 10.0), "{lines} lines");
            }
        }
    }

    #[test]
    fn a_field_is_not_divided_nor_what_is_signed_from_who_signs() {
        let faces = Faces::read().expect("fonts");
        let lines = Block::Lines(["Name", "Place", "Signature"].map(str::to_owned).to_vec());
        let field = |name: &str| (name.to_owned(), Value::text("v"));
        for before in 20..60 {
            let mut blocks = vec![Block::Paragraph("line".to_owned()); before];
            blocks.push(Block::Fields(vec![field("first"), field(&"label ".repeat(20)), field("last")]));
            blocks.extend([Block::Paragraph("certified".to_owned()), lines.clone(), Block::Fields(vec![field("stated")]), lines.clone()]);
            let document =
                Document { language: crate::document::Language::En, title: "t".to_owned(), footer: String::new(), made_at_s: 0, blocks };
            let laid_out = pages(&document, &faces);
            let on = |word: &str| -> Vec<usize> {
                let has = |page: &&Vec<Mark>| page.iter().any(|mark| matches!(mark, Mark::Text { text, .. } if text.contains(word)));
                laid_out.iter().enumerate().filter(|(_, page)| has(page)).map(|(n, _)| n).collect()
            };
            assert_eq!(on("label").len(), 1, "{before} lines");
            let (name, signature) = (on("Name"), on("Signature"));
            assert_eq!(name, signature, "{before} lines");
            assert!(name.contains(&on("certified")[0]) && name.contains(&on("stated")[0]), "{before} lines");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_is_drawn_outside_the_page(text: String, rows in 0_usize..60) {
            let faces = Faces::read().expect("fonts");
            let row = vec![Value::text(text.clone()), Value::exact(text.clone()), Value::Blank];
            let columns = vec![(text.clone(), 0.3), ("b".to_owned(), 0.3), ("c".to_owned(), 0.4)];
            let table = Table { columns, rows: vec![row; rows], row_height_min: 20.0 };
            let blocks = vec![Block::Paragraph(text.clone()), Block::Table(table), Block::Lines(vec![text.clone()])];
            let document = Document { language: crate::document::Language::En, title: text, footer: String::new(), made_at_s: 0, blocks };
            for mark in pages(&document, &faces).into_iter().flatten() {
                let (x, y) = match mark {
                    Mark::Text { x, y, size, face, text } => (x + faces.width(face, size, &text), y),
                    Mark::Line { to, .. } => to,
                    Mark::Box { at, size, .. } => (at.0 + size.0, at.1 + size.1),
                };
                proptest::prop_assert!(x <= WIDTH - MARGIN + 0.1 && y <= FOOTER_Y - 8.0, "{x} {y}");
            }
        }
    }
}
