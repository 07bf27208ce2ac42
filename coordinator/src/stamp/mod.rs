//! Trusted time: asks timestamp authorities to stamp the heads of the custody logs (each case's, and the
//! deployment's), verifies what they answer, keeps it.
//!
//! **What is stamped.** For each log and authority the head right after the last record that is not itself about
//! timestamps. So a token's own record never asks for another token, and while nothing else happens the head to be stamped
//! stays the same, however often an authority fails. One token covers every record before it; records that come close
//! together share one.
//!
//! **When.** Soon after a change, but for one log and authority at most one token in [`Authority::interval`]; where a seal,
//! an order, the begin or end of a case or a revocation waits, in a tenth of it.
//!
//! **Where the state is.** In the store and the log alone: what is to be done follows from the records, and what was begun
//! from the objects in `timestamps/`. A new process goes through the logs once and takes up the same steps.
//!
//! A bag that is handed over is stamped by itself ([`stamp_bag`]): that knows nothing of logs, and leaves nothing here.

mod authority;
mod bag;
mod desk;
mod heads;
mod queue;

pub use authority::{Answer, Authority, AuthorityError, NoToken};
pub use bag::{BagStamp, stamp_bag};
pub use desk::{Desk, Failed};
pub use heads::{Due, due};
pub use queue::run;
