use std::{convert::Infallible, sync::Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::*;

/// One probe, with more time than any machine needs.
fn one(id: &str, action: ProbeAction) -> Probes {
    one_within(60, id, action)
}

fn one_within(timeout_seconds: u32, id: &str, action: ProbeAction) -> Probes {
    let probe = Probe { id: id.into(), action, timeout_seconds };
    Probes::new(vec![probe], IpAddr::from([127, 0, 0, 1]), Arc::default())
}

fn get(port: u16, path: &str) -> ProbeAction {
    let headers = vec![("Host".into(), "app.test".into()), ("X-Probe".into(), "1".into())];
    ProbeAction::HttpGet { host: None, port, path: path.into(), https: false, headers }
}

/// An application that answers by path and remembers what it was asked.
async fn app() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(crate::admin::server::serve(
        listener,
        crate::admin::server::KeepAlive::Enabled,
        move |request: Request<_>| {
            let header = |name| request.headers().get(name).map_or("-", |v| v.to_str().unwrap()).to_owned();
            seen.lock().unwrap().push(format!(
                "{} {} {} {}",
                request.uri(),
                header("host"),
                header("x-probe"),
                header("user-agent")
            ));
            let path = request.uri().path().to_owned();
            async move {
                let redirect = |to: &str| {
                    let mut response = text(StatusCode::FOUND, "");
                    response.headers_mut().insert("location", to.parse().unwrap());
                    response
                };
                match path.as_str() {
                    "/ok" => text(StatusCode::OK, "fine"),
                    "/304" => text(StatusCode::NOT_MODIFIED, ""),
                    "/near" => redirect("/ok"),
                    "/nearbad" => redirect("/500"),
                    "/far" => redirect("http://elsewhere.test/500"),
                    "/loop" => redirect("/loop"),
                    "/slow" => std::future::pending().await,
                    _ => text(StatusCode::INTERNAL_SERVER_ERROR, "broken"),
                }
            }
        },
    ));
    (port, asked)
}

async fn ask(probes: &Probes, id: &str) -> (u16, String) {
    let answer = probes.answer(&format!("/probe/{id}")).await;
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn http_probes_mean_what_they_mean_to_the_kubelet() {
    let (port, asked) = app().await;
    for (path, expected) in
        [("/ok", 200), ("/304", 200), ("/500", 503), ("/near", 200), ("/nearbad", 503), ("/far", 200), ("/loop", 503)]
    {
        let (status, why) = ask(&one("web/liveness", get(port, path)), "web/liveness").await;
        assert_eq!(status, expected, "{path}: {why}");
    }
    assert_eq!(asked.lock().unwrap()[0], "/ok app.test 1 kube-probe/1.36");
    let (status, why) = ask(&one("web/preStop", get(port, "/500")), "web/preStop").await;
    assert_eq!(status, 200, "a hook only has to be answered: {why}");
}

#[tokio::test]
async fn a_late_answer_is_a_failure_that_says_so() {
    let (port, _) = app().await;
    let probes = one_within(1, "web/liveness", get(port, "/slow"));
    let (status, why) = ask(&probes, "web/liveness").await;
    assert_eq!((status, why.as_str()), (503, "no answer within 1 s\n"));
    assert_eq!(probes.counts.failed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_foreign_id_is_not_found() {
    let probes = one("web/liveness", get(1, "/"));
    for id in ["web/readiness", "", "../web/liveness"] {
        assert_eq!(ask(&probes, id).await.0, 404, "{id}");
    }
    let keyed = one("0123abcd/web/preStop", get(1, "/"));
    for id in ["web/preStop", "/web/preStop", "0123abce/web/preStop"] {
        assert_eq!(ask(&keyed, id).await.0, 404, "{id}");
    }
    assert_eq!((name("0123abcd/web/preStop"), name("web/preStop")), ("web/preStop", "web/preStop"));
    assert_eq!(probes.answer("/").await.status(), 404);
}

#[tokio::test]
async fn tcp_probes_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = one("db/readiness", ProbeAction::TcpSocket { host: None, port });
    assert_eq!(ask(&probes, "db/readiness").await.0, 200);
    drop(listener);
    let (status, why) = ask(&probes, "db/readiness").await;
    assert_eq!(status, 503);
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test]
async fn https_probes_take_any_certificate() {
    let cert = rcgen::generate_simple_self_signed(vec!["whatever.test".into()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key.into())
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        let service = service_fn(|_| async { Ok::<_, Infallible>(text(StatusCode::OK, "fine")) });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
    let action = ProbeAction::HttpGet { host: None, port, path: "/".into(), https: true, headers: vec![] };
    let (status, why) = ask(&one("web/startup", action), "web/startup").await;
    assert_eq!(status, 200, "{why}");
}

async fn grpc_app(status: i32, code: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status as u8]);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    port
}

#[tokio::test]
async fn grpc_probes_ask_the_health_service() {
    for (status, code, expected) in [(1, "0", 200), (2, "0", 503), (1, "5", 503), (1, "12", 503)] {
        let port = grpc_app(status, code).await;
        let probes = one("api/liveness", ProbeAction::Grpc { port, service: String::new() });
        let (answer, why) = ask(&probes, "api/liveness").await;
        assert_eq!(answer, expected, "{status} {code}: {why}");
    }
}

#[test]
fn locations_are_followed_within_the_host() {
    use http_get::{ProbeUrl, Redirect, follow};
    let from = ProbeUrl { https: false, host: "10.0.0.1".into(), port: 8080, path: "/a".into() };
    let to = |https, port, path: &str| {
        Redirect::Follow(ProbeUrl { https, host: "10.0.0.1".into(), port, path: path.into() })
    };
    assert_eq!(follow(&from, "/b?c=d"), to(false, 8080, "/b?c=d"));
    assert_eq!(follow(&from, "https://10.0.0.1:8443/b"), to(true, 8443, "/b"));
    assert_eq!(follow(&from, "http://10.0.0.1"), to(false, 80, "/"));
    assert_eq!(follow(&from, "http://10.0.0.2/b"), Redirect::Elsewhere);
    assert_eq!(follow(&from, "ftp://10.0.0.1/b"), Redirect::Invalid);
}
