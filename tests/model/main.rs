//! The upload and sealing protocol, model-checked: every order of steps and faults up to a bound, and proof that the
//! search would see a mistake. `docs/model.md` explains it.

mod protocol;
mod search;

use protocol::{Protocol, Rules};
use search::{STUCK, search};

/// Faults in one history: enough for a death in the recovery from a death, and more.
const FAULTS: u8 = 5;

#[test]
fn the_protocol_keeps_its_promises() {
    let found = search(&Protocol { rules: Rules::REAL, faults: FAULTS });
    match found {
        Ok(states) => eprintln!("{states} states, {FAULTS} faults at most"),
        Err(broken) => panic!("{}:\n{}", broken.promise, broken.way.join("\n")),
    }
}

/// Without one rule, a promise breaks: the model would have shown the mistake.
fn breaks(rules: Rules, promise: &str) {
    let broken = search(&Protocol { rules, faults: 2 }).expect_err("the dropped rule is needed");
    assert_eq!(broken.promise, promise, "{}", broken.way.join("\n"));
    eprintln!("{promise} breaks by: {}", broken.way.join("; "));
}

#[test]
fn acknowledging_before_storing_is_found() {
    breaks(Rules { ack_after_store: false, ..Rules::REAL }, "acknowledged implies durable");
}

#[test]
fn acknowledging_before_committing_is_found() {
    breaks(Rules { ack_after_commit: false, ..Rules::REAL }, "acknowledged implies durable");
}

#[test]
fn storing_before_checking_is_found() {
    breaks(Rules { check_first: false, ..Rules::REAL }, "acknowledged implies durable");
}

#[test]
fn sealing_without_looking_is_found() {
    breaks(Rules { one_seal: false, ..Rules::REAL }, "at most one seal");
}

#[test]
fn leaving_what_was_stored_and_not_committed_is_found() {
    breaks(Rules { adopt: false, ..Rules::REAL }, STUCK);
}

#[test]
fn sealing_beside_a_put_that_has_begun_is_found() {
    breaks(Rules { wait_for_puts: false, ..Rules::REAL }, STUCK);
}

#[test]
fn forgetting_a_finished_stream_at_start_is_found() {
    breaks(Rules { recover: false, ..Rules::REAL }, STUCK);
}

#[test]
fn an_agent_that_does_not_send_again_is_found() {
    breaks(Rules { send_again: false, ..Rules::REAL }, STUCK);
}
