//! The registry of finding codes. A code never changes its meaning; codes are only added.
//! `docs/format/verification.md` shows this table and a test keeps the two equal.

use serde::{Serialize, Serializer};

use super::{Blame, Severity};

macro_rules! codes {
    ($($name:ident $code:literal $severity:ident $blame:ident $found:literal $meaning:literal)*) => {
        /// What kind of thing was found.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $found] $name),* }

        impl Code {
            /// Every code, in the order of the specification.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// How much a finding of this kind weighs, unless an option says otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity),* }
            }

            /// Where to ask first.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame),* }
            }

            /// What was found, for an expert.
            #[must_use]
            pub const fn found(self) -> &'static str {
                match self { $(Self::$name => $found),* }
            }

            /// What it means for the evidence, for counsel.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }
        }
    };
}

impl Code {
    /// True when a record that is lost or altered is enough to explain a finding of this kind.
    pub(super) const fn needs_whole_history(self) -> bool {
        matches!(
            self,
            Self::LogCheckpointSignature
                | Self::LogExpected
                | Self::LogForked
                | Self::LogShorter
                | Self::LogConsistency
                | Self::WitnessRequired
                | Self::TimestampRecord
                | Self::TimestampRequired
                | Self::RecordUnknownKey
                | Self::RecordNotAuthorized
                | Self::CaseNotOpened
                | Self::CaseNotFirst
                | Self::OrderPredecessor
                | Self::OrderNonce
                | Self::OrderOpen
                | Self::OrderUnapproved
                | Self::OrderNotApproved
                | Self::ChainOrder
                | Self::ReceiptPredecessor
                | Self::ReceiptMissing
                | Self::SealPredecessor
                | Self::SealOutcome
                | Self::SealStreams
                | Self::SealExhibits
                | Self::StreamUnsealed
                | Self::ObjectUnaccounted
                | Self::AccessNotAuthorized
                | Self::CustodyPredecessor
                | Self::CustodyCollection
                | Self::TransferRelease
                | Self::DisposalRequest
                | Self::DisposalCertificate
                | Self::DisposalUnfinished
                | Self::BagDescription
                | Self::BagSigner
                | Self::BagAccess
        )
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

codes! {
    LogCheckpointMissing "log.checkpoint-missing" Error Store
        "The object log/checkpoint is not there or cannot be read."
        "Nothing signed says how long the history of the case is, so records may have been removed from its end."
    LogCheckpointMalformed "log.checkpoint-malformed" Error Store
        "log/checkpoint is not a C2SP signed note with a checkpoint of three lines, signed by the log first."
        "The signed head of the history was altered; the history cannot be shown to be complete."
    LogCheckpointSignature "log.checkpoint-signature" Error Unknown
        "No log key that is enrolled in this case and not revoked signed the checkpoint."
        "The head of the history was not made by the deployment that the anchor names."
    LogCheckpointOrigin "log.checkpoint-origin" Error Unknown
        "The checkpoint's first line names another deployment or another case."
        "The signed head belongs to another history; it proves nothing about this case."
    LogSlotMissing "log.slot-missing" Error Store
        "The checkpoint or a later record shows that a record existed which is not there."
        "A signed statement about the evidence was removed."
    LogSlotBeyond "log.slot-beyond" Warning Unknown
        "There are records after the last one that the signed checkpoint covers."
        "Statements were added that the signed head does not cover: either the coordinator was interrupted and will cover them when it runs again, or somebody added them. They prove nothing yet."
    LogRoot "log.root" Error Store
        "The Merkle root over the records is not the root that the checkpoint signs."
        "The history is not the one that was signed: a record was altered, replaced or reordered."
    LogExpected "log.expected" Error Operator
        "The history does not contain the head that was given to this program from outside."
        "This is not the history, or not a continuation of the history, that was attested earlier on another way."
    LogForked "log.forked" Error Operator
        "The history does not contain a head that this log's key signed, or that a witness vouches for; or two such heads that were given exclude each other."
        "This is not the history that was signed, or not all of it: it was cut back, rewritten, made for another audience, or, where records are missing only at the end of a copy, it is an older copy. The signed head that it lacks proves it. Where a head was only dated before the export, a wrong clock is possible too, and the consistency proof decides. Two heads of one size with different roots prove that there are two histories."
    LogShorter "log.shorter" Note Operator
        "A head that was given from outside has more records than the log in this bag, and nothing that was given shows whether it continues this log."
        "A bag holds the history up to its export, so a longer history is no sign of anything wrong. But that the longer one continues this one is not shown yet: ask for the proof (exhibit log consistency, or exhibit witness cosign --for BAG) and give it with --consistency."
    LogConsistency "log.consistency" Error Unknown
        "A consistency proof that was given does not lead from this history to the head in it."
        "Either that head belongs to another history than this one, or the proof is damaged. Get it again; where it still does not hold, keep the bag and the proof, and ask the deployment's operator. A proof that begins elsewhere is only noted: it shows nothing."
    LogTile "log.tile" Error Store
        "A tile or entry bundle below log/tile is not what the records give, or lies beyond them."
        "The records themselves are not affected; but a program that reads the tiles instead of the records would see another history."
    LogTileMissing "log.tile-missing" Note Store
        "There are tiles below log/tile, and one that the checkpoint needs is not among them."
        "Nothing of the history is lost, because tiles follow from the records: the coordinator makes it again when it opens the log. Until then nobody can prove a record from tiles alone; find out who removed it."
    WitnessRequired "witness.required" Error Operator
        "Fewer of the given witnesses than required cosigned the checkpoint of this case, or a later head that was proved to continue it."
        "That nobody was shown another history rests on the deployment's word alone, at least for the records after the newest cosigned head."
    WitnessMalformed "witness.malformed" Warning Store
        "An object below log/cosigned, or a checkpoint that was given from outside, is no checkpoint of this log that its key or a given witness signed, or a line in the name of a given witness does not hold."
        "It proves nothing, neither for nor against this history."
    TimestampMissing "timestamp.missing" Error Store
        "An object that a timestamp record names is not there or cannot be read."
        "Proof of when this history existed was removed; other timestamps may still show it."
    TimestampAltered "timestamp.altered" Error Store
        "A stamped head, request, reply or CRL is not the one whose digest the timestamp record states."
        "Proof of when this history existed was altered; it does not count."
    TimestampCheckpoint "timestamp.checkpoint" Error Store
        "A stamped head is no checkpoint of this log of that size, signed by its key."
        "What the authority saw is not shown to be this history; the timestamps over it do not count."
    TimestampMalformed "timestamp.malformed" Error Store
        "A request or reply is not RFC 3161 in DER, or the reply holds no token."
        "It shows nothing about time."
    TimestampImprint "timestamp.imprint" Error Coordinator
        "A timestamp is over other bytes than the head, or the bag, that it lies beside."
        "The authority saw something else at that time; the timestamp says nothing about this history, or this bag."
    TimestampNonce "timestamp.nonce" Error Coordinator
        "A timestamp does not repeat the nonce of its request."
        "It may be an answer to another, earlier question; it does not count."
    TimestampSignature "timestamp.signature" Error Unknown
        "The signature of a timestamp does not hold, or it names another certificate than the one that signed."
        "The timestamp is forged or damaged; no authority vouches for its time."
    TimestampPurpose "timestamp.purpose" Error Unknown
        "The certificate that signed a timestamp is not one for timestamps alone."
        "Somebody signed who was not entitled to state times; it does not count."
    TimestampValidity "timestamp.validity" Error Unknown
        "A certificate of a timestamp was not valid at the time that the timestamp states."
        "The time is not one at which this authority could sign; it does not count. That a certificate has expired since is no finding."
    TimestampRevoked "timestamp.revoked" Error Operator
        "A CRL says that a certificate of a timestamp was revoked in a way that makes the timestamp worthless."
        "The key may have been in other hands, so the time may be invented; it does not count."
    TimestampUntrusted "timestamp.untrusted" Note Operator
        "A timestamp does not lead to any of the roots that were given."
        "Nobody whom the verifier was told to believe vouches for this time; it does not count. Give its authority's root, obtained on another way than the case, if it is to count."
    TimestampCertificates "timestamp.certificates" Note Operator
        "A reply holds a certificate that is on no chain above the one that signed, valid at the token's time."
        "RFC 3161 and RFC 5652 allow it, and nothing is believed because of it. No signature covers it, so anybody may have put it there since; where it matters, ask the authority."
    TimestampUncovered "timestamp.uncovered" Warning Store
        "A reply whose bytes no record states holds something that no signature covers and no rule reads: a text in its status, an unsigned attribute, a certificate that nobody known signed. Where standards foresee it, it is a note."
        "Nothing rests on it, and anybody may have put it there since. The token itself is judged without it."
    TimestampCrl "timestamp.crl" Warning Store
        "A revocation list in or beside a timestamp is none that can be read, or is not signed by its issuer, or by nobody who is in the token or among the given roots."
        "It says nothing about whether the authority's certificate was revoked: it was altered or put there, or its issuer's certificate is missing. Ask the authority for its list of that day."
    TimestampRecord "timestamp.record" Error Coordinator
        "A timestamp record, or one about a failure, does not fit: it names a head that this log did not have before it, a second token of one authority over one head, or another time or serial number than its token."
        "What the coordinator says about the time is not what the authority said."
    TimestampUnrecorded "timestamp.unrecorded" Note Coordinator
        "There are objects of a timestamp that no record speaks of."
        "Over the last head of a bag this is normal: its record comes after that head. Otherwise the history was copied, or the coordinator interrupted, before it was recorded, or somebody added it. A token in it counts only if it is good in itself."
    TimestampFailed "timestamp.failed" Note Operator
        "An authority gave no token for a head, and has not given one since."
        "From that head on, this authority does not show when the history existed."
    TimestampRequired "timestamp.required" Error Operator
        "The last records of this case are stamped under fewer of the given roots than required."
        "That these records existed by a certain time rests on the deployment's word, or on fewer authorities than were asked for."
    RecordMalformed "record.malformed" Error Store
        "A slot does not hold a canonical DSSE envelope with a statement of ours, or cannot be read."
        "A signed statement was altered or replaced by something else."
    RecordUnknownKey "record.unknown-key" Error Unknown
        "A record is signed by a key that no earlier record enrols under the anchor."
        "The statement was not made by anybody whom the deployment vouches for. If every record has this finding, the anchor file belongs to another deployment."
    RecordSignature "record.signature" Error Store
        "The signature does not match the record."
        "The statement was altered after it was signed."
    RecordRevokedKey "record.revoked-key" Error Unknown
        "A record was logged after its signer's key was revoked."
        "The statement may have been made with a stolen key."
    RecordAfterRevocation "record.after-revocation" Note Operator
        "A record that stands before the revocation of its signer's key is dated more than 15 minutes after it."
        "One of two persons' clocks may have been wrong, or the key was used after it was revoked. The deployment's log has the revocation's true place; compare it with trusted time around the record."
    RecordNotAuthorized "record.not-authorized" Error Unknown
        "The signer's roles do not allow this record, or it speaks for somebody else."
        "The statement was made by somebody who was not entitled to make it."
    RecordUnknownType "record.unknown-type" Error Unknown
        "The record's type or version is unknown to this program."
        "A newer program may read this statement; this one cannot vouch for the case while it does not understand it."
    RecordWrongCase "record.wrong-case" Error Coordinator
        "A record in this log names another case."
        "The statement is about another matter and must not be used here."
    CaseNotOpened "case.not-opened" Error Coordinator
        "The log holds no valid case-opened record."
        "Nobody is shown to have opened this case, so no order in it has a basis."
    CaseOpenedTwice "case.opened-twice" Error Coordinator
        "The log holds more than one case-opened record."
        "Two statements say what this case is about; only the first is used."
    CaseNotFirst "case.not-first" Error Coordinator
        "A record other than an enrolment or a revocation stands before case-opened."
        "Something was done in this case before the case existed."
    CaseClosed "case.closed" Error Operator
        "A case-closed record is repeated or does not follow from the case-opened record."
        "It is not clear when, or whether, the case was closed."
    CaseIncident "case.incident" Note Operator
        "The coordinator recorded that it noticed something that must not happen."
        "Nothing is wrong with the evidence for this reason alone; what the record says should be explained."
    OrderMalformed "order.malformed" Error Operator
        "An order repeats an earlier order's id, names an agent twice, or has no targets, no captures, too many of them, or an expiry before its issue."
        "The order should not have been accepted by anybody; what was collected under it may be challenged."
    OrderPredecessor "order.predecessor" Error Operator
        "An order does not follow from the case-opened record of this log."
        "The order was given for another case."
    OrderNonce "order.nonce" Error Operator
        "The tree head that an order carries is not a head that this log had before the order."
        "The order cannot be placed in time relative to the history of the case."
    OrderAfterClose "order.after-close" Error Operator
        "An order, or the approval of one, was logged after the case was closed."
        "Evidence was ordered when the case no longer allowed it."
    OrderOpen "order.open" Note Unknown
        "A target of an order has no seal record yet."
        "The collection is still running, or was never closed. With --complete this counts as a warning: a case that is handed over must have an end for every order."
    OrderUnapproved "order.unapproved" Note Operator
        "An order needs a second person's approval, has none in this log, and took nothing from a target of it that has no seal record yet."
        "No host could obey the order, so nothing of it is running or missing. Only an approval that comes later changes that, and none can come any more where the finding names a revocation. With --complete this counts as a warning: a case that is handed over must have an end for every order."
    OrderNotApproved "order.not-approved" Error Operator
        "The case was opened so that every order needs a second person's approval, and an order without one was carried out."
        "One person alone had this evidence taken, against the rule of the case; that it was taken rightly rests on that person's word."
    OrderSecondPerson "order.second-person" Error Operator
        "An order was approved by the person who gave it."
        "Nobody else agreed to the collection; the approval has no effect."
    ApprovalEarly "approval.early" Error Operator
        "An approval of an order or of a disposal is dated before what it approves."
        "Nobody can have agreed to what did not exist yet, or the clock of one of the two is wrong; the approval has no effect."
    ApprovalLate "approval.late" Error Operator
        "An approval of an order is dated when the order had expired."
        "The order could not be begun any more; the approval has no effect."
    ApprovalRevokedKey "approval.revoked-key" Error Operator
        "An approval of an order or of a disposal was logged after the key that asked for it was revoked."
        "What a key asked for that may have been stolen was agreed to when that was known already. Whoever approved must say whether the asker stands by it."
    ChainOrder "chain.order" Error Coordinator
        "A refusal, acquisition, receipt or seal names an order that is not in this log before it, or a collection of no order."
        "Something was done that no order in this case asked for."
    ChainTarget "chain.target" Error Host
        "A refusal or acquisition comes from an agent that the order does not name."
        "Evidence was taken from a host that was not to be collected from."
    ChainCollection "chain.collection" Error Host
        "A collection id is not the one that follows from order and agent, or the record names another agent or order than the collection has."
        "The statement is tied to another execution of the order than it claims."
    ChainRepeated "chain.repeated" Error Coordinator
        "There is a second refusal, acquisition, receipt or seal for something that can have only one."
        "Two statements say different things about the same evidence; only the first is used."
    ChainAfterSeal "chain.after-seal" Error Coordinator
        "A refusal, acquisition or receipt was logged after its collection was sealed."
        "Something was added to a collection after it had been closed."
    ChainRevokedKey "chain.revoked-key" Note Operator
        "An acquisition, a receipt or a certificate of destruction was logged after a key was revoked that it rests on: that of the order or disposal, or of its approval."
        "A revocation stops nothing that runs already, so this may be in order. Compare the reason of the revocation, and what the record says of its own time, with when the key may have been stolen."
    AcquisitionNonce "acquisition.nonce" Error Host
        "The acquisition repeats another tree head than its order carries."
        "It is not shown that the evidence was taken after the order was given."
    AcquisitionReason "acquisition.reason" Error Host
        "The agent says that it did not finish and does not say why."
        "A part of what was ordered is missing without an explanation."
    AcquisitionExpired "acquisition.expired" Note Host
        "By the host's own clock a collection was begun when its order had expired."
        "The order did not allow it any more, or the host's clock was set while it waited; the clocks in the record and the trusted time of the log tell."
    AcquisitionUnapproved "acquisition.unapproved" Note Host
        "By the clocks that the records state, a collection was begun before its order was approved."
        "Its agent took evidence without the approval, or one of the clocks is wrong."
    TimeExcluded "time.excluded" Warning Unknown
        "A record states a moment that a trusted timestamp excludes."
        "Whoever signed it had a wrong clock, or dated it back or ahead; the timestamp is to be believed, and nothing may be concluded from the moment that is stated."
    TimeBackwards "time.backwards" Note Unknown
        "A record says that what it tells of ended before it began."
        "A clock was set meanwhile, or the moments are invented."
    ReceiptPredecessor "receipt.predecessor" Error Coordinator
        "A receipt does not follow from its stream's acquisition, or claims or denies the agent's signature wrongly."
        "What the coordinator says it received is not tied to what the agent says it took."
    ReceiptManifest "receipt.manifest" Error Coordinator
        "Receipt and acquisition name different manifests or different totals for the same stream."
        "The coordinator says that it received something else than the agent says it sent."
    ReceiptContents "receipt.contents" Error Coordinator
        "A receipt says that contents were verified which are encrypted, or that they were not where they are not encrypted."
        "The coordinator claims to have checked what it could not read, or did not check what it could."
    ReceiptMissing "receipt.missing" Error Coordinator
        "A sealed collection has an acquisition without a receipt."
        "The agent signed for evidence that the coordinator never acknowledged; it may be missing."
    SealPredecessor "seal.predecessor" Error Coordinator
        "A seal does not follow from the collection's last receipt, refusal or order."
        "The closing statement does not close what came before it."
    SealOutcome "seal.outcome" Error Coordinator
        "The outcome of a seal does not fit the records that came before it, or it has no reason where one is due."
        "The case says about this collection something that its own records do not support."
    SealStreams "seal.streams" Error Coordinator
        "A seal names a stream without a receipt, names one wrongly or twice, or leaves out a stream that has a receipt."
        "It is not clear which evidence belongs to the sealed collection."
    SealExhibits "seal.exhibits" Error Coordinator
        "Exhibit numbers do not begin where the last seal ended, or their count is not the number of items."
        "Exhibit numbers have a hole or are used twice; an exhibit number may name the wrong item."
    ManifestMissing "manifest.missing" Error Store
        "A stream has a receipt but its manifest.jsonl is not there or cannot be read."
        "The list of what was collected is gone; the stream's content cannot be tied to the signed statements."
    ManifestDigest "manifest.digest" Error Store
        "The SHA-256 or size of manifest.jsonl is not what receipt and acquisition state."
        "The list of what was collected was altered after it was signed."
    ManifestMalformed "manifest.malformed" Error Coordinator
        "A line of the manifest is no valid line, is too long, or the file ends in the middle of one."
        "The list of what was collected cannot be read from here on; the items after this point are not verified."
    ManifestHeader "manifest.header" Error Coordinator
        "The header of a manifest names another format, case, collection, stream, agent or order."
        "The list belongs to another collection than the one it lies in."
    ManifestOrder "manifest.order" Error Coordinator
        "Lines of a manifest are not in the specified order, or items or segments are not numbered without holes."
        "The list of what was collected has holes or repetitions; an item may have been taken out of it."
    ManifestTotals "manifest.totals" Error Coordinator
        "The totals in a manifest's last line or in the receipt are not what its lines add up to."
        "A signed statement about how much was collected is wrong."
    SegmentMissing "segment.missing" Error Store
        "A segment that the manifest names is not there or cannot be read."
        "A part of the evidence is gone."
    SegmentDigest "segment.digest" Error Store
        "The SHA-256 or the size of a segment is not what the manifest states."
        "The stored evidence was altered after it was sealed. Items outside this segment are not affected by this finding."
    SegmentFrames "segment.frames" Error Store
        "A segment is not a sequence of zstd frames within the bounds, ended by a seek table that describes them."
        "This part of the evidence cannot be read as it was written."
    SegmentEncryption "segment.encryption" Error Unknown
        "A segment of an encrypted case is no age file to the case's recipients, or the identity of a recipient does not open it."
        "This part of the evidence was not encrypted as the case demands, to others, or it was altered afterwards. If segment.digest is not found beside it, the segment is as the agent signed it."
    SegmentUndescribed "segment.undescribed" Note Coordinator
        "The last segment of a broken-off encrypted stream came without its agent's lines; the coordinator cannot read it to make them."
        "The coordinator was interrupted just then. The segment is kept and its digest is signed; what it holds are no items. A recipient can read it with age, zstd and tar."
    SegmentRange "segment.range" Error Coordinator
        "A segment's place or size in the raw stream is not what the manifest states."
        "The manifest is wrong about where the evidence lies."
    StreamTar "stream.tar" Error Host
        "The raw stream is not a tar archive of the specified form."
        "The content can be opened in more than one way, or not at all; the items of this segment after this point are not verified."
    StreamEnd "stream.end" Error Host
        "A complete stream has no end marker."
        "The stream is cut off although it was signed as whole."
    StreamCut "stream.cut" Note Host
        "A stream that was closed as incomplete has no end marker or ends inside a tar member."
        "The agent never finished this stream; what it was sending when it stopped is not part of the evidence. The items that the manifest names are whole."
    StreamEncrypted "stream.encrypted" Note Operator
        "The contents of a stream were not checked: they are encrypted and no recipient's identity was given."
        "What is stored is what the agent signed, bit for bit, and the list is consistent in itself. That it holds the listed items with the listed digests is not shown by this verification: a recipient shows it with --identity."
    StreamUnverified "stream.unverified" Error Unknown
        "Items could not be compared with the stream because a part of it is missing or unreadable."
        "Nothing is claimed about the content of these items until an undamaged copy is verified."
    StreamUnsealed "stream.unsealed" Note Unknown
        "A collection that is still open has objects that no receipt covers yet."
        "A collection is running. What it has sent so far is not evidence yet."
    ItemWithoutMember "item.without-member" Error Coordinator
        "The manifest names an item with a place in the stream where no tar member begins or ends in that segment."
        "The list claims evidence that is not in the stream."
    ItemUnlisted "item.unlisted" Error Coordinator
        "A tar member has no item in the manifest."
        "The stream holds something that the signed list does not name; it is not evidence."
    ItemName "item.name" Error Coordinator
        "An item's capture and path do not give the name of its tar member."
        "The content may belong to another file than the list says."
    ItemKind "item.kind" Error Coordinator
        "An item is of another kind than its tar member, or its target differs."
        "The list describes something else than what was taken."
    ItemSize "item.size" Error Coordinator
        "An item's size, or length in the stream, is not that of its tar member."
        "The list is wrong about how much of this item was taken."
    ItemDigest "item.digest" Error Coordinator
        "An item's SHA-256 is not that of its content, is absent where there is content, or present where there is none."
        "The content of this item is not what was signed."
    ItemMeta "item.meta" Warning Coordinator
        "Mode, owner, group, modification time or extended attributes differ between the manifest and the tar member."
        "The two descriptions of this item disagree; the manifest is the signed one."
    ItemAttributes "item.attributes" Error Host
        "An item of an encrypted stream states extended attributes in its line, where its encrypted part alone may have them."
        "What only the case's recipients were to read stands open in the list, for the coordinator, the store and everybody who has a copy."
    ItemStatus "item.status" Error Host
        "An item's status does not fit: no reason where one is due, gaps in an item that was taken whole, or nothing taken where the status says it was."
        "It is not honestly stated whether this item was taken whole."
    ItemGaps "item.gaps" Error Host
        "An item's gaps are empty, overlap, are out of order, lie outside its content, or have no reason."
        "It is not clear which part of this item could not be read."
    ItemTimes "item.times" Warning Host
        "The taking of an item ended before it began on the host's monotonic clock."
        "The host's statement about when this item was taken cannot be true."
    ItemNotOrdered "item.not-ordered" Error Host
        "An item comes from a capture that the order does not name."
        "Something was taken that was not ordered; it may be outside the legal basis."
    ItemLink "item.link" Error Host
        "A hard link names no file that stands before it in its stream."
        "The content of this item cannot be extracted from the stream by itself."
    ItemSeam "item.seam" Error Host
        "An item lies across the seam of a stream and does not say so, or says so and does not, or there is a seam where none can be."
        "It is not honestly stated which parts of this stream were read before and after the agent's process ended."
    CaptureEmpty "capture.empty" Error Host
        "A stream that the agent signed has no item of a capture that was ordered."
        "Nothing was taken by that capture and nothing says why; its absence from the list proves nothing."
    AccessNotAuthorized "access.not-authorized" Error Coordinator
        "An access record names somebody who has no role in this case that allows reading evidence."
        "Evidence was shown to somebody who was not entitled to see it, or the statement about who saw it is wrong."
    CustodyPredecessor "custody.predecessor" Error Operator
        "An access, hold, retention, release, transfer, disposal or approval does not follow from the record that it must follow from."
        "The statement is tied to nothing in this case and has no effect."
    CustodyReason "custody.reason" Error Operator
        "An access, hold, retention, release, transfer, disposal or approval has no reason, or one of more than 1024 bytes."
        "Nobody can say why this was done; the statement has no effect."
    CustodyCollection "custody.collection" Error Operator
        "A hold or disposal names a collection that the case does not have, that is not sealed under the seal that it names, that it names twice, or that was already condemned or destroyed; or a hold on the whole case does not say what it comes too late for."
        "It is not clear what the statement is about; it has no effect."
    RetentionShortened "retention.shortened" Error Operator
        "A retention record does not move the end of retention later."
        "Somebody tried to let evidence be destroyed earlier than was promised; the earlier promise stands."
    TransferRelease "transfer.release" Error Operator
        "Custody was offered by somebody who did not have it, or to the same person."
        "The chain of custody has a link that nobody could give; it has no effect."
    TransferAcceptance "transfer.acceptance" Error Operator
        "Custody was accepted by somebody to whom it was not offered."
        "The chain of custody has a link that nobody was to receive; it has no effect."
    DisposalRequest "disposal.request" Error Operator
        "A disposal was asked for by somebody who did not have custody."
        "Somebody tried to have evidence destroyed that was not theirs to dispose of; the request has no effect."
    DisposalSecondPerson "disposal.second-person" Error Operator
        "A disposal was approved by the person who asked for it."
        "Nobody else agreed that the evidence may be destroyed; the approval has no effect."
    DisposalHeld "disposal.held" Error Operator
        "A disposal was approved while a hold covered what it names."
        "Evidence was to be destroyed that had to be kept; the approval has no effect."
    DisposalRetained "disposal.retained" Error Operator
        "A disposal was approved or carried out before the end of retention."
        "Evidence was to be destroyed before its time; the statement has no effect."
    DisposalCertificate "disposal.certificate" Error Coordinator
        "A certificate of destruction fits no approved disposal, or certifies something else than was approved and received."
        "The destruction of evidence is claimed without the decision for it; the certificate has no effect."
    DisposalUnfinished "disposal.unfinished" Warning Coordinator
        "A disposal was approved and there is no certificate of destruction."
        "The evidence is being destroyed; parts of it may be gone. Nothing is said about what is left. When the coordinator runs, it finishes and certifies."
    DisposalRemains "disposal.remains" Error Store
        "There is an object of a collection whose destruction is certified."
        "Evidence that was said to be destroyed is still there, or was put back."
    DisposalDone "disposal.done" Note Operator
        "A collection was destroyed as a custodian asked and a second person approved; the certificate is in the log."
        "This evidence no longer exists, and its content cannot be verified any more. Its history can: who took it, who saw it, who decided."
    ObjectUnknown "object.unknown" Warning Store
        "The case folder holds something whose name is not one of the format's."
        "Somebody put something into the case folder. It is not evidence and no signed statement speaks of it."
    ObjectNotAFile "object.not-a-file" Warning Store
        "The case folder holds a symbolic link, a device or another thing that is not a plain file; it was not followed."
        "The folder is not a faithful copy: parts of it may lie elsewhere, and were not read."
    ObjectUnreadable "object.unreadable" Error Unknown
        "The program that verified was not permitted to read an object."
        "Nothing is said about this part of the evidence. Verify again as a user who may read the folder, or from a copy."
    ObjectUnaccounted "object.unaccounted" Warning Coordinator
        "An object has a valid name but no signed record or manifest speaks of it."
        "It is not evidence: nobody signed for it. It may be the rest of an interrupted upload, or something that was added."
    BagDeclaration "bag.declaration" Error Store
        "bagit.txt is not there or is not the declaration of BagIt 1.0 in UTF-8."
        "Programs that read bags will refuse this one. The evidence in it is checked all the same."
    BagDescription "bag.description" Error Operator
        "bag.json is not there, is malformed, or does not fit what is in the bag: another deployment, case, head or list of collections."
        "What the bag says about itself is not true of what is in it."
    BagManifest "bag.manifest" Error Store
        "A manifest of the bag is not there, is malformed, names a file twice or a place where its files do not lie, or the two payload manifests name different files."
        "The list of what was handed over cannot be relied on."
    BagFileMissing "bag.file-missing" Error Store
        "A manifest of the bag names a file that is not there or cannot be read."
        "Something was taken out of the bag after it was made."
    BagFileDigest "bag.file-digest" Error Store
        "The SHA-256 or SHA-512 of a file is not what the bag's manifest states."
        "The file was altered after the bag was made. Do not rely on it if it is a document; if it is evidence, further findings say what is affected."
    BagFileUnlisted "bag.file-unlisted" Warning Store
        "The bag holds a file that none of its manifests names, also a copy of a stamp under another authority's name."
        "Somebody put something into the bag after it was made. Common programs for bags do not notice this outside the payload."
    BagSignature "bag.signature" Error Store
        "tagmanifest-sha256.txt.sig is not there or is not the signature over tagmanifest-sha256.txt by the key that bag.json names."
        "Nobody vouches that the bag is as it was handed over. The evidence has signatures of its own, which are checked by themselves."
    BagSigner "bag.signer" Error Operator
        "The key that bag.json names is not enrolled in the case's log, was revoked, belongs to another person, or may not sign a handoff."
        "The bag was signed by somebody who was not entitled to hand this case over, or not by the person whom it names."
    BagAccess "bag.access" Warning Coordinator
        "The log in the bag holds no access record for an export by the person who signed the bag."
        "It is not recorded that this copy was made, so the history of who held the evidence has a hole."
    BagExport "bag.export" Warning Operator
        "The time or the reason of the export in bag.json is not that of the export's access record in the log, or lies after a timestamp over the bag, by more than the 15 minutes that clocks may differ."
        "The evidence is not touched by this, but what the bag says about its own making is not what was recorded. Whoever exported must explain it."
    BagInfo "bag.info" Warning Operator
        "A label in bag-info.txt is none of the format's, stands there twice or is missing, or its value is not that of bag.json, the log or the payload; or a line does not end with LF alone."
        "The evidence is not touched by this, but what the bag tells people and archives about itself is not true. Whoever exported must explain it."
    BagView "bag.view" Error Operator
        "A file beside the payload has a name that is none of the format's, also where it differs only by case; or a file of expanded/ is not the content of the item that has its exhibit number, is of no such item, or is missing; or a file of proofs/ does not prove that its record is in the log, or is missing; or what bag.json says was made is not there, or something is there that it does not name."
        "Whoever exported made or let something into the bag that is not what the evidence in data/ holds, or took something out. Use the evidence, not this file, and ask that person."
    BagUnstamped "bag.unstamped" Note Operator
        "bag.json names a timestamp authority that was to stamp the bag, and there is no reply of it. It is a warning where a copy of another's reply lies in its place."
        "The authority could not be had when the bag was made, or its proof was taken out: it does not show by when the bag existed. The timestamps of the case's log count by themselves."
    BagListMissing "bag.list-missing" Note Operator
        "bag.json says how many revocation lists of an authority were going to be kept with its timestamp over the bag, and fewer are there."
        "A list could not be had when the bag was made, or was taken out: whether the authority's certificate was revoked is then not checked, or not by that list. Give its newest list with the roots."
    BagLeftOut "bag.left-out" Note Operator
        "The evidence of a collection was left out of the bag by choice of the person who exported it."
        "This evidence exists and is not in this bag. It is not missing: ask for it if it matters."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_say_what_they_mean() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} twice");
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'-'), "{text}");
            assert!(code.found().ends_with('.') && code.meaning().ends_with('.'), "{text} is not a sentence");
            assert!(!code.found().contains('|') && !code.meaning().contains('|'), "{text} would break the table");
        }
    }
}
