//! Messages of the session to and from our own types.

use exhibit_evidence::record::Tool;
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::agent::v1::{Hello, ProtocolRange};
use exhibit_proto::convert::{self, BadField};
use exhibit_proto::{agent::v1, bounds, version};

use crate::capture::registry;
use crate::custody;
use crate::order::Offer;

pub(super) fn hello(tool: &Tool, instance: [u8; 16], running: Option<String>, now: Timestamp) -> Hello {
    let host = custody::host();
    let cut = |text: String| exhibit_evidence::text::escape_bounded(&text, bounds::NAME_BYTES_MAX / 4);
    Hello {
        protocol: Some(ProtocolRange { min: version::MIN, max: version::MAX }),
        version: tool.version.clone(),
        build_sha256: tool.sha256.as_bytes().to_vec(),
        hostname: cut(host.hostname),
        kernel: cut(custody::kernel_release()),
        os: cut(host.os.unwrap_or_default()),
        boot_id: host.boot_id.chars().take(36).collect(),
        wall_ns: now.unix_ns(),
        instance: instance.to_vec(),
        running: running.into_iter().collect(),
        captures: registry::names().into_iter().map(str::to_owned).collect(),
    }
}

/// The parts of an offer. The digest of the order's bytes is known even when they are no envelope, so that the refusal
/// can name what it refuses.
pub(super) fn offer(offer: &v1::Offer) -> (Digest, Result<Offer, BadField>) {
    let parse = || -> Result<Offer, BadField> {
        Ok(Offer {
            collection: convert::id("offer.collection", &offer.collection)?,
            order: convert::envelope("offer.order", &offer.order)?,
            case_opened: convert::envelope("offer.case_opened", &offer.case_opened)?,
            enrolments: convert::envelopes("offer.enrolments", &offer.enrolments)?,
            approval: Some(&offer.approval).filter(|a| !a.is_empty()).map(|a| convert::envelope("offer.approval", a)).transpose()?,
            opener_enrolments: convert::envelopes("offer.opener_enrolments", &offer.opener_enrolments)?,
            approver_enrolments: convert::envelopes("offer.approver_enrolments", &offer.approver_enrolments)?,
            stream: offer.stream,
            continues: offer.continues,
        })
    };
    (Digest::of(&offer.order), parse())
}
