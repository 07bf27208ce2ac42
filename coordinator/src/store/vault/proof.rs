//! Which refusals prove that a right or a lock refuses, by their codes: of S3 and what speaks as it does, of Azure, and of both APIs of
//! Google (the clouds' lists of their errors). Any other code, of a request that came too late or in pieces, or of two writes at a time, says
//! nothing of what becomes of the next try.

use super::refusal::Said;

/// Of S3 and what speaks as it does; Ceph says `AccessDenied` of a lock too.
const S3: [&str; 5] = ["AccessDenied", "AllAccessDisabled", "MethodNotAllowed", "ObjectLocked", "PreconditionFailed"];
/// Of Azure.
const AZURE: [&str; 9] = [
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
    "AuthorizationResourceTypeMismatch",
    "AuthorizationServiceMismatch",
    "UnauthorizedBlobOverwrite",
    "BlobImmutableDueToPolicy",
    "BlobImmutableDueToLegalHold",
    "BlobAlreadyExists",
    "ConditionNotMet",
];
/// Of Google's JSON API, which says `forbidden` of rights, of holds and of retentions that are not to be shortened.
const GOOGLE_JSON: [&str; 8] = [
    "forbidden",
    "insufficientPermissions",
    "PERMISSION_DENIED",
    "methodNotAllowed",
    "orgPolicyConstraintFailed",
    "retentionPolicyNotMet",
    "objectUnderActiveHold",
    "conditionNotMet",
];
/// Of Google's XML API, beside what S3 says too.
const GOOGLE_XML: [&str; 3] = ["RetentionPolicyNotMet", "ObjectUnderActiveHold", "OrgPolicyConstraintFailed"];

/// True for a refusal whose code is about rights or locks.
pub(super) fn is_one(said: &Said) -> bool {
    let code = said.code.as_str();
    // A word for very much else too: MinIO says it of a lock.
    if code == "InvalidRequest" {
        return said.message.to_lowercase().contains("worm protected");
    }
    S3.contains(&code) || AZURE.contains(&code) || GOOGLE_JSON.contains(&code) || GOOGLE_XML.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_rights_or_locks_is_a_proof() {
        let said = |code: &str, message: &str| Said { code: code.to_owned(), message: message.to_owned(), is_expired: false };
        for code in [
            "AccessDenied",
            "MethodNotAllowed",
            "PreconditionFailed",
            "BlobImmutableDueToLegalHold",
            "AuthorizationPermissionMismatch",
            "forbidden",
            "retentionPolicyNotMet",
            "ObjectUnderActiveHold",
        ] {
            assert!(is_one(&said(code, "no")), "{code}");
        }
        assert!(is_one(&said("InvalidRequest", "Object is WORM protected and cannot be overwritten: b/o(v)")), "as MinIO says it");
        for (code, message) in [
            ("InvalidRequest", "Bucket is missing Object Lock Configuration"),
            ("InvalidRequest", "the retain until date must be in the future"),
            ("RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period"),
            ("OperationAborted", "A conflicting conditional operation is currently in progress against this resource"),
            ("ConditionalRequestConflict", "x"),
            ("MalformedXML", "x"),
            ("InvalidArgument", "the object is under a hold"),
            ("NotImplemented", "x"),
            ("LeaseIdMissing", "x"),
            ("OperationNotAllowedOnRootBlob", "x"),
            ("InvalidHeaderValue", "x"),
            ("invalid", "x"),
            ("conflict", "x"),
            ("accessdenied", "x"),
            ("", "AccessDenied"),
        ] {
            assert!(!is_one(&said(code, message)), "{code}: {message}");
        }
    }
}
