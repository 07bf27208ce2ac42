//! The checked-in vectors.
mod support;

use exhibit_evidence::verify::{Options, Verdict};
use support::faults::Faults;
use support::{cases, check, codes};

#[test]
fn good_cases_are_sound() {
    let complete = Options { complete: true, expected: None };
    for (name, case) in [("good-1", cases::good_1()), ("good-2", cases::good_2(&Faults::default()))] {
        let report = check(&case.objects, &complete);
        let kept = report.findings.kept();
        assert_eq!(report.verdict, Verdict::Sound, "{name}: {kept:#?}");
        println!("{name} {:?} {}", report.counts, case.objects.values().map(Vec::len).sum::<usize>());
        let _ = codes(&report);
    }
}
