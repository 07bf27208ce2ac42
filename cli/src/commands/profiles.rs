//! `exhibit profiles`: the named lists of captures, as data.

use exhibit_evidence::profile::Profile;
use exhibit_evidence::text::escape_bounded;
use serde_json::json;

use crate::args::{ProfilesArgs, ProfilesCommand};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;

/// A profile by name.
pub fn find(name: &str) -> Result<Profile> {
    let profile = Profile::find(name);
    profile.ok_or_else(|| {
        Failure::new(Code::Usage, format!("there is no profile '{}'", escape_bounded(name, 80))).hint("exhibit profiles list")
    })
}

/// Lists or shows.
pub fn run(args: ProfilesArgs, out: &Output) -> Result<Code> {
    match args.command {
        None | Some(ProfilesCommand::List) => {
            let rows: Vec<_> = Profile::built_in()
                .into_iter()
                .map(|p| json!({"profile": p.name, "captures": p.captures.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), "version": p.version, "summary": p.summary}))
                .collect();
            out.rows(&[("profile", "profile"), ("captures", "captures"), ("summary", "summary")], &rows)?;
        }
        Some(ProfilesCommand::Show { name }) => {
            let profile = find(&name)?;
            if out.is_json() {
                out.object(&json!({"profile": profile.name, "version": profile.version, "summary": profile.summary, "captures": profile.captures(), "limits": profile.limits}))?;
            } else {
                out.note(&profile.summary);
                for capture in profile.captures() {
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
