//! `exhibit profiles`: the named lists of captures, as data.

use exhibit_evidence::record::CaptureSpec;
use exhibit_evidence::text::escape_bounded;
use serde_json::json;

use crate::args::{ProfilesArgs, ProfilesCommand};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;

/// The captures of a profile.
pub fn find(name: &str) -> Result<Vec<CaptureSpec>> {
    let profile = exhibit_evidence::profile::find(name).ok_or_else(|| {
        Failure::new(Code::Usage, format!("there is no profile '{}'", escape_bounded(name, 80))).hint("exhibit profiles list")
    })?;
    Ok(profile.captures)
}

/// Lists or shows.
pub fn run(args: ProfilesArgs, out: &Output) -> Result<Code> {
    match args.command {
        None | Some(ProfilesCommand::List) => {
            let rows: Vec<_> = exhibit_evidence::profile::all()
                .into_iter()
                .map(|p| json!({"profile": p.name, "captures": p.captures.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), "description": p.description}))
                .collect();
            out.rows(&[("profile", "profile"), ("captures", "captures"), ("description", "description")], &rows)?;
        }
        Some(ProfilesCommand::Show { name }) => {
            let captures = find(&name)?;
            if out.is_json() {
                out.object(&json!({"profile": name, "captures": captures}))?;
            } else {
                for capture in captures {
                    out.line(&capture.name)?;
                    for (key, value) in &capture.params {
                        for one in value.lines() {
                            out.line(&format!("    {key} = {one}"))?;
                        }
                    }
                }
            }
        }
    }
    Ok(Code::Ok)
}
