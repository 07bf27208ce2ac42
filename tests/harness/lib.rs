//! Harness of the end-to-end scenarios: real processes, real certificates, real sockets on loopback.
//!
//! ```no_run
//! let fleet = exhibit_tests::Fleet::start();
//! let agent = fleet.agent();
//! let case = fleet.open_case();
//! let collection = fleet.collect(&case, &agent, &["--capture", "system"]);
//! fleet.verify(&case).expect_sound();
//! ```

mod authority;
mod delay;
mod disk;
mod fleet;
mod guest;
mod process;
mod replicas;
mod source;

pub use authority::{Answers, Authority};
pub use delay::DelayProxy;
pub use disk::{LoopDevice, partition};
pub use fleet::{Agent, Fleet, Verdict};
pub use guest::{Guest, GuestPlan, kit};
pub use process::{Finished, Running, programs, wait_until};
pub use replicas::Replica;
pub use source::{awkward_tree, awkward_tree_of, tree_facts};

/// True when the slow scenarios are to be left out (`tests/run --quick`).
#[must_use]
pub fn is_quick() -> bool {
    std::env::var_os("EXHIBIT_TESTS_QUICK").is_some()
}
