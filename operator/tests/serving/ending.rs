//! A replica that ends.

use super::*;

#[tokio::test]
async fn a_replica_that_ends_tells_its_proxies() {
    let plane = start().await;
    let mut proxy = open(&plane, Some(ID), hello()).await.unwrap();
    proxy.resources(2).await;
    plane.stop.send_replace(true);
    let status = proxy.end().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    tokio::time::timeout(DEADLINE, plane.served).await.expect("the server goes on").unwrap();
}

#[tokio::test]
async fn a_replica_that_ends_serves_until_everybody_knows() {
    const SERVES_ON: Duration = Duration::from_secs(4);
    // Where the machine stands still until it may end its streams, nothing was learnt.
    for _ in 0..5 {
        let plane = Plane::serving_on(SERVES_ON).await;
        plane.fill();
        let mut first = open(&plane, Some(ID), hello()).await.unwrap();
        first.resources(2).await;
        let began = tokio::time::Instant::now();
        plane.stop.send_replace(true);
        let served = newcomer(&plane).await;
        let took = began.elapsed();
        assert_eq!(first.end().await.code(), Code::Unavailable);
        assert!(began.elapsed() >= SERVES_ON / 2, "the stream ended before another replica could be found");
        match served {
            Ok(mut second) => {
                assert_eq!(second.end().await.code(), Code::Unavailable);
                tokio::time::timeout(DEADLINE, plane.served).await.expect("the server goes on").unwrap();
                return;
            }
            Err(status) => assert!(took >= SERVES_ON / 2, "{status:?}"),
        }
    }
    panic!("nobody came in time");
}

/// The stream of somebody who is not told yet that the replica ends, and gets a leaf there, too.
async fn newcomer(plane: &Plane) -> Result<Proxy, Status> {
    let mut proxy = open(plane, Some(ID), Hello { slot: "b".into(), ..hello() }).await?;
    proxy.resources_unless_it_ends(2).await?;
    sign(plane, request("good")).await?;
    Ok(proxy)
}
