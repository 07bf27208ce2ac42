//! Who the parties are: the deployment's certificate authority, enrolment, short-lived certificates and their renewal,
//! names in certificates, credential folders, and the TLS configurations of both ends.
//!
//! Everything here is synchronous. Times come in as arguments, except inside TLS handshakes, where rustls reads the
//! clock. Randomness for TLS keys and serial numbers comes from aws-lc; seeds of evidence keys come from the caller
//! ([`random::seed`] draws one).

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod credential;
pub mod deployment;
pub mod enrol;
pub mod files;
pub mod issue;
pub mod key;
pub mod name;
pub mod person;
pub mod random;
pub mod rotation;
pub mod tls;
pub mod x509;

pub use credential::{Credential, TlsIdentity};
pub use deployment::Deployment;
pub use key::TlsKey;
pub use name::{DeploymentName, PartName, PeerName, PersonName};
