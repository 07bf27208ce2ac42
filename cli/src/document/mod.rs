//! A document for people, as a list of blocks: what it says is apart from how it is shown. Two renderers show it, as one
//! HTML file without scripts or links, and as PDF/A-1b.
//!
//! Every text may come from a host or person that is not to be trusted. The renderers escape it for their format; what could
//! act on a reader (control characters, bidirectional overrides) shows as `\u{...}`.

mod html;
mod layout;
mod pdf;

pub use html::html;
pub use pdf::pdf;

/// Language of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// French.
    Fr,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::En, Self::Fr];

    /// The tag of RFC 5646.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Fr => "fr",
        }
    }

    /// One of two texts.
    pub const fn pick(self, en: &'static str, fr: &'static str) -> &'static str {
        match self {
            Self::En => en,
            Self::Fr => fr,
        }
    }
}

/// A document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its language.
    pub language: Language,
    /// Its title.
    pub title: String,
    /// What stands at the foot of every page.
    pub footer: String,
    /// When it was made (Unix seconds): two documents of one case and moment are the same bytes.
    pub made_at_s: i64,
    /// Its content.
    pub blocks: Vec<Block>,
}

/// A part of a document.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading of level 1 or 2.
    Heading(u8, String),
    /// A paragraph.
    Paragraph(String),
    /// Names and values.
    Fields(Vec<(String, Value)>),
    /// A table.
    Table(Table),
    /// Lines to be filled in by hand: what each is for.
    Lines(Vec<String>),
    /// A QR code: its modules, row by row, true where it is dark, and its width.
    Code(Vec<bool>, usize),
    /// The next block begins a page.
    NewPage,
}

/// A value.
#[derive(Debug, Clone)]
pub enum Value {
    /// Words.
    Text(String),
    /// A digest, key or id, in a font in which its characters are told apart.
    Exact(String),
    /// To be filled in by hand.
    Blank,
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Title and share of the width of each column; the shares add up to 1.
    pub columns: Vec<(String, f32)>,
    /// Rows of as many values.
    pub rows: Vec<Vec<Value>>,
    /// Height in points that a row has at least: room to write.
    pub row_height_min: f32,
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A digest, key or id.
    pub fn exact(text: impl std::fmt::Display) -> Self {
        Self::Exact(text.to_string())
    }

    fn shown(&self) -> &str {
        match self {
            Self::Text(text) | Self::Exact(text) => text,
            Self::Blank => "",
        }
    }
}

/// Text without what could act on a reader; a backslash stays as it is, so that this may be done again.
fn plain(text: &str) -> String {
    exhibit_evidence::text::one_line(text, 4_000)
}
