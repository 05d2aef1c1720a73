use super::decide::{ObservedLease, Step, decide};
use super::*;

#[test]
fn renewals_are_spread_and_never_late() {
    for _ in 0..1000 {
        let wait = jittered(RETRY);
        assert!(wait <= RETRY && wait >= RETRY.mul_f64(0.74));
    }
    assert!(DEADLINE + REQUEST <= LEASE, "a request of a leader that has stopped could reach beyond its Lease");
}

#[tokio::test]
async fn a_lease_without_a_duration_is_nobodys() {
    let mut lease = Lease::default();
    lease.spec.get_or_insert_default().holder_identity = Some("other".into());
    let seen = ObservedLease { lease, since: Instant::now() };
    assert_eq!(decide("me", Some(&seen), Instant::now()), Step::Take);
}
