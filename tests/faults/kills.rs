//! Real processes killed at random moments, one after the other and both at once.

use exhibit_tests::Fleet;

use crate::plan::Dice;
use crate::processes::Site;

#[test]
#[allow(clippy::disallowed_methods, reason = "a random moment is a wait")]
fn both_programs_killed_at_random() {
    let seed = std::env::var("EXHIBIT_FAULT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut dice = Dice::new(seed);
    let mut site = Site::new(Fleet::start());
    for round in 0..if exhibit_tests::is_quick() { 3 } else { 10 } {
        let collection = site.order("12M");
        let (mut coordinator_died, mut agent_died) = (0, 0);
        for _ in 0..=dice.below(2) {
            std::thread::sleep(dice.ms(1, 1_500));
            let which = dice.below(5);
            if which < 3 {
                site.fleet.kill_coordinator();
                coordinator_died += 1;
            }
            if which >= 2 {
                site.agent.kill();
                agent_died += 1;
            }
            std::thread::sleep(dice.ms(1, 800));
            if which >= 2 {
                site.agent.restart();
            }
            if which < 3 {
                site.fleet.start_coordinator();
            }
        }
        let what = format!("seed {seed}, round {round}: coordinator died {coordinator_died} times, agent {agent_died} times");
        let stored = site.check(&collection, &what);
        assert!(agent_died > 0 || stored.streams == 1, "{what}: the agent lived and made {} streams", stored.streams);
        eprintln!("{what}: {} streams", stored.streams);
    }
}
