//! `exhibit anchor`: the sheet that goes to the recipient on another way than the bag.

use std::path::Path;

use exhibit_certs::files;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::text::escape_bounded;
use qrcode::{Color, EcLevel, QrCode};
use serde_json::json;

use crate::args::handoff::AnchorCommand;
use crate::clock;
use crate::commands::log::write_new;
use crate::connection::own_anchor;
use crate::document::{self, Block, Document, Language, Value};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;

/// Runs an anchor command.
pub fn run(home: Option<&Path>, command: AnchorCommand, out: &Output) -> Result<Code> {
    let AnchorCommand::Print { anchor, pdf } = command;
    let anchor = match anchor {
        Some(path) => {
            let bad = |e: &str| {
                Failure::new(Code::Input, format!("--anchor: {}", escape_bounded(e, 300))).hint(
                    "it is the file anchor.json that 'exhibit-coordinator init' made; leave --anchor out for the one of your identity",
                )
            };
            let bytes = files::read(&path).map_err(|e| bad(&e.to_string()))?;
            Anchor::parse(&bytes).map_err(|e| bad(&e))?
        }
        None => own_anchor(home)?,
    };
    let text = one_line(&anchor)?;
    if let Some(path) = pdf {
        let made = document::pdf(&as_document(&anchor, &text)?)?;
        write_new(&path, &made)?;
        if !out.is_json() {
            out.line(&format!("written: {}", path.display()))?;
            out.note("next: sign it on paper, and give it to the recipient on another way than the bag: exhibit export makes that");
            return Ok(Code::Ok);
        }
        out.object(&json!({"anchor": anchor, "root_key_sha256": anchor.root_key.id(), "pdf": path.display().to_string()}))?;
        return Ok(Code::Ok);
    }
    if out.is_json() {
        out.object(&json!({"anchor": anchor, "root_key_sha256": anchor.root_key.id()}))?;
        return Ok(Code::Ok);
    }
    out.line(&sheet(&anchor, &text)?)?;
    Ok(Code::Ok)
}

/// The anchor file's content in one line: what the QR code holds.
fn one_line(anchor: &Anchor) -> Result<String> {
    serde_json::to_string(anchor).map_err(|e| Failure::new(Code::Failure, e.to_string()))
}

/// The code's modules, row by row, true where it is dark, and its width.
pub fn qr(text: &str) -> Result<(Vec<bool>, usize)> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M);
    let code = code.map_err(|e| Failure::new(Code::Failure, format!("cannot make a QR code: {e}")))?;
    Ok((code.to_colors().into_iter().map(|c| c == Color::Dark).collect(), code.width()))
}

/// A digest or key in groups of four characters, as people compare it.
fn grouped(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(4).map(|four| four.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// The sheet for the paper form, in both languages.
fn as_document(anchor: &Anchor, text: &str) -> Result<Document> {
    let (dark, width) = qr(text)?;
    let key = key_text(text);
    let mut blocks = Vec::new();
    for l in Language::ALL {
        let use_of = l.pick(
            "Whoever verifies a bag of this deployment needs this anchor and must get it on another way than the bag: on paper, signed, or from another person. An anchor that comes with the evidence proves nothing. The QR code holds the anchor file.",
            "Quiconque vérifie un dossier de ce déploiement a besoin de cette ancre et doit l'obtenir par une autre voie que le dossier : sur papier, signée, ou d'une autre personne. Une ancre livrée avec les preuves ne prouve rien. Le code QR contient le fichier d'ancre.",
        );
        blocks.push(Block::Paragraph(use_of.to_owned()));
    }
    blocks.push(Block::Fields(vec![
        ("Deployment / Déploiement".to_owned(), Value::text(&anchor.deployment)),
        ("Root key / Clé racine (Ed25519, base64)".to_owned(), Value::exact(grouped(key))),
        ("SHA-256".to_owned(), Value::exact(grouped(&anchor.root_key.id().to_string()))),
        ("anchor.json".to_owned(), Value::exact(text)),
    ]));
    blocks.push(Block::Code(dark, width));
    blocks.push(Block::Lines(["Name, position / Nom, fonction", "Place, date / Lieu, date", "Signature"].map(str::to_owned).to_vec()));
    let title = "Trust anchor / Ancre de confiance".to_owned();
    let footer = format!("{} · {}", anchor.deployment, anchor.root_key.id());
    Ok(Document { language: Language::En, title, footer, made_at_s: clock::now().unix_ns() / 1_000_000_000, blocks })
}

fn key_text(text: &str) -> &str {
    text.split("\"root_key\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default()
}

fn sheet(anchor: &Anchor, text: &str) -> Result<String> {
    let key = key_text(text);
    let id = anchor.root_key.id().to_string();
    Ok(format!(
        "TRUST ANCHOR of the deployment '{}'\n\n\
         Root key (Ed25519, base64)\n  {}\n\n\
         SHA-256 of the root key\n  {}\n\n\
         The anchor file: save this line as anchor.json\n  {text}\n\n{}\n\
         Whoever verifies a bag of this deployment needs this anchor and must get it on another way than the bag: on paper,\n\
         signed, or from another person. An anchor that comes with the evidence proves nothing.\n",
        escape_bounded(&anchor.deployment, 120),
        grouped(key),
        grouped(&id),
        blocks(&qr(text)?),
    ))
}

/// The code for a terminal: two rows of modules in one line, with the quiet zone around it.
fn blocks((dark, width): &(Vec<bool>, usize)) -> String {
    let at = |x: usize, y: usize| (4..width + 4).contains(&x) && (4..width + 4).contains(&y) && dark[(y - 4) * width + x - 4];
    let line = |y: usize| {
        let half = |x: usize| match (at(x, y), at(x, y + 1)) {
            (true, true) => ' ',
            (true, false) => '\u{2584}',
            (false, true) => '\u{2580}',
            (false, false) => '\u{2588}',
        };
        (0..width + 8).map(half).collect::<String>() + "\n"
    };
    (0..width + 8).step_by(2).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sheet_holds_the_anchor() {
        let key = exhibit_evidence::key::SigningKey::from_seed(&[7; 32]).public();
        let anchor = Anchor { format: exhibit_evidence::anchor::FORMAT.to_owned(), deployment: "d\u{1b}[2J".to_owned(), root_key: key };
        let text = one_line(&anchor).expect("text");
        let sheet = sheet(&anchor, &text).expect("sheet");
        assert!(sheet.contains(&text) && !sheet.contains('\u{1b}'), "{sheet}");
        let line = sheet.lines().find(|l| l.trim_start().starts_with('{')).expect("the file");
        assert_eq!(Anchor::parse(line.trim().as_bytes()), Ok(anchor));
        let (dark, width) = qr(&text).expect("code");
        assert_eq!(dark.len(), width * width);
        assert!(dark[0] && sheet.contains('\u{2588}'), "the finder pattern begins in the corner");
    }
}
