//! Making an order: what the responder asked for becomes a signed record that agents obey.

use std::collections::BTreeSet;

use exhibit_evidence::record::{CaptureSpec, Limits, Order};
use exhibit_evidence::{parameters, written};

use crate::args::CollectArgs;
use crate::exit::{Code, Failure, Result};

fn parse_capture(text: &str) -> Result<CaptureSpec> {
    written::capture(text).map_err(|problem| {
        Failure::new(Code::Usage, format!("--capture '{}': {problem}", exhibit_evidence::text::escape_bounded(text, 200)))
            .hint("write NAME or NAME:KEY=VALUE,KEY=VALUE, for example --capture 'files:paths=/etc/**,max_size=10M'")
    })
}

/// The captures of a command line: a profile's, then those given one by one; none of them twice. What no agent of this version would
/// obey is not signed, unless the command line says that its agents are newer.
pub fn captures(args: &CollectArgs) -> Result<Vec<CaptureSpec>> {
    let profile = args.profile.as_deref().map(crate::commands::profiles::find).transpose()?;
    let given = args.captures.iter().map(|text| parse_capture(text)).collect::<Result<Vec<_>>>()?;
    let specs = written::captures(profile.as_ref(), &given).map_err(|problem| {
        Failure::new(Code::Usage, problem).hint("exhibit profiles show NAME prints a profile's captures and parameters")
    })?;
    if specs.len() > Order::CAPTURES_MAX {
        return Err(Failure::new(Code::Usage, format!("{} captures: an order holds at most {}", specs.len(), Order::CAPTURES_MAX)));
    }
    if !args.unchecked {
        parameters::check(&specs).map_err(|problem| {
            Failure::new(Code::Usage, format!("{problem}; nothing was signed"))
                .hint("correct it; for agents that are newer than this program: --unchecked, and the agents check it")
        })?;
    }
    Ok(specs)
}

/// The limits of a command line; what it does not say, the profile does.
pub fn limits(args: &CollectArgs) -> Result<Limits> {
    let base = match &args.profile {
        Some(name) => crate::commands::profiles::find(name)?.limits,
        None => Limits::default(),
    };
    Ok(Limits {
        deadline_s: args.deadline.or(base.deadline_s),
        raw_bytes_max: args.max_bytes.or(base.raw_bytes_max),
        cpu_percent: args.cpu_percent.or(base.cpu_percent),
        read_bytes_per_s: args.read_rate.or(base.read_bytes_per_s),
        send_bytes_per_s: args.send_rate.or(base.send_bytes_per_s),
    })
}

/// Splits targets into orders of at most [`Order::TARGETS_MAX`], each agent once.
pub fn batches<T: Ord + Clone>(targets: &[T]) -> Vec<Vec<T>> {
    let unique: BTreeSet<T> = targets.iter().cloned().collect();
    unique.into_iter().collect::<Vec<_>>().chunks(Order::TARGETS_MAX).map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_fleets_become_several_orders() {
        let targets: Vec<u32> = (0..2_500).chain(0..10).collect();
        let sizes: Vec<usize> = batches(&targets).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }
}
