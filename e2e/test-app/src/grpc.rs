//! The gRPC server: every kind of call, errors, trailers, and health checking.

pub(crate) mod client;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap, transport::Server};

use crate::{
    health::Health,
    pod::pod,
    proto::{
        health::{
            HealthCheckRequest, HealthCheckResponse,
            health_check_response::ServingStatus,
            health_server::{Health as HealthService, HealthServer},
        },
        test::{
            Count, Failure, Message,
            echo_server::{Echo, EchoServer},
        },
    },
};

type Answers = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

/// Serves on a listener in the background.
pub(crate) fn serve(listener: TcpListener, health: Arc<Health>) {
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = Server::builder()
        .add_service(EchoServer::new(EchoService))
        .add_service(HealthServer::new(Checks(health)))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
}

struct EchoService;

/// Repeats metadata that begins with `x-`.
fn repeat(from: &MetadataMap, to: &mut MetadataMap) {
    for (name, value) in from.as_ref() {
        if let (true, Ok(value)) = (name.as_str().starts_with("x-"), value.to_str())
            && let (Ok(name), Ok(value)) =
                (tonic::metadata::MetadataKey::from_bytes(name.as_str().as_bytes()), value.parse())
        {
            to.insert(name, value);
        }
    }
}

fn answer(sequence: u64, text: String) -> Message {
    Message { sequence, text, pod: pod() }
}

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let (metadata, _, message) = request.into_parts();
        let mut response = Response::new(answer(message.sequence, message.text));
        repeat(&metadata, response.metadata_mut());
        Ok(response)
    }

    type StreamStream = Answers;

    async fn stream(&self, request: Request<Count>) -> Result<Response<Answers>, Status> {
        let Count { count, interval_ms } = request.into_inner();
        let answers = stream::iter(0..count).then(move |i| async move {
            if i > 0 {
                tokio::time::sleep(Duration::from_millis(interval_ms)).await;
            }
            Ok(answer(i, String::new()))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn collect(&self, request: Request<Streaming<Message>>) -> Result<Response<Message>, Status> {
        let (mut count, mut text, mut messages) = (0, String::new(), request.into_inner());
        while let Some(message) = messages.message().await? {
            count += 1;
            text.push_str(&message.text);
        }
        Ok(Response::new(answer(count, text)))
    }

    type ChatStream = Answers;

    async fn chat(&self, request: Request<Streaming<Message>>) -> Result<Response<Answers>, Status> {
        let answers = request.into_inner().map(|m| m.map(|m| answer(m.sequence, m.text)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fail(&self, request: Request<Failure>) -> Result<Response<Message>, Status> {
        let (metadata, _, failure) = request.into_parts();
        let mut trailers = MetadataMap::new();
        repeat(&metadata, &mut trailers);
        Err(Status::with_metadata(Code::from_i32(failure.code), failure.message, trailers))
    }
}

struct Checks(Arc<Health>);

#[tonic::async_trait]
impl HealthService for Checks {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() && service != "bowline.test.v1.Echo" {
            return Err(Status::not_found(format!("service {service:?} is not served here")));
        }
        let status = if self.0.is_healthy("grpc") { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}
