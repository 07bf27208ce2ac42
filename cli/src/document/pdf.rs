//! A document as PDF/A-1b (ISO 19005-1): fonts embedded, every character mapped to Unicode, no date but the document's own. Of the parts of
//! the standard the first is the one that a free program of somebody else judges (Apache PDFBox Preflight, in the tests).

use exhibit_evidence::Timestamp;
use krilla::Document as PdfDocument;
use krilla::SerializeSettings;
use krilla::color::luma;
use krilla::configure::{Archival, ConfigurationBuilder};
use krilla::geom::{PathBuilder, Point, Rect};
use krilla::metadata::{DateTime, Metadata};
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, Stroke};
use krilla::surface::Surface;
use krilla::text::{Font, GlyphId, KrillaGlyph};

use super::layout::{FONTS, FOOTER_Y, Face, Faces, HEIGHT, INNER, LEFT, Mark, WIDTH, pages};
use super::{Document, plain};
use crate::exit::{Code, Failure, Result};

fn failed(what: &str) -> Failure {
    Failure::new(Code::Failure, format!("the PDF cannot be made: {what}"))
}

/// Renders a document.
///
/// # Errors
/// When it would not be PDF/A; that is a defect.
pub fn pdf(document: &Document) -> Result<Vec<u8>> {
    let faces = Faces::read().ok_or_else(|| failed("a font cannot be read"))?;
    let [regular, bold, mono] = FONTS.map(|bytes| Font::new(bytes.to_vec().into(), 0));
    let fonts = [regular, bold, mono].map(|font| font.ok_or_else(|| failed("a font cannot be read")));
    let [regular, bold, mono] = fonts;
    let drawing = Drawing { faces: &faces, fonts: [regular?, bold?, mono?] };
    let configuration = ConfigurationBuilder::new().with_archival_validator(Archival::A1_B).finish();
    let configuration = configuration.map_err(|e| failed(&format!("{e:?}")))?;
    let mut pdf = PdfDocument::new_with(SerializeSettings { configuration, enable_tagging: false, ..SerializeSettings::default() });
    pdf.set_metadata(metadata(document));
    let laid_out = pages(document, &faces);
    let count = laid_out.len();
    for (n, marks) in laid_out.iter().enumerate() {
        let settings = PageSettings::from_wh(WIDTH, HEIGHT).ok_or_else(|| failed("no page"))?;
        let mut page = pdf.start_page_with(settings);
        let mut surface = page.surface();
        for mark in marks {
            drawing.draw(&mut surface, mark);
        }
        drawing.footer(&mut surface, &document.footer, &format!("{} / {count}", n + 1));
        surface.finish();
        page.finish();
    }
    pdf.finish().map_err(|e| failed(&format!("{e:?}")))
}

fn metadata(document: &Document) -> Metadata {
    // 2026-01-15T20:00:00...: the parts of the text are the parts of the date.
    let text = Timestamp::from_unix_s(document.made_at_s).to_string();
    let part = |range: std::ops::Range<usize>| text.get(range).and_then(|p| p.parse::<u16>().ok()).unwrap_or_default();
    let small = |range| u8::try_from(part(range)).unwrap_or_default();
    let date =
        DateTime::new(part(0..4)).month(small(5..7)).day(small(8..10)).hour(small(11..13)).minute(small(14..16)).second(small(17..19));
    Metadata::new()
        .title(plain(&document.title))
        .language(document.language.tag().to_owned())
        .creator(format!("exhibit {}", env!("CARGO_PKG_VERSION")))
        .creation_date(date.utc_offset_hour(0).utc_offset_minute(0))
}

struct Drawing<'a> {
    faces: &'a Faces<'static>,
    fonts: [Font; 3],
}

fn fill(level: u8) -> Fill {
    Fill { paint: luma::Color::new(level).into(), opacity: NormalizedF32::ONE, rule: krilla::paint::FillRule::default() }
}

impl Drawing<'_> {
    fn draw(&self, surface: &mut Surface<'_>, mark: &Mark) {
        match mark {
            Mark::Text { x, y, size, face, text } => self.text(surface, (*x, *y), *size, *face, text),
            Mark::Line { from, to } => {
                let mut path = PathBuilder::new();
                path.move_to(from.0, from.1);
                path.line_to(to.0, to.1);
                surface.set_fill(None);
                surface.set_stroke(Some(Stroke { paint: luma::Color::new(110).into(), width: 0.5, ..Stroke::default() }));
                if let Some(path) = path.finish() {
                    surface.draw_path(&path);
                }
                surface.set_stroke(None);
            }
            Mark::Box { at, size, grey } => {
                let mut path = PathBuilder::new();
                if let Some(rect) = Rect::from_xywh(at.0, at.1, size.0, size.1) {
                    path.push_rect(rect);
                }
                surface.set_stroke(None);
                surface.set_fill(Some(fill(if *grey { 232 } else { 0 })));
                if let Some(path) = path.finish() {
                    surface.draw_path(&path);
                }
            }
        }
    }

    fn text(&self, surface: &mut Surface<'_>, (x, y): (f32, f32), size: f32, face: Face, text: &str) {
        let glyph = |shaped: super::layout::Shaped| KrillaGlyph {
            glyph_id: GlyphId::new(shaped.glyph),
            text_range: shaped.bytes,
            x_advance: shaped.width,
            x_offset: 0.0,
            y_offset: 0.0,
            y_advance: 0.0,
            location: None,
        };
        let glyphs: Vec<KrillaGlyph> = self.faces.shape(face, text).into_iter().map(glyph).collect();
        surface.set_stroke(None);
        surface.set_fill(Some(fill(0)));
        surface.draw_glyphs(Point::from_xy(x, y), &glyphs, self.fonts[face as usize].clone(), text, size, false);
    }

    fn footer(&self, surface: &mut Surface<'_>, text: &str, number: &str) {
        let line = FOOTER_Y - 12.0;
        self.draw(surface, &Mark::Line { from: (LEFT, line), to: (LEFT + INNER, line) });
        let lines = self.faces.wrap(Face::Regular, 7.0, text, INNER - 60.0);
        for (n, line) in lines.iter().take(2).enumerate() {
            self.text(surface, (LEFT, FOOTER_Y + 9.0 * n as f32), 7.0, Face::Regular, line);
        }
        self.text(surface, (LEFT + INNER - 40.0, FOOTER_Y), 7.0, Face::Regular, number);
    }
}
