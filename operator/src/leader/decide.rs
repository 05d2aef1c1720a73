//! Who leads: a pure function of the Lease as it was seen and of the local clock. Clocks of different nodes are never compared: a
//! holder is dead when *this* process saw no change of the Lease for as long as the Lease says.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use tokio::time::Instant;

/// The Lease as it was read last.
#[derive(Debug, Clone)]
pub struct ObservedLease {
    /// As read, with its resource version.
    pub lease: Lease,
    /// When this content was seen first.
    pub since: Instant,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: create it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it (any more): take it.
    Take,
    /// Somebody else leads; look again no later than this.
    Wait(Duration),
}

/// See the module.
#[must_use]
pub fn decide(me: &str, observed: Option<&ObservedLease>, now: Instant) -> Step {
    let Some(observed) = observed else { return Step::Create };
    let spec = observed.lease.spec.as_ref();
    match spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default() {
        "" => Step::Take,
        holder if holder == me => Step::Renew,
        _ => {
            let seconds = spec.and_then(|s| s.lease_duration_seconds).unwrap_or_default();
            let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            match (observed.since + lasts).checked_duration_since(now) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Take,
            }
        }
    }
}

/// What was read now, with the time since when it has been so.
#[must_use]
pub fn observe(before: Option<ObservedLease>, lease: Lease, now: Instant) -> ObservedLease {
    match before {
        Some(before) if before.lease.spec == lease.spec => ObservedLease { lease, since: before.since },
        _ => ObservedLease { lease, since: now },
    }
}

/// The Lease held by `me` from `at` on, written over what was observed; its resource version is the precondition.
#[must_use]
pub fn held(observed: &Lease, me: &str, lasts: Duration, at: MicroTime) -> Lease {
    let mut lease = observed.clone();
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(me) {
        spec.holder_identity = Some(me.into());
        spec.acquire_time = Some(at.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
    }
    spec.lease_duration_seconds = Some(i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX));
    spec.renew_time = Some(at);
    lease
}

/// The Lease given back: whoever wants to may take it at once.
#[must_use]
pub fn released(observed: &Lease, at: MicroTime) -> Lease {
    let mut lease = observed.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(at);
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::coordination::v1::LeaseSpec, jiff::Timestamp};

    fn lease(holder: &str, seconds: i32, renewed: i64) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(seconds),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn the_lease_is_taken_only_when_nobody_holds_it() {
        let start = Instant::now();
        let seen = |holder| Some(ObservedLease { lease: lease(holder, 15, 1), since: start });
        assert_eq!(decide("me", None, start), Step::Create);
        assert_eq!(decide("me", seen("").as_ref(), start), Step::Take);
        assert_eq!(decide("me", seen("me").as_ref(), start + Duration::from_secs(99)), Step::Renew);
        let other = seen("other");
        assert_eq!(decide("me", other.as_ref(), start + Duration::from_secs(14)), Step::Wait(Duration::from_secs(1)));
        assert_eq!(decide("me", other.as_ref(), start + Duration::from_secs(15)), Step::Take);
    }

    #[test]
    fn every_renewal_starts_the_wait_anew_whatever_its_clock_says() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let first = observe(None, lease("other", 15, 1_000_000), start);
        let same = observe(Some(first.clone()), lease("other", 15, 1_000_000), later);
        assert_eq!(same.since, start);
        // The other's clock went backwards; it renewed all the same.
        let renewed = observe(Some(first), lease("other", 15, 500), later);
        assert_eq!(renewed.since, later);
    }

    #[test]
    fn a_released_lease_can_be_taken_at_once() {
        let at = MicroTime(Timestamp::from_second(5).unwrap());
        let mine = held(&Lease::default(), "me", Duration::from_secs(15), at.clone());
        assert_eq!(mine.spec.as_ref().unwrap().lease_transitions, Some(1));
        let again = held(&mine, "me", Duration::from_secs(15), at.clone());
        assert_eq!(again.spec.as_ref().unwrap().lease_transitions, Some(1));
        let seen = ObservedLease { lease: released(&again, at), since: Instant::now() };
        assert_eq!(decide("other", Some(&seen), Instant::now()), Step::Take);
    }
}
