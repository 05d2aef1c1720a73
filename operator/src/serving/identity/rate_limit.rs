//! Signing requests per source address: a token bucket each.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Requests at once. Generous, for where a whole node's pods share its address.
const BURST: f64 = 100.0;
/// Requests per second after that.
const PER_SECOND: f64 = 10.0;
/// Most addresses that are remembered.
const MAX_ADDRESSES: usize = 8192;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn at(self, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.filled).as_secs_f64() * PER_SECOND).min(BURST)
    }
}

/// Buckets by address.
#[derive(Debug, Default)]
pub struct RateLimits(Mutex<HashMap<IpAddr, Bucket>>);

impl RateLimits {
    /// Takes one request from the address's bucket; `false`: it is empty, or too many addresses are at it.
    pub fn allows(&self, ip: IpAddr, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_ADDRESSES && !buckets.contains_key(&ip) {
            // A full bucket is as good as none.
            buckets.retain(|_, bucket| bucket.at(now) < BURST);
            if buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = buckets.entry(ip).or_insert(Bucket { tokens: BURST, filled: now });
        let tokens = bucket.at(now);
        let allowed = tokens >= 1.0;
        *bucket = Bucket { tokens: if allowed { tokens - 1.0 } else { tokens }, filled: now };
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_address_cannot_take_what_others_need() {
        let (limits, now) = (RateLimits::default(), Instant::now());
        let (greedy, modest) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!((0..1000).filter(|_| limits.allows(greedy, now)).count(), 100);
        assert!(limits.allows(modest, now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| limits.allows(greedy, later)).count(), 10);
    }

    #[test]
    fn memory_is_bounded_and_freed() {
        let (limits, now) = (RateLimits::default(), Instant::now());
        let ip = |n: u32| IpAddr::from(n.to_be_bytes());
        let most = u32::try_from(MAX_ADDRESSES).unwrap();
        assert!((0..most).all(|n| limits.allows(ip(n), now)));
        assert!(!limits.allows(ip(most), now));
        assert!(limits.allows(ip(most), now + Duration::from_secs(1)));
        assert!(limits.0.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
