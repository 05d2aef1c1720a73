use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, runtime::watcher};
use tokio::{net::TcpListener, time::Instant};

use super::*;

/// What a scripted API server does with a request.
#[derive(Clone, Copy)]
enum Answers {
    Never,
    /// The head, and not a byte of what it announces.
    HeadOnly,
}

/// Lists namespaces; everything else it answers as it is told. Counts the latter.
fn client(answers: Answers, others: &Arc<AtomicUsize>) -> Client {
    let others = Arc::clone(others);
    let service = tower::service_fn(move |request: Request<Body>| {
        let is_list = request.uri().path() == "/api/v1/namespaces" && !is_watch(request.uri());
        if !is_list {
            others.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            let body: UnsyncBoxBody<Bytes, Infallible> = if is_list {
                let list =
                    r#"{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
                Full::new(Bytes::from(list)).boxed_unsync()
            } else if matches!(answers, Answers::Never) {
                std::future::pending().await
            } else {
                http_body_util::StreamBody::new(futures_util::stream::pending()).boxed_unsync()
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    Client::new(Deadline(service), "default")
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_answers_ends() {
    for answers in [Answers::Never, Answers::HeadOnly] {
        let api: Api<Namespace> = Api::all(client(answers, &Arc::default()));
        let began = Instant::now();
        let error = api.get("shop").await.expect_err("an answer out of nothing");
        assert_eq!(began.elapsed(), DEADLINE);
        assert!(error.to_string().contains("did not answer within 20s"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_may_be_silent_and_one_that_is_dead_is_begun_again() {
    let begun = Arc::new(AtomicUsize::new(0));
    let api: Api<Namespace> = Api::all(client(Answers::HeadOnly, &begun));
    let mut events = pin!(watcher(api, watcher::Config::default()));
    assert!(matches!(events.next().await, Some(Ok(watcher::Event::Init))));
    assert!(matches!(events.next().await, Some(Ok(watcher::Event::InitDone))));
    let mut quiet = async |within| tokio::time::timeout(within, events.next()).await.is_err();
    assert!(quiet(DEADLINE * 4).await, "the watch did not last");
    assert_eq!(begun.load(Ordering::SeqCst), 1, "a silent watch was cut by the deadline for requests");
    assert!(quiet(Duration::from_secs(300)).await, "only its resumption tells of a dead watch");
    assert_eq!(begun.load(Ordering::SeqCst), 2, "a watch that is silent for longer than any lasts is not resumed");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_begin_ends() {
    let api: Api<Namespace> = Api::all(client(Answers::Never, &Arc::default()));
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let began = Instant::now();
    let failed = loop {
        match events.next().await {
            Some(Err(error)) => break error,
            Some(Ok(_)) => {}
            None => panic!("the watcher ended"),
        }
    };
    assert!(matches!(failed, watcher::Error::WatchStartFailed(_)), "{failed}");
    assert_eq!(began.elapsed(), DEADLINE);
}

#[tokio::test]
async fn connections_ask_whether_the_other_machine_is_there() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stream = connector().call(address.parse().unwrap()).await.unwrap().into_inner();
    let socket = socket2::SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
}
