use std::{
    net::TcpStream as StdStream,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
};

use tokio::{
    io::AsyncReadExt,
    task::{LocalSet, yield_now},
};

use super::*;
use crate::{data_path::drain::Drain, telemetry::metrics::Direction};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A connection that is served, to an application that nobody reaches: every request is answered with a refusal.
struct Served {
    client: TcpStream,
    context: Rc<ConnectionContext>,
    drain: Arc<Drain>,
}

/// Both ends of a connection whose bytes have arrived when they are written. Those of TCP may be on their way for a moment, in which the
/// clock of these tests would go on to the next timer.
fn pair() -> (TcpStream, TcpStream) {
    let (one, other) = UnixStream::pair().unwrap();
    let stream = |end: UnixStream| {
        end.set_nonblocking(true).unwrap();
        TcpStream::from_std(StdStream::from(OwnedFd::from(end))).unwrap()
    };
    (stream(one), stream(other))
}

impl Served {
    fn new() -> Self {
        let (client, accepted) = pair();
        // Who connects to the broadcast address is refused at once.
        let (context, _) = ConnectionContext::to_address(([255; 4], 1).into(), 1);
        let drain = Arc::clone(&context.drain);
        let context = Rc::new(context);
        let io = Prefixed::new(bytes::Bytes::new(), accepted);
        tokio::task::spawn_local(serve(Rc::clone(&context), io, drain.watch(), Rc::default()));
        Self { client, context, drain }
    }

    async fn say(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer, with its body.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(answer).unwrap();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.client.read_exact(&mut body).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// Whether there is a codec: it holds the context too.
    fn has_codec(&self) -> bool {
        Rc::strong_count(&self.context) > 2
    }

    async fn until_idle(&self) {
        let began = Instant::now();
        while self.has_codec() {
            assert!(began.elapsed() < 4 * CHECK_INTERVAL, "the codec is still there");
            tokio::time::sleep(CHECK_INTERVAL / 10).await;
        }
    }

    fn refused(&self) -> u64 {
        self.context.reporter.metrics.refused_count(Direction::Outbound, Reason::BadRequest)
    }
}

async fn run(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_no_codec_and_serves_again() {
    run(async {
        let mut served = Served::new();
        for _ in 0..3 {
            served.say(GET).await;
            assert!(served.answer().await.starts_with("HTTP/1.1 503"));
            assert!(served.has_codec());
            served.until_idle().await;
            // However long it is idle.
            tokio::time::sleep(100 * HEAD_DEADLINE).await;
            assert!(!served.has_codec());
        }
        // Two at once, and the beginning of a third that comes later.
        served.say(&GET.repeat(2)).await;
        served.say(&GET[..9]).await;
        assert!(served.answer().await.starts_with("HTTP/1.1 503"));
        assert!(served.answer().await.starts_with("HTTP/1.1 503"));
        served.until_idle().await;
        served.say(&GET[9..20]).await;
        tokio::time::sleep(5 * CHECK_INTERVAL).await;
        served.say(&GET[20..]).await;
        assert!(served.answer().await.starts_with("HTTP/1.1 503"));
        served.until_idle().await;
        served.drain.advance(Phase::Draining);
        assert_eq!(served.client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(served.refused(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_idle_ends_its_connection() {
    run(async {
        let mut served = Served::new();
        served.say(GET).await;
        served.answer().await;
        served.until_idle().await;
        served.client.shutdown().await.unwrap();
        assert_eq!(served.client.read(&mut [0; 1]).await.unwrap(), 0);
        while Rc::strong_count(&served.context) > 1 {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_answered_and_counted() {
    run(async {
        // In pieces and in one piece, at first and later.
        for (pause, before) in [(1, 0), (1, 2), (3, 1), (40, 0), (40, 1)] {
            let mut served = Served::new();
            for _ in 0..before {
                served.say(GET).await;
                served.answer().await;
                tokio::time::sleep(HEAD_DEADLINE * 2).await;
            }
            let began = Instant::now();
            served.say("GET / HTTP/1.1\r\nX: ").await;
            let mut first = [0];
            loop {
                let next = tokio::time::timeout(pause * CHECK_INTERVAL, served.client.read_exact(&mut first));
                if next.await.is_ok_and(|read| read.is_ok()) {
                    break;
                }
                assert!(began.elapsed() < 2 * HEAD_DEADLINE, "nothing happened");
                served.say("x").await;
            }
            let took = began.elapsed();
            assert!(took >= HEAD_DEADLINE && took < HEAD_DEADLINE + 4 * CHECK_INTERVAL, "{pause} {before}: {took:?}");
            let answer = served.answer().await;
            assert!(answer.starts_with("TTP/1.1 408"), "{answer}");
            assert!(answer.contains("bowline-reason: bad-request\r\n") && answer.contains("30 s"), "{answer}");
            assert_eq!(served.refused(), 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_is_never_taken_for_a_request() {
    run(async {
        let mut served = Served::new();
        served.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegin").await;
        assert!(served.answer().await.starts_with("HTTP/1.1 503"));
        let _ = served.client.write_all(GET.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = served.client.read_to_end(&mut rest).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_codec_refuses_by_itself_is_counted_and_says_why() {
    run(async {
        let many: String = (0..MAX_HEADERS + 1).map(|n| format!("x-{n}: y\r\n")).collect();
        let refused = [
            ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), "400 Bad Request"),
            (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431 Request Header Fields Too Large"),
        ];
        for (head, status) in refused {
            // As the first request, after one that has its answer, and right behind one that has none yet.
            for (before, together) in [(0, false), (1, false), (2, false), (1, true)] {
                let mut served = Served::new();
                if together {
                    served.say(&(GET.to_owned() + &head)).await;
                    assert!(served.answer().await.starts_with("HTTP/1.1 503"));
                } else {
                    for _ in 0..before {
                        served.say(GET).await;
                        assert!(served.answer().await.starts_with("HTTP/1.1 503"));
                    }
                    served.say(&head).await;
                }
                let mut rest = String::new();
                served.client.read_to_string(&mut rest).await.unwrap();
                let (head, body) = rest.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\nconnection: close\r\n")), "{rest}");
                assert!(head.contains("\r\nbowline-reason: bad-request\r\n"), "{before} {together}: {rest}");
                assert!(head.ends_with(&format!("content-length: {}", body.len())), "{rest}");
                assert!(body.starts_with("bowline: bad-request: "), "{rest}");
                while served.refused() == 0 {
                    yield_now().await;
                }
                assert_eq!(served.refused(), 1);
            }
        }
    })
    .await;
}
